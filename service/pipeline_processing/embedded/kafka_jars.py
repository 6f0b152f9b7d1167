"""
The jars of Apache Kafka, which the wheel `jgo` downloads once from Maven Central into the user's cache folder.

kafka_jars.yaml lists the jars and their checksums, as requirements.lock does for wheels. To update it, change
KAFKA_VERSION and run

    python -m pipeline_processing.embedded.kafka_jars
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from pipeline_processing.embedded.process import EmbeddedServerError
from pipeline_processing.embedded.server import not_installed

if TYPE_CHECKING:
    from jgo.maven import MavenContext

KAFKA_VERSION = "4.4.0"

Say = Callable[[str], None]
Fetch = Callable[[str, Path], Path]
"""Downloads the jar of a coordinate `group:artifact:version` to somewhere below a folder, and returns its path."""

_CHECKSUMS = Path(__file__).with_suffix(".yaml")
_PARALLEL_DOWNLOADS = 8


def kafka_jars(
    say: Say = lambda _: None,
    *,
    folder: Path | None = None,
    checksums: Mapping[str, str] | None = None,
    fetch: Fetch | None = None,
) -> list[Path]:
    """
    Return the paths of the jars. If any is missing or damaged, calls `say` and downloads all of them first.

    Several processes may call this at once: one downloads, the others wait. `checksums` maps coordinates to SHA-256.
    Raises EmbeddedServerError if the download fails.
    """
    folder = folder or cache_folder()
    checksums = checksums or yaml.safe_load(_CHECKSUMS.read_text("utf-8"))
    if not _are_intact(folder, checksums):
        try:
            with locked(folder):
                if not _are_intact(folder, checksums):  # another process may have fetched them meanwhile
                    say(f"Fetching Apache Kafka {KAFKA_VERSION} into {folder}, once: {len(checksums)} jars, 45 MB.")
                    _fetch_into(folder, checksums, fetch or _from_maven_central)
        except (OSError, RuntimeError) as error:  # requests raises OSErrors, jgo RuntimeErrors
            raise EmbeddedServerError(
                f"Apache Kafka {KAFKA_VERSION} can't be fetched: {error}. It comes from Maven Central, once: let this "
                f"machine reach it (HTTPS_PROXY is used if set), or copy {folder} from a machine that has it. If that "
                "folder isn't writable, set XDG_CACHE_HOME to one that is."
            ) from error
    return [folder / _file_name(coordinate) for coordinate in checksums]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from creating the same cache folder inside the block. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def cache_folder() -> Path:
    """Return the folder for this version's jars, in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # the XDG specification says to ignore a relative path
        cache = Path(os.path.expanduser("~/.cache"))
    return cache / "pipeline-processing" / f"kafka-{KAFKA_VERSION}"


def _are_intact(folder: Path, checksums: Mapping[str, str]) -> bool:
    try:  # it takes 0.1 s
        return all(_checksum(folder / _file_name(jar)) == checksum for jar, checksum in checksums.items())
    except OSError:
        return False


def _fetch_into(folder: Path, checksums: Mapping[str, str], fetch: Fetch) -> None:
    """Download into a scratch folder, so that `folder` is complete or doesn't exist."""
    scratch = folder.with_name(f"{folder.name}.partial")
    complete = scratch / "complete"
    shutil.rmtree(scratch, ignore_errors=True)  # left by a process that died here
    try:
        complete.mkdir(parents=True)
        pool = ThreadPoolExecutor(_PARALLEL_DOWNLOADS)
        try:
            fetched = list(pool.map(lambda coordinate: fetch(coordinate, scratch), checksums))
        finally:
            pool.shutdown(cancel_futures=True)  # start no others after an error or Ctrl-C
        for jar, (coordinate, checksum) in zip(fetched, checksums.items(), strict=True):
            if _checksum(jar) != checksum:
                raise RuntimeError(f"{coordinate} doesn't have the checksum in {_CHECKSUMS.name}")
            jar.rename(complete / _file_name(coordinate))
        shutil.rmtree(folder, ignore_errors=True)  # it was damaged
        complete.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _checksum(jar: Path) -> str:
    with jar.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_name(coordinate: str) -> str:
    _, artifact, version = coordinate.split(":")
    return f"{artifact}-{version}.jar"


# Not jgo's EnvironmentBuilder: on a machine without Java it downloads a JDK, to sort jars into modules.


def _from_maven_central(coordinate: str, folder: Path) -> Path:
    group, artifact, version = coordinate.split(":")
    return _maven(folder).project(group, artifact).at_version(version).artifact().resolve()


def _maven(folder: Path) -> MavenContext:
    try:
        from jgo.maven import MavenContext, PythonResolver  # slow to import, and needed only here
    except ImportError:
        raise not_installed("jgo") from None
    return MavenContext(resolver=PythonResolver(), repo_cache=folder)


def _write_checksums() -> None:
    # Without an slf4j binding, the broker would log nothing.
    wanted = (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", "org.slf4j:slf4j-simple:1.7.36")
    with tempfile.TemporaryDirectory() as folder:
        maven = _maven(Path(folder))
        given, found = maven.resolver.resolve([maven.create_dependency(coordinate) for coordinate in wanted])
        lines = sorted(
            f"{jar.groupId}:{jar.artifactId}:{jar.version}: {_checksum(jar.artifact.resolve())}\n"
            for jar in (*given, *found)
        )
    header = "# Every jar of the embedded Kafka, and its SHA-256. Written by kafka_jars.py, which says how.\n"
    _CHECKSUMS.write_text(header + "".join(lines), "utf-8")


if __name__ == "__main__":
    _write_checksums()
