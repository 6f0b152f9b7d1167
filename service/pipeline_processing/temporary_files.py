"""Temporary files, for what must not be held in memory. They are without a name once they are open."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pipeline_processing.errors import PipelineError, SettingsError, TransientError

_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR)
_PREFIX = "pipeline-processing-"


def check_temporary_files() -> None:
    """Make one. Raises SettingsError where that can't be done, and TransientError where there is no room just now."""
    with translated(), tempfile.TemporaryFile(prefix=_PREFIX) as file:
        file.write(b"x")
        file.flush()


@contextmanager
def temporary_path() -> Iterator[str]:
    """The path of an empty file, to be opened inside the block: the name is gone after it. Raises OSError."""
    handle, path = tempfile.mkstemp(prefix=_PREFIX)
    os.close(handle)
    try:
        yield path
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)


@contextmanager
def translated() -> Iterator[None]:
    """Turn an OSError of the block, which works with a temporary file, into a PipelineError."""
    try:
        yield
    except OSError as error:
        raise unusable(error.strerror or str(error), writable=error.errno not in _NOT_WRITABLE) from error


def unusable(cause: str, *, writable: bool) -> PipelineError:
    """What it means that a temporary file can't be made, or, where it is `writable`, can't be written just now."""
    if not writable:
        return SettingsError(
            f"Can't make a temporary file: {cause}. Let this service's user write to /tmp, or to the folder that "
            "TMPDIR names. In a container whose root is read-only, mount a tmpfs or a volume there."
        )
    return TransientError(
        f"Can't write a temporary file: {cause}. It is tried again; if it stays so, make room in "
        f"{tempfile.gettempdir()}, or set TMPDIR to a folder with more."
    )
