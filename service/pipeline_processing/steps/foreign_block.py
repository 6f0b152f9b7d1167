"""What follows from errors of user code that opens or closes something for a step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from pipeline_processing.errors import StepFailed
from pipeline_processing.user_code import user_code

log = structlog.get_logger(__name__)


def failing(name: str, when: str) -> Callable[[str], StepFailed]:
    """For `user_code`: the step's failure, from a description of what it raised."""
    return lambda what: StepFailed(f"{name} raised {what} {when}. Mend it, then replay the run.")


@contextmanager
def closing(name: str, error: BaseException | None) -> Iterator[None]:
    """A block that closes a step. `error` is what has ended its use: trouble in closing doesn't hide it."""
    try:
        with user_code(failing(name, "when it was closed")):
            yield
    except Exception as trouble:
        if error is None:
            raise
        if trouble is not error and trouble.__cause__ is not error:
            log.warning("a step failed to close what it had opened", step=name, error=str(trouble))
