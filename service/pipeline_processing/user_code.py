"""
Contain errors of user code, so that they fail the step but never end the event loop or the process.

SystemExit and KeyboardInterrupt are dangerous inside an asyncio task: they propagate out of the event loop, past
everything that awaits the task.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from pipeline_processing.errors import PipelineError, StepFailed
from pipeline_processing.log import get_logger
from pipeline_processing.signals import Interrupted, Terminated

log = get_logger(__name__)

T = TypeVar("T")

_MESSAGE_CHARACTERS = 500


class NoException(RuntimeError):
    """Replaces a BaseException that isn't an Exception: SystemExit, KeyboardInterrupt, CancelledError, …"""


def described(error: BaseException) -> str:
    """Describe an error of user code, shortened, such as `ValueError: no such street`."""
    try:
        message = str(error)
    except BaseException:  # `__str__` is user code, too
        message = ""
    if len(message) > _MESSAGE_CHARACTERS:
        message = message[:_MESSAGE_CHARACTERS] + "…"
    if isinstance(error, NoException):
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def is_for_us(error: BaseException) -> bool:
    """Return whether an error raised by user code is meant for this process or task and must propagate."""
    if isinstance(error, asyncio.CancelledError):
        return asked_to_stop()
    if isinstance(error, GeneratorExit):  # an abandoned coroutine is closed outside of any task
        return _task() is None
    return isinstance(error, Interrupted | Terminated)


def asked_to_stop() -> bool:
    """Return whether the current task is being cancelled."""
    task = _task()
    return task is not None and task.cancelling() > 0


def _task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        return None


def harmless(error: BaseException) -> Exception:
    """Convert an error to an Exception that a future can hold and that ends no event loop or task."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    made = (RuntimeError if isinstance(error, Exception) else NoException)(described(error))
    made.__cause__ = error
    return made


async def contained(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of work that runs user code. Errors that could end the event loop become NoException."""
    try:
        return await work
    except Exception:
        raise
    except BaseException as error:
        if is_for_us(error):
            raise
        raise harmless(error) from error


@contextmanager
def user_code(failure: Callable[[str], Exception]) -> Iterator[None]:
    """
    Run user code in a block, and turn its errors into `failure(description)`. PipelineErrors propagate unchanged, and
    so do errors meant for this process or task.
    """
    try:
        yield
    except PipelineError:
        raise
    except BaseException as error:
        if is_for_us(error):
            raise
        raise failure(described(error)) from error


def failing(name: str, when: str) -> Callable[[str], StepFailed]:
    """Return a `failure` for `user_code` that makes a StepFailed."""
    return lambda what: StepFailed(f"{name} raised {what} {when}. Correct it, then replay the run.")


@contextmanager
def closing(name: str, error: BaseException | None) -> Iterator[None]:
    """Close a step in a block. If `error` ended its use, an error in the block is only logged."""
    try:
        with user_code(failing(name, "when it was closed")):
            yield
    except Exception as trouble:
        if error is None:
            raise
        if trouble is not error and trouble.__cause__ is not error:
            log.warning("closing a step failed", step=name, error=str(trouble))
