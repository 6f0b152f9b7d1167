"""Temporary files for data that doesn't fit into memory. They are unlinked once they are open."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pipeline_processing.errors import PipelineError, SettingsError, TransientError

_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR)
_PREFIX = "pipeline-processing-"


def check_temporary_files() -> None:
    """Write a temporary file. Raises SettingsError if none can be made, TransientError if there is no room."""
    with translated(), tempfile.TemporaryFile(prefix=_PREFIX) as file:
        file.write(b"x")
        file.flush()


@contextmanager
def temporary_path() -> Iterator[str]:
    """Yield the path of an empty file. Open it inside the block, which then unlinks it. Raises OSError."""
    handle, path = tempfile.mkstemp(prefix=_PREFIX)
    os.close(handle)
    try:
        yield path
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)


@contextmanager
def translated() -> Iterator[None]:
    """Turn an OSError from a temporary file into a PipelineError."""
    try:
        yield
    except OSError as error:
        raise unusable(error.strerror or str(error), writable=error.errno not in _NOT_WRITABLE) from error


def unusable(cause: str, *, writable: bool) -> PipelineError:
    """Return the error for a temporary file that can't be made or, if `writable`, can't be written now."""
    if not writable:
        return SettingsError(
            f"Can't make a temporary file: {cause}. Let this service's user write to /tmp, or to the folder that "
            "TMPDIR names. In a container whose root is read-only, mount a tmpfs or a volume there."
        )
    return TransientError(
        f"Can't write a temporary file: {cause}. If this persists, free space in {tempfile.gettempdir()}, or set "
        "TMPDIR to a folder with more space."
    )
