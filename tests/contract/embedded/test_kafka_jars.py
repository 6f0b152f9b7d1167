"""Kafka's jars are fetched once and whole, by one process, and only what they should be is used."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline_processing.embedded.kafka_jars import KAFKA_VERSION, Say, cache_folder, kafka_jars
from pipeline_processing.embedded.process import EmbeddedServerError
from tests.watching import eventually

_DEADLINE_SECONDS = 20.0

COORDINATES = ("org.example:broker:1.0", "org.example.codecs:codec:2.1", "org.example:log:3")
NAMES = ["broker-1.0.jar", "codec-2.1.jar", "log-3.jar"]
CHECKSUMS = {coordinate: hashlib.sha256(coordinate.encode()).hexdigest() for coordinate in COORDINATES}
"""A jar's content is its coordinate here."""


class Repository:
    """Counts what is fetched from it. `contents` are those of jars that aren't what they should be."""

    def __init__(self, contents: dict[str, str] | None = None) -> None:
        self.fetched: list[str] = []
        self._contents = contents or {}

    def __call__(self, coordinate: str, folder: Path) -> Path:
        self.fetched.append(coordinate)
        jar = folder / "deep" / coordinate.replace(":", "-")
        jar.parent.mkdir(parents=True, exist_ok=True)
        jar.write_text(self._contents.get(coordinate, coordinate))
        return jar


def unreachable(coordinate: str, folder: Path) -> Path:
    raise ConnectionError("no route to host")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "kafka"


def jars(folder: Path, *, fetch: Callable[[str, Path], Path] = unreachable, say: Say = lambda _: None) -> list[Path]:
    return kafka_jars(say, folder=folder, checksums=CHECKSUMS, fetch=fetch)


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.parent.iterdir()}


def test_they_are_fetched_once(folder: Path) -> None:
    """The first caller is told that they are fetched, and into which folder; the next ones fetch nothing."""
    repository = Repository()
    said: list[str] = []

    paths = jars(folder, fetch=repository, say=said.append)

    assert paths == [folder / name for name in NAMES]
    assert [path.read_text() for path in paths] == list(COORDINATES)
    assert sorted(repository.fetched) == sorted(COORDINATES)
    assert len(said) == 1
    assert str(folder) in said[0]
    assert left_in(folder) == {"kafka", "kafka.lock"}
    assert jars(folder, say=said.append) == paths
    assert len(said) == 1


@pytest.mark.parametrize("damage", [Path.unlink, lambda jar: jar.write_text("else")], ids=["missing", "changed"])
def test_a_damaged_cache_is_fetched_anew(damage: Callable[[Path], object], folder: Path) -> None:
    """One jar that isn't there, or isn't what it was, is enough."""
    paths = jars(folder, fetch=Repository())
    (folder / "made from them").touch()
    damage(paths[1])
    repository = Repository()

    jars(folder, fetch=repository)

    assert len(repository.fetched) == len(COORDINATES)
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
    assert [path.read_text() for path in paths] == list(COORDINATES)


def test_a_jar_with_another_checksum_is_refused(folder: Path) -> None:
    """The error names it, and nothing is kept."""
    repository = Repository({COORDINATES[1]: "something else"})

    with pytest.raises(EmbeddedServerError, match=f"{COORDINATES[1]} doesn't have the checksum"):
        jars(folder, fetch=repository)

    assert left_in(folder) == {"kafka.lock"}


def test_a_failed_fetch_says_why_and_what_to_do(folder: Path) -> None:
    """The error names cause and remedy; nothing is kept, and the next try may succeed."""
    with pytest.raises(EmbeddedServerError, match=rf"no route to host.*let this machine reach it.*copy {folder}"):
        jars(folder)

    assert left_in(folder) == {"kafka.lock"}
    assert jars(folder, fetch=Repository())


def test_without_the_wheel_that_fetches_it_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra `demo`, the error says what to install."""
    for name in [name for name in sys.modules if name.split(".")[0] == "jgo"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jgo", None)

    with pytest.raises(EmbeddedServerError, match=r"'jgo'.*pipeline-processing\[demo\]"):
        kafka_jars(folder=folder, checksums=CHECKSUMS)


_OTHER_PROCESS = """
import json, os, sys, time
from pathlib import Path
from pipeline_processing.embedded.kafka_jars import kafka_jars
folder, checksums, stops = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
def fetch(coordinate, scratch):
    jar = scratch / coordinate.replace(":", "-")
    jar.write_text(coordinate)
    with Path(f"{folder}.fetched").open("a") as fetched:
        fetched.write(f"{os.getpid()}\\n")
    if stops:
        time.sleep(60)  # until it is killed, in the middle of its work
    return jar
print(*kafka_jars(folder=folder, checksums=checksums, fetch=fetch))
"""


def other_process(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _OTHER_PROCESS, str(folder), json.dumps(CHECKSUMS), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_of_several_processes_one_fetches(folder: Path) -> None:
    """The others wait for it, and all have whole jars then."""
    processes = [other_process(folder) for _ in range(4)]

    printed = [process.communicate(timeout=_DEADLINE_SECONDS)[0] for process in processes]

    assert printed == [" ".join(str(folder / name) for name in NAMES) + "\n"] * 4
    fetchers = Path(f"{folder}.fetched").read_text().split()
    assert len(fetchers) == len(COORDINATES)
    assert len(set(fetchers)) == 1


def test_a_process_that_dies_while_it_fetches_is_followed_by_another(folder: Path) -> None:
    """Neither its lock nor its half of the jars are in the way."""
    fetched = Path(f"{folder}.fetched")
    with other_process(folder, "stops") as first:
        eventually(lambda: fetched.exists() and len(fetched.read_text().split()) == len(COORDINATES))
        first.kill()
    assert not folder.exists()
    assert left_in(folder) == {"kafka.lock", "kafka.partial", "kafka.fetched"}

    jars(folder, fetch=Repository())

    assert left_in(folder) == {"kafka", "kafka.lock", "kafka.fetched"}


def test_a_folder_that_can_t_be_written_to_is_named(tmp_path: Path) -> None:
    """With the variable that names another."""
    (tmp_path / "closed").touch()

    with pytest.raises(EmbeddedServerError, match=rf"{tmp_path}/closed.*set XDG_CACHE_HOME"):
        jars(tmp_path / "closed" / "cache" / "kafka")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HOME": "/home/somebody"}, "/home/somebody/.cache/pipeline-processing"),
        ({"HOME": "/home/somebody", "XDG_CACHE_HOME": "/caches"}, "/caches/pipeline-processing"),
        ({"HOME": "/home/somebody", "XDG_CACHE_HOME": "caches"}, "/home/somebody/.cache/pipeline-processing"),
    ],
)
def test_they_lie_in_the_user_s_cache(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the XDG specification says."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert cache_folder() == Path(expected, f"kafka-{KAFKA_VERSION}")


def test_the_checksums_are_those_of_this_version() -> None:
    """Every jar has one, the broker and what it logs with among them."""
    names = [path.name for path in kafka_jars()]

    assert f"kafka_2.13-{KAFKA_VERSION}.jar" in names
    assert any(name.startswith("slf4j-simple-") for name in names)
