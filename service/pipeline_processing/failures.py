"""An error as history and events tell it."""

from pipeline_processing.errors import PipelineError
from pipeline_processing.masking import mask_text
from pipeline_processing.model import RunFailure


def failure_of(error: PipelineError) -> RunFailure:
    """The error's kind, message and exit code. Secrets in the message are masked: it may quote anybody's exception."""
    return RunFailure(
        kind=error.kind, message=mask_text(str(error)), retryable=error.retryable, exit_code=error.exit_code
    )
