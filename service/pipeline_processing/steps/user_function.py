"""The function of a `python` step: imported, opened, called and closed."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Self

from pipeline_processing.aio.own_thread import OwnThread, StepPlace
from pipeline_processing.errors import InvalidStep, PipelineError
from pipeline_processing.log import get_logger
from pipeline_processing.steps.imported import imported
from pipeline_processing.steps.own_loop import OwnLoop
from pipeline_processing.user_code import NoException, closing, failing, user_code

log = get_logger(__name__)

_STOP_SECONDS = 1.0
"""How long a cancelled call may take to stop before it is abandoned."""


@dataclass(frozen=True, slots=True)
class Raised:
    """The exception that a call raised."""

    error: Exception


class UserFunction:
    """
    The object at `module:name`, which may be:

    - A class, or a function decorated with `contextlib.asynccontextmanager`. It is called without arguments at the
      start of a dataset, and must return an async context manager that yields the function. It is closed at the end of
      the dataset, even if that fails.
    - Any other callable, which is the function itself.

    A plain function runs in its own thread, the same one throughout a dataset. Async code, including that of a context
    manager, runs in one task of an event loop in another thread. So neither blocks the service. If the step is
    cancelled, a function that doesn't stop is abandoned, and its result is dropped.
    """

    def __init__(self, path: str, *, step: str, dataset: str) -> None:
        """Raises InvalidStep."""
        self._path = path
        self._place = StepPlace(step=step, dataset=dataset)
        self._found = imported(path, step=step)
        with user_code(lambda what: InvalidStep(f"Step {step!r} can't use {path}: it raised {what}.")):
            self._opens = inspect.isclass(self._found) or _makes_context(self._found)
            fault = _fault(self._found)
        if fault:
            raise InvalidStep(f"Step {step!r}: {path} is {fault}.")
        self._function: Callable[[Any], Any] = self._found
        self._is_async = False
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        # Both share a context, so that calls see the variables set while opening.
        context = copy_context()
        self._thread, self._loop = OwnThread(self._place, context), OwnLoop(self._place, context)
        if self._opens:
            try:
                await self._open()
            except BaseException as error:
                with closing(self._path, error):
                    await self._close(None, None, None)
                raise
        function = self._function
        self._is_async = any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))
        return self

    async def __aexit__(self, *error: Any) -> None:
        with closing(self._path, error[1]):
            await self._close(*error)

    async def __call__(self, given: Any) -> Any:
        """Call the function with rows, or columns. Raises what it raises."""
        if self._is_async:
            return await self._loop.run(self._function, given)
        returned = await self._thread.run(self._function, given)
        # A decorator may hide that the function is async.
        return await self._loop.run(_awaited, returned) if inspect.isawaitable(returned) else returned

    async def one_by_one(self, batches: Sequence[Any]) -> list[Any | Raised]:
        """Return what the function returns or raises for each batch. Raises the service's errors and NoException."""
        outcomes: list[Any | Raised] = []
        for each in batches:
            try:
                outcomes.append(await self(each))
            except (PipelineError, NoException):
                raise
            except Exception as error:
                outcomes.append(Raised(error))
        return outcomes

    async def _open(self) -> None:
        async def enter() -> Any:
            return await self._stack.enter_async_context(self._found())

        with user_code(failing(self._path, "when it was opened")):
            function = await self._loop.run(enter)
        if not callable(function):
            raise InvalidStep(
                f"{self._path} was opened and gave a {type(function).__name__}. Make its `__aenter__` return the "
                "function to be called, or itself if it has `__call__`."
            )
        self._function = function

    async def _close(self, *error: Any) -> None:
        """Close the context manager, and end the threads after their current calls."""
        self._thread.close()
        if not await self._loop.close(self._stack.__aexit__, *error, stop_seconds=_STOP_SECONDS):
            log.warning("a step doesn't stop; it is abandoned", dataset=self._place.dataset, step=self._place.step)


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def _makes_context(found: Any) -> bool:
    """Return whether it is decorated with `contextlib.asynccontextmanager`."""
    return not inspect.isasyncgenfunction(found) and inspect.isasyncgenfunction(inspect.unwrap(found))


def _fault(found: Any) -> str | None:
    if inspect.isclass(found):
        return None if hasattr(found, "__aenter__") else "a class without `__aenter__`, not a function"
    if hasattr(found, "__aenter__"):
        return "an instance, which all datasets would share: name its class, so that every dataset opens its own"
    if inspect.isasyncgenfunction(found):
        return "an async generator: return a list, or decorate it with contextlib.asynccontextmanager"
    return None if callable(found) else f"a {type(found).__name__}, not a function"
