"""Time that only passes when every task waits, and then jumps to the next timer: hours in milliseconds."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec

P = ParamSpec("P")

EPOCH = datetime(2026, 1, 18, 12, tzinfo=UTC)


class VirtualLoop(asyncio.SelectorEventLoop):
    """
    An event loop in virtual time, which `asyncio.sleep` and `asyncio.timeout` keep as well.

    Nothing in it may wait for the outside. Where nothing at all will ever happen again, it says so.
    """

    def __init__(self) -> None:
        self._elapsed = 0.0
        super().__init__(_JumpingSelector(self._jump))

    def time(self) -> float:
        """Virtual seconds since the start."""
        return self._elapsed

    def _jump(self, seconds: float) -> None:
        self._elapsed += seconds


class VirtualClock:
    """`Clock` of the running virtual loop; it stands at the epoch while none is running."""

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:
            return 0.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class WrongClock(VirtualClock):
    """A machine's clock that is fast by some seconds, or slow."""

    def __init__(self, fast: float) -> None:
        self._fast = timedelta(seconds=fast)

    def now(self) -> datetime:
        return super().now() + self._fast


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Runs an async test in virtual time, and sees that it leaves no task behind."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def alone() -> None:
            await test(*args, **kwargs)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"left behind: {left}"

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(alone())

    return run


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting for so long, it says that so much time has passed."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "a deadlock: every task waits, and no timer is set"
        if timeout == 0:
            return []
        self._jump(timeout)
        return super().select(0)
