"""
Errors of user code: they fail the step, and never end the event loop or the process.

SystemExit and KeyboardInterrupt are dangerous inside an asyncio task: the task raises them out of the event loop, past
everything that waits for it.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import structlog

from pipeline_processing.errors import PipelineError, StepFailed
from pipeline_processing.signals import Interrupted, Terminated

log = structlog.get_logger(__name__)

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
    """Whether an error that came out of user code is meant for this process or task, and has to pass."""
    if isinstance(error, asyncio.CancelledError):
        return asked_to_stop()
    if isinstance(error, GeneratorExit):  # an abandoned coroutine is closed outside of any task
        return _task() is None
    return isinstance(error, Interrupted | Terminated)


def asked_to_stop() -> bool:
    """Whether the current task is being cancelled."""
    task = _task()
    return task is not None and task.cancelling() > 0


def _task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        return None


def harmless(error: BaseException) -> Exception:
    """The error in a form that a future can carry, and that ends no event loop and no task of ours."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    made = (RuntimeError if isinstance(error, Exception) else NoException)(described(error))
    made.__cause__ = error
    return made


async def contained(work: Coroutine[Any, Any, T]) -> T:
    """The result of work that runs user code, in a task of its own. What it raises ends only that task."""
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
    A block that runs user code. What it raises becomes `failure(description)`. The service's own errors pass, and so
    does what is meant for this process or task.
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
    """For `user_code`: the failure of a step, from a description of what it raised."""
    return lambda what: StepFailed(f"{name} raised {what} {when}. Correct it, then replay the run.")


@contextmanager
def closing(name: str, error: BaseException | None) -> Iterator[None]:
    """A block that closes a step. `error` is what has ended its use; an error of the block doesn't hide it."""
    try:
        with user_code(failing(name, "when it was closed")):
            yield
    except Exception as trouble:
        if error is None:
            raise
        if trouble is not error and trouble.__cause__ is not error:
            log.warning("a step failed to close what it had opened", step=name, error=str(trouble))
