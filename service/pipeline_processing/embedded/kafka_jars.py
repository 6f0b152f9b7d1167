"""
The jars of Apache Kafka: fetched from Maven Central once, by the wheel `jgo`, into the user's cache folder.

Which jars, and their checksums, stand in kafka_jars.yaml, as those of the wheels do in requirements.lock. To write
it for another version, change KAFKA_VERSION and call

    python -m pipeline_processing.embedded.kafka_jars
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import yaml

from pipeline_processing.embedded.process import EmbeddedServerError
from pipeline_processing.embedded.server import not_installed

if TYPE_CHECKING:
    from jgo.maven import MavenContext

KAFKA_VERSION = "4.4.0"

Say = Callable[[str], None]
Fetch = Callable[[str, Path], Path]
"""Fetches the jar of a coordinate `group:artifact:version` to somewhere below a folder, and gives its path."""

_CHECKSUMS = Path(__file__).with_suffix(".yaml")
_AT_ONCE = 8


class KafkaJars:
    """The jars, in the first of some folders that has them or, if none has, that can be written to."""

    def __init__(
        self,
        *,
        folders: Sequence[Path] | None = None,
        checksums: Mapping[str, str] | None = None,
        fetch: Fetch | None = None,
    ) -> None:
        """`checksums` is coordinate → SHA-256."""
        self._folders = cache_folders() if folders is None else folders
        self._checksums: Mapping[str, str] = (
            yaml.safe_load(_CHECKSUMS.read_text("utf-8")) if checksums is None else checksums
        )
        self._fetch = fetch

    def paths(self, say: Say = lambda _: None) -> list[Path]:
        """
        Fetch them if they aren't there, or aren't as they should be, and give their paths.

        `say` is told before that. Several processes may call it at once: one fetches, the others wait for it.
        Raises EmbeddedServerError.
        """
        for folder in self._folders:
            if self._are_in(folder):
                return self._in(folder)
        for folder in self._folders:
            if (lock := lock_for(folder)) is not None:
                with lock:
                    if not self._are_in(folder):  # nobody has fetched them while we waited
                        self._fetch_into(folder, say)
                return self._in(folder)
        raise EmbeddedServerError(
            f"Apache Kafka {KAFKA_VERSION} has to be fetched, and there is nowhere to keep it: "
            f"{' and '.join(str(folder.parent) for folder in self._folders)} can't be written to. "
            "Set XDG_CACHE_HOME to a folder that can."
        )

    def _in(self, folder: Path) -> list[Path]:
        return [folder / _file_name(coordinate) for coordinate in self._checksums]

    def _are_in(self, folder: Path) -> bool:
        try:
            return _is_ours(folder) and [*map(_checksum, self._in(folder))] == [*self._checksums.values()]  # 0.1 s
        except OSError:
            return False

    def _fetch_into(self, folder: Path, say: Say) -> None:
        say(f"Fetching Apache Kafka {KAFKA_VERSION} into {folder}, once: {len(self._checksums)} jars, 45 MB.")
        fetch = self._fetch or _from_maven_central
        scratch = folder.with_name(f"{folder.name}.partial")
        try:
            shutil.rmtree(scratch, ignore_errors=True)  # of somebody who died here
            complete = scratch / "complete"
            complete.mkdir(parents=True)
            fetched = _all_at_once(lambda coordinate: fetch(coordinate, scratch), self._checksums)
            for jar, (coordinate, checksum) in zip(fetched, self._checksums.items(), strict=True):
                if _checksum(jar) != checksum:
                    raise RuntimeError(f"{coordinate} has another checksum than {_CHECKSUMS.name} says")
                jar.rename(complete / _file_name(coordinate))
            shutil.rmtree(folder, ignore_errors=True)  # it was damaged
            complete.rename(folder)
        except (OSError, RuntimeError) as error:  # OSErrors are also those of requests, RuntimeErrors those of jgo
            raise EmbeddedServerError(
                f"Apache Kafka {KAFKA_VERSION} can't be fetched: {error}. It comes from Maven Central, once: let this "
                f"machine reach it (HTTPS_PROXY is heeded), or copy {folder} from a machine that has it."
            ) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def cache_folders() -> list[Path]:
    """Where the jars may lie: in the user's cache folder or, if need be, in a temporary folder of the user's."""
    folders = []
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    with contextlib.suppress(RuntimeError):  # there are users without a home
        # A relative path is to be ignored, says the XDG specification.
        folders.append((cache if cache.is_absolute() else Path.home() / ".cache") / "pipeline-processing")
    folders.append(Path(tempfile.gettempdir()) / f"pipeline-processing-cache-{os.geteuid()}")
    return [folder / f"kafka-{KAFKA_VERSION}" for folder in folders]


def lock_for(folder: Path) -> TextIO | None:
    """A lock held until it is closed, waited for if need be; None if what is beside the folder isn't ours to change."""
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(folder.parent):
            return None
        lock = folder.with_name(f"{folder.name}.lock").open("w")
    except OSError:
        return None
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _is_ours(folder: Path) -> bool:
    # In /tmp somebody else may have made it: what lies there could be replaced after we have looked at it.
    return folder.lstat().st_uid in (0, os.geteuid())


def _all_at_once(fetch: Callable[[str], Path], coordinates: Mapping[str, str]) -> list[Path]:
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        return list(pool.map(fetch, coordinates))
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, or Ctrl-C, don't begin another


def _checksum(jar: Path) -> str:
    with jar.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_name(coordinate: str) -> str:
    _, artifact, version = coordinate.split(":")
    return f"{artifact}-{version}.jar"


# Not by jgo's EnvironmentBuilder: on a machine without Java it downloads a JDK, to sort jars into modules.


def _from_maven_central(coordinate: str, folder: Path) -> Path:
    group, artifact, version = coordinate.split(":")
    return _maven(folder).project(group, artifact).at_version(version).artifact().resolve()


def _maven(folder: Path) -> MavenContext:
    try:
        from jgo.maven import MavenContext, PythonResolver  # it takes long, and is needed only here
    except ImportError:
        raise not_installed("jgo") from None
    return MavenContext(resolver=PythonResolver(), repo_cache=folder)


def _write_checksums() -> None:
    # Without a binding of slf4j the broker would log nothing.
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
