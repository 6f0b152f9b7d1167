"""
Files that appear whole or not at all.

Bytes are written to a hidden folder in the root, so on the same file system, and linked into place: a hard
link fails if the name is taken, which is what If-None-Match is to S3. Everything here blocks.
"""

import errno
import hashlib
import os
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

from pipeline_processing.destinations.installation import INSTALLATION_KEY

STAGING = ".staging"
_LONGEST_NAME = 255
"""In bytes, on every usual file system."""
_READ = 1024 * 1024


class Folder:
    """
    A root with a staging folder in it. Raises OSError, and ValueError for a path that leads outside.

    A volume may be unmounted while it is used. What is at its path then, if anything, is the folder that it was mounted
    on, on another file system: nothing may be written there, and nothing follows from what is missing there.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._device: int | None = None

    @property
    def was_there(self) -> bool:
        """Whether the root has been found."""
        return self._device is not None

    def require(self) -> None:
        """Raises FileNotFoundError unless the root is there, and on the file system where it was at first."""
        device = _device_of(self.root)
        # After it was mounted anew a volume may have another number, but it still has its mark.
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
        """Keys and names, relative to the root, of the staged files that say what they are for."""
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

    The name says the key, so that whoever finds the file can tell whose it is. A key that is too long for that is
    left out: such a file is found by the run table only.
    """
    name = f"{upload}.{quote(key, safe='/=').replace('/', '+')}"
    return f"{STAGING}/{name if len(name) <= _LONGEST_NAME else upload}"


def _key_of(name: str) -> str:
    """The key that a staged file's name says; empty if it says none."""
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
