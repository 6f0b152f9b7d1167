"""An error as history and events tell it."""

from pipeline_processing.errors import PipelineError
from pipeline_processing.model import RunFailure
from pipeline_processing.telemetry.masking import Mask


def failure_of(error: PipelineError, mask: Mask) -> RunFailure:
    """The error's kind, message and exit code. The message is masked: it may quote anybody's exception."""
    return RunFailure(
        kind=error.kind, message=mask.text(str(error)), retryable=error.retryable, exit_code=error.exit_code
    )
