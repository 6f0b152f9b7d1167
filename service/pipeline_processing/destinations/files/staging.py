"""
Files that appear whole or not at all.

Bytes are written to a hidden folder in the root, so on the same file system, and linked into place. A hard link fails
if the name is taken, as If-None-Match does in S3. Everything here blocks but `Folder.run`.
"""

import asyncio
import errno
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import ParamSpec, TypeVar
from urllib.parse import quote, unquote

from pipeline_processing.aio.tasks import shielded
from pipeline_processing.destinations.installation import INSTALLATION_KEY
from pipeline_processing.errors import AccessDenied, BucketMissing, DestinationUnavailable, PipelineError, SettingsError

P = ParamSpec("P")
T = TypeVar("T")

STAGING = ".staging"
_LONGEST_NAME = 255
"""In bytes, on every usual file system."""
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
"""The folder plays the part of a bucket. Any other error (ENOSPC, EIO, ESTALE, …) may be over at the next attempt."""

_REMEDIES: Mapping[type[PipelineError], str] = {
    BucketMissing: "Create the folder, or correct PIPELINE_DESTINATION or the job config's `destinations`.",
    AccessDenied: "Let this service's user write there, on a file system that has hard links.",
    SettingsError: "Choose a folder on one file system that has hard links and long names.",
    DestinationUnavailable: "It is tried again; if it stays so, check whether the disk is full or broken.",
}

_REMEDY_OF_LOST = (
    "The folder was there before, so it is tried again; if it stays so, mount its volume or create it, or correct "
    "PIPELINE_DESTINATION or the job config's `destinations`."
)


class Folder:
    """
    A root with a staging folder in it. Raises OSError, and ValueError for a path that leads outside.

    A volume may be unmounted while it is used. Its path then leads to the folder that it was mounted on, which is on
    another file system: nothing may be written there, and nothing follows from what is missing there.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._device: int | None = None

    async def run(self, doing: str, url: str, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Run blocking work in a thread. `doing` is a verb phrase that `url` completes.

        An OSError becomes a PipelineError. A cancellation waits for the thread, which can't be cancelled.
        """
        try:
            return await shielded(asyncio.to_thread(work, *args, **kwargs))
        except OSError as error:
            kind = _KINDS.get(error.errno or 0, DestinationUnavailable)
            remedy = _REMEDIES[kind]
            if kind is BucketMissing and self._device is not None:  # it was there: a volume may come back
                kind, remedy = DestinationUnavailable, _REMEDY_OF_LOST
            raise kind(f"Can't {doing} {url}: {error.strerror or error}. {remedy}") from error

    def require(self) -> None:
        """Raises FileNotFoundError unless the root is there, on the same file system as before."""
        device = _device_of(self.root)
        # A volume that is mounted again may have another number, but it still has its mark.
        if self._device not in (None, device) and not (self.root / INSTALLATION_KEY).is_file():
            raise FileNotFoundError(
                errno.ENOENT,
                "another file system is there now. Is its volume unmounted? If the folder was replaced on purpose, "
                "restart this service",
            )
        self._device = device

    def path(self, key: str) -> Path:
        """Where a key stands."""
        parts = PurePosixPath(key).parts
        if not parts or key.startswith("/") or "\0" in key or any(part in ("..", STAGING) for part in parts):
            raise ValueError(f"{key!r} isn't a key below the destination")
        return self.root.joinpath(*parts)

    def staged(self, name: str) -> Path:
        """Where a staged file stands, by its path relative to the root."""
        parts = PurePosixPath(name).parts
        if len(parts) != 2 or parts[0] != STAGING or parts[1] == ".." or "\0" in name:
            raise ValueError(f"{name!r} isn't a staged file")
        return self.root.joinpath(*parts)

    def uploads(self) -> list[tuple[str, str]]:
        """Keys and names, relative to the root, of the staged files whose names contain a key."""
        try:
            names = sorted(os.listdir(self.root / STAGING))
        except FileNotFoundError:
            return []
        return [(key, f"{STAGING}/{name}") for name in names if name.isascii() and (key := _key_of(name))]

    def prepare(self) -> None:
        """Make the staging folder. Not the root: one that is missing may be a volume that isn't mounted."""
        self.require()
        staging = self.root / STAGING
        if not staging.is_dir():
            staging.mkdir(exist_ok=True)
            sync_folder(self.root)

    def make_parents(self, path: Path) -> None:
        """Make the folders above `path`, durably."""
        missing = [folder for folder in path.parents if folder.is_relative_to(self.root) and not folder.exists()]
        self.require()
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            sync_folder(folder.parent)

    def link(self, staged: Path, path: Path) -> None:
        """Give the staged file its final name, durably. Raises FileExistsError, FileNotFoundError."""
        staged.lstat()  # before folders are made for nothing
        self.make_parents(path)
        os.link(staged, path, follow_symlinks=False)
        sync_folder(path.parent)

    def discard(self, staged: Path) -> None:
        """Remove a staged name; one that is gone is fine."""
        try:
            staged.unlink()
        except FileNotFoundError:
            self.require()
            return
        sync_folder(staged.parent)


def name_of_staged(key: str, *, upload: str) -> str:
    """
    What the staged file of an upload is called, relative to the root. `upload` is unique, and has no dot.

    The name contains the key, so that a file that is found tells what it is for. A key that is too long is left out:
    only the run table finds such a file.
    """
    name = f"{upload}.{quote(key, safe='/=').replace('/', '+')}"
    return f"{STAGING}/{name if len(name) <= _LONGEST_NAME else upload}"


def _key_of(name: str) -> str:
    """The key in a staged file's name; empty if there is none."""
    return unquote(name.partition(".")[2].replace("+", "/"))


def _device_of(folder: Path) -> int:
    return folder.stat().st_dev


def sync_folder(folder: Path) -> None:
    """Make new and removed names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, body: bytes) -> None:
    """A new file with these bytes."""
    with path.open("xb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def has_content(path: Path, *, size: int, sha256: str) -> bool:
    """Whether a file has these bytes."""
    if not path.is_file() or path.stat().st_size != size:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ):
            digest.update(piece)
    return digest.hexdigest() == sha256
