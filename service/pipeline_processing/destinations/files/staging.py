"""
Files that appear whole or not at all.

Bytes are written to a hidden folder in the root, and so on the same file system, then hard-linked into place. A hard
link fails if the name is taken, like If-None-Match in S3. Everything here blocks, except `Folder.run`.
"""

import asyncio
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import ParamSpec, TypeVar
from urllib.parse import quote, unquote

from pipeline_processing.aio.tasks import shielded
from pipeline_processing.destinations.installation import INSTALLATION_KEY
from pipeline_processing.errors import AccessDenied, BucketMissing, DestinationUnavailable, PipelineError, SettingsError

P = ParamSpec("P")
T = TypeVar("T")

STAGING = ".staging"
_LOCK = "lock"
"""Without a point in its name, it isn't taken for an upload."""
_LONGEST_NAME = 255
"""Bytes; the limit of all common file systems."""
_READ = 1024 * 1024


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
"""The folder corresponds to a bucket. Other errors (ENOSPC, EIO, ESTALE, …) may be gone at the next attempt."""

_REMEDIES: Mapping[type[PipelineError], str] = {
    BucketMissing: "Create the folder, or correct PIPELINE_DESTINATION or the job config's `destinations`.",
    AccessDenied: "Give this service's user write access, and use a file system with hard links.",
    SettingsError: "Use a folder on a single file system that supports hard links and long names.",
    DestinationUnavailable: "This is retried; if it persists, check whether the disk is full or broken.",
}

_REMEDY_OF_LOST = (
    "The folder existed before, so this is retried; if it persists, mount its volume or create it, or correct "
    "PIPELINE_DESTINATION or the job config's `destinations`."
)


class Folder:
    """
    A root folder that contains a staging folder. Methods raise OSError, and ValueError for a path outside the root.

    A volume may be unmounted while in use. The path then leads to its mount point, on another file system. Nothing may
    be written there, and a file that is missing there may still exist on the volume.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._device: int | None = None

    async def run(self, doing: str, url: str, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Run blocking work in a thread. `doing` is a verb phrase that `url` completes.

        Translates OSError to a PipelineError. A cancellation waits for the thread, which can't be cancelled.
        """
        try:
            return await shielded(asyncio.to_thread(work, *args, **kwargs))
        except OSError as error:
            kind = _KINDS.get(error.errno or 0, DestinationUnavailable)
            remedy = _REMEDIES[kind]
            if kind is BucketMissing and self._device is not None:  # it existed before: the volume may come back
                kind, remedy = DestinationUnavailable, _REMEDY_OF_LOST
            raise kind(f"Can't {doing} {url}: {error.strerror or error}. {remedy}") from error

    def require(self) -> None:
        """Raise FileNotFoundError unless the root exists, on the same file system as before."""
        device = _device_of(self.root)
        # A remounted volume may have another device number, but it still has the installation's mark.
        if self._device not in (None, device) and not (self.root / INSTALLATION_KEY).is_file():
            raise FileNotFoundError(
                errno.ENOENT,
                "another file system is there now. Is its volume unmounted? If the folder was replaced on purpose, "
                "restart this service",
            )
        self._device = device

    def path(self, key: str) -> Path:
        """Return the path of a key."""
        parts = PurePosixPath(key).parts
        if not parts or key.startswith("/") or "\0" in key or any(part in ("..", STAGING) for part in parts):
            raise ValueError(f"{key!r} isn't a key below the destination")
        return self.root.joinpath(*parts)

    def staged(self, name: str) -> Path:
        """Return the path of a staged file, given its path relative to the root."""
        parts = PurePosixPath(name).parts
        if len(parts) != 2 or parts[0] != STAGING or parts[1] == ".." or "\0" in name:
            raise ValueError(f"{name!r} isn't a staged file")
        return self.root.joinpath(*parts)

    def uploads(self) -> list[tuple[str, str]]:
        """Return (key, path relative to the root) of each staged file whose name contains a key."""
        try:
            names = sorted(os.listdir(self.root / STAGING))
        except FileNotFoundError:
            return []
        return [(key, f"{STAGING}/{name}") for name in names if name.isascii() and (key := _key_of(name))]

    def prepare(self) -> None:
        """Create the staging folder, but never the root: a missing root may be a volume that isn't mounted."""
        self.require()
        staging = self.root / STAGING
        if not staging.is_dir():
            staging.mkdir(exist_ok=True)
            sync_folder(self.root)

    def make_parents(self, path: Path) -> None:
        """Create the folders above `path`, durably."""
        missing = [folder for folder in path.parents if folder.is_relative_to(self.root) and not folder.exists()]
        self.require()
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            sync_folder(folder.parent)

    def link(self, staged: Path, path: Path) -> None:
        """Link the staged file to its final name, durably. Raises FileExistsError, FileNotFoundError."""
        staged.lstat()  # raises before any folder is created
        self.make_parents(path)
        os.link(staged, path, follow_symlinks=False)
        sync_folder(path.parent)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of blocks like this one, also those on other machines that share the volume."""
        handle = os.open(self.root / STAGING / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def discard(self, staged: Path) -> None:
        """Remove a staged name if it exists."""
        try:
            staged.unlink()
        except FileNotFoundError:
            self.require()
            return
        sync_folder(staged.parent)


def name_of_staged(key: str, *, upload: str) -> str:
    """
    Return the path of an upload's staged file, relative to the root. `upload` is a unique id without dots.

    The name contains the key, so that `gc` can tell what a staged file is for. A key that is too long is left out; such
    a file can only be found through the run table.
    """
    name = f"{upload}.{quote(key, safe='/=').replace('/', '+')}"
    return f"{STAGING}/{name if len(name) <= _LONGEST_NAME else upload}"


def _key_of(name: str) -> str:
    """Return the key in a staged file's name; empty if it has none."""
    return unquote(name.partition(".")[2].replace("+", "/"))


def _device_of(folder: Path) -> int:
    return folder.stat().st_dev


def sync_folder(folder: Path) -> None:
    """Make added and removed names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, body: bytes) -> None:
    """Write a new file. Raises FileExistsError."""
    with path.open("xb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def has_content(path: Path, *, size: int, sha256: str) -> bool:
    """Whether `path` is a file of that size and SHA-256."""
    if not path.is_file() or path.stat().st_size != size:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ):
            digest.update(piece)
    return digest.hexdigest() == sha256
