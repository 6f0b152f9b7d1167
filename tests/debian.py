"""
Programs of Debian or a derivative, which apt downloads and which we unpack into the user's cache folder, once. This
needs neither root nor manual steps.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from pipeline_processing.embedded.kafka_jars import cache_folder, locked

_NEVER = {"libc6", "libc-bin", "libgcc-s1", "libstdc++6"}
"""What the loader of this machine brings along. Another version of it would crash."""


class PackageMissing(pytest.skip.Exception):  # type: ignore[misc, name-defined]  # pytest's own is a variable
    """
    The package isn't available on this machine. The message says why. The test is skipped, as other systems than
    Debian's don't have it; in CI, a skip fails.
    """


def unpacked(package: str) -> Path:
    """
    Return the folder with a package and all that it needs but this machine lacks, as if it were `/`.

    Several processes may call this at once: one downloads, the others wait. Raises PackageMissing.
    """
    folder = cache_folder().with_name(package)
    try:
        with locked(folder):
            if not folder.exists():
                _unpack_into(folder, package)
    except OSError as error:
        raise PackageMissing(f"{package} can't be stored in {folder}: {error}. Set XDG_CACHE_HOME.") from error
    return folder


def library_path(root: Path) -> str:
    """Return the folders with the libraries of an unpacked package, for `LD_LIBRARY_PATH`."""
    libraries = {
        found.parent for pattern in ("lib", "usr/lib") for found in (root / pattern).glob("*-linux-gnu*/**/*.so*")
    }
    return ":".join(sorted(map(str, libraries), key=len))


def _unpack_into(folder: Path, package: str) -> None:
    if not all(map(shutil.which, ("apt-get", "dpkg-deb"))):
        raise PackageMissing(f"{package} isn't installed, and can only be downloaded on Debian and its derivatives.")
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        scratch = Path(name)
        try:
            _download(scratch, package, options=())
        except PackageMissing:  # missing or outdated package lists; ours can be updated without root
            options = _own_package_lists(scratch)
            subprocess.run(["apt-get", *options, "update"], capture_output=True, check=False)
            _download(scratch, package, options=options)
        for archive in scratch.glob("*.deb"):
            _run(["dpkg-deb", "--extract", str(archive), str(scratch / "complete")], package, cwd=scratch)
        (scratch / "complete").rename(folder)


def _download(scratch: Path, package: str, *, options: Sequence[str]) -> None:
    install = ["apt-get", *options, "--simulate", "--no-install-recommends", "install", package]
    steps = [line.split() for line in _run(install, package, cwd=scratch).splitlines()]
    missing = {words[1] for words in steps if words[:1] == ["Inst"]} - _NEVER
    _run(["apt-get", *options, "download", *sorted(missing | {package})], package, cwd=scratch)


def _own_package_lists(scratch: Path) -> Sequence[str]:
    (scratch / "lists" / "partial").mkdir(parents=True)
    folders = {"Dir::State::lists": scratch / "lists", "Dir::Cache": scratch / "cache"}
    return [word for name, folder in folders.items() for word in ("-o", f"{name}={folder}")]


def _run(command: Collection[str], package: str, *, cwd: Path) -> str:
    done = subprocess.run([*command], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        (program, *_) = command
        raise PackageMissing(f"{package} can't be downloaded: {program} says {done.stderr.strip()}")
    return done.stdout
