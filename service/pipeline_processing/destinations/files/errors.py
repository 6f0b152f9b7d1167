"""Translation of OSError. The root folder plays the part of a bucket."""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pipeline_processing.destinations.files.staging import Folder
from pipeline_processing.errors import (
    AccessDenied,
    BucketMissing,
    DestinationUnavailable,
    PipelineError,
    SettingsError,
)

_KINDS: Mapping[int, type[PipelineError]] = {
    errno.ENOENT: BucketMissing,
    errno.ENOTDIR: BucketMissing,
    errno.EACCES: AccessDenied,
    errno.EPERM: AccessDenied,
    errno.EROFS: AccessDenied,
    errno.ENAMETOOLONG: SettingsError,
    errno.EMLINK: SettingsError,
    errno.ENOSYS: SettingsError,
    errno.ENOTSUP: SettingsError,
    errno.EXDEV: SettingsError,
    errno.ELOOP: SettingsError,
}
"""Any other (ENOSPC, EDQUOT, EIO, ESTALE, EMFILE, …) may be over at the next attempt."""

_REMEDIES: Mapping[type[PipelineError], str] = {
    BucketMissing: "Create the folder, or correct PIPELINE_DESTINATION or the job config's `destinations`.",
    AccessDenied: "Let this service's user write there, on a file system that has hard links.",
    SettingsError: "Choose a folder on one file system that has hard links and long names.",
    DestinationUnavailable: "It is tried again; if it stays so, see whether the disk is full or broken.",
}


_REMEDY_OF_LOST = (
    "The folder was there before, so it is tried again; if it stays so, mount its volume or create it, or correct "
    "PIPELINE_DESTINATION or the job config's `destinations`."
)


@contextmanager
def translated(*, doing: str, url: str, folder: Folder) -> Iterator[None]:
    """
    Turn an OSError of the block, which works in `folder`, into a PipelineError. `doing` is a verb phrase that `url`
    completes.
    """
    try:
        yield
    except OSError as error:
        kind = _KINDS.get(error.errno or 0, DestinationUnavailable)
        remedy = _REMEDIES[kind]
        if kind is BucketMissing and folder.was_there:  # a volume may come back
            kind, remedy = DestinationUnavailable, _REMEDY_OF_LOST
        raise kind(f"Can't {doing} {url}: {error.strerror or error}. {remedy}") from error
