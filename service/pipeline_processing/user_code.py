"""
What user code raises: it fails the step, and never ends the event loop or the process.

SystemExit and KeyboardInterrupt are dangerous wherever an asyncio task meets them: the task raises them out of the
event loop, past everything that waits for it.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from pipeline_processing.errors import PipelineError
from pipeline_processing.signals import Interrupted, Terminated

T = TypeVar("T")

_MESSAGE_CHARACTERS = 500


class NoException(RuntimeError):
    """Stands for a BaseException of user code that is no Exception: SystemExit, KeyboardInterrupt, CancelledError, …"""


def described(error: BaseException) -> str:
    """`ValueError: no such street`: an error of user code in its own words, shortened."""
    try:
        message = str(error)
    except BaseException:  # its text is user code, too
        message = ""
    if len(message) > _MESSAGE_CHARACTERS:
        message = message[:_MESSAGE_CHARACTERS] + "…"
    if isinstance(error, NoException):
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def is_for_us(error: BaseException) -> bool:
    """Whether an error that came out of user code was meant for this process or task, and has to pass."""
    if isinstance(error, asyncio.CancelledError):
        return asked_to_stop()
    if isinstance(error, GeneratorExit):  # a coroutine that nobody will end is closed outside of any task
        return _task() is None
    return isinstance(error, Interrupted | Terminated)


def asked_to_stop() -> bool:
    """Whether somebody has cancelled the current task."""
    task = _task()
    return task is not None and task.cancelling() > 0


def _task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        return None


def harmless(error: BaseException) -> Exception:
    """An error as a future can carry it, and that ends neither an event loop nor a task of ours."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    made = (RuntimeError if isinstance(error, Exception) else NoException)(described(error))
    made.__cause__ = error
    return made


async def contained(work: Coroutine[Any, Any, T]) -> T:
    """The result of work that runs user code, in a task of its own. Whatever it raises ends nothing but the task."""
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
    A block that runs user code. Whatever it raises becomes `failure(description)`; errors of the service's own pass,
    and so does what was meant for this process or task.
    """
    try:
        yield
    except PipelineError:
        raise
    except BaseException as error:
        if is_for_us(error):
            raise
        raise failure(described(error)) from error
