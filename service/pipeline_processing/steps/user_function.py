"""The function that a `python` step calls: found, opened with what it needs, called, closed."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import structlog

from pipeline_processing.errors import InvalidStep, PipelineError, StepFailed
from pipeline_processing.ports import Rows
from pipeline_processing.steps.imported import imported
from pipeline_processing.steps.own_thread import OwnThread

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Raised:
    """What a call ended with instead of returning."""

    error: Exception


class UserFunction:
    """
    What `module:name` stands for:

    - a class, or a function decorated with `contextlib.asynccontextmanager`: it is called without arguments at the
      start of a dataset and must give an async context manager. What that gives is the function; it is closed at the
      end of the dataset, also of one that fails.
    - anything else that can be called is the function itself.

    An async function runs in the event loop and must not block it. A plain one runs in a thread of its own, always the
    same one during a dataset; where the step is cancelled, it is left alone there and its result dropped.
    """

    def __init__(self, path: str, *, step: str) -> None:
        """Raises InvalidStep."""
        self._path = path
        self._found = imported(path, step=step)
        self._opens = inspect.isclass(self._found) or _makes_context(self._found)
        if fault := _fault(self._found):
            raise InvalidStep(f"Step {step!r}: {path} is {fault}.")
        self._function: Callable[[Rows], Any] = self._found
        self._is_async = False
        self._stack = AsyncExitStack()
        self._thread = OwnThread(step)

    async def __aenter__(self) -> Self:
        if self._opens:
            self._function = await self._opened()
        function = self._function
        self._is_async = any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.close()
        try:
            await self._stack.__aexit__(kind, error, trace)
        except Exception as closing:
            if error is None:
                raise StepFailed(
                    f"{self._path} raised {type(closing).__name__} when it was closed: {closing}. Mend it, then replay "
                    "the run."
                ) from closing
            if closing is not error:
                log.warning("a step failed to close what it had opened", step=self._path, error=repr(closing))

    async def __call__(self, rows: Rows) -> Any:
        """What it returns for these rows, or raises."""
        returned = await self._called(self._function, rows) if self._is_async else await self._in_thread(rows)
        # A decorator may have made a plain function of an async one.
        return await self._called(_awaited, returned) if inspect.isawaitable(returned) else returned

    async def one_by_one(self, batches: Sequence[Rows]) -> list[Any | Raised]:
        """What it returns or raises for each. Raises the service's own errors."""
        outcomes: list[Any | Raised] = []
        for rows in batches:
            try:
                outcomes.append(await self(rows))
            except PipelineError:
                raise
            except Exception as error:
                outcomes.append(Raised(error))
        return outcomes

    async def _in_thread(self, rows: Rows) -> Any:
        return await self._thread.run(self._function, rows)

    async def _called(self, function: Callable[[Any], Any], argument: Any) -> Any:
        try:
            return await function(argument)
        except SystemExit as error:  # it would end the whole service
            raise RuntimeError(f"SystemExit: {error}") from error

    async def _opened(self) -> Callable[[Rows], Any]:
        try:
            function = await self._stack.enter_async_context(self._found())
        except PipelineError:
            raise
        except Exception as error:
            raise StepFailed(
                f"{self._path} raised {type(error).__name__} when it was opened: {error}. Mend it, then replay the run."
            ) from error
        if not callable(function):
            await self._stack.aclose()
            raise InvalidStep(
                f"{self._path} was opened and gave a {type(function).__name__}. Make its `__aenter__` return the "
                "function to be called, or itself if it has `__call__`."
            )
        return function  # type: ignore[no-any-return]  # what it returns is checked at every call


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def _makes_context(found: Any) -> bool:
    """Whether it is decorated with `contextlib.asynccontextmanager`."""
    return not inspect.isasyncgenfunction(found) and inspect.isasyncgenfunction(inspect.unwrap(found))


def _fault(found: Any) -> str | None:
    if inspect.isclass(found):
        return None if hasattr(found, "__aenter__") else "a class without `__aenter__`, not a function"
    if hasattr(found, "__aenter__"):
        return "open for nobody: name its class, so that every dataset opens one of its own"
    if inspect.isasyncgenfunction(found):
        return "an async generator: return a list, or decorate it with contextlib.asynccontextmanager"
    return None if callable(found) else f"a {type(found).__name__}, not a function"
