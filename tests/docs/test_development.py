"""The page for developers, and what a session may set, are held to the code."""

import os
import re
import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest
import yaml

from pipeline_processing.embedded.kafka import KafkaServer
from pipeline_processing.embedded.postgres import PostgresServer
from pipeline_processing.embedded.seaweedfs import SeaweedFSServer
from pipeline_processing.embedded.server import EmbeddedServer
from tests.containers.images import IMAGES, image
from tests.containers.kafka import KafkaContainer
from tests.containers.postgres import PostgresContainer
from tests.containers.seaweedfs import SeaweedFSContainer
from tests.containers.server import ContainerServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/development.md").read_text("utf-8")
DOCUMENTED = dict(re.findall(r"^\| `([A-Z_]+)` \| `?([^|`]+?)`? \|", PAGE, re.MULTILINE))
"""Variable → default, of the page's table."""

NOT_FOR_TESTS = {"bin", "directory", "log", "pid", "open", "port_count", "port_offsets", "stop_signal"}
"""What only an embedded server has: its files, its process, and how they are launched."""


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_images_are_those_of_compose() -> None:
    """One variable replaces an image both here and there; the page has their defaults."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    composed = dict(re.findall(r"\$\{(\w+):-([^}]+)\}", "\n".join(s["image"] for s in services.values())))
    assert {name: composed[name] for name in IMAGES} == IMAGES
    assert {name: DOCUMENTED[name] for name in IMAGES} == IMAGES
    for kind in (PostgresContainer, SeaweedFSContainer, KafkaContainer):
        assert image(kind.variable, {}) == IMAGES[kind.variable]
        assert image(kind.variable, {kind.variable: "mine:1"}) == "mine:1"


def test_variables_of_tests_are_documented() -> None:
    """Each that a test reads is on the page, with its default."""
    read: dict[str, str] = {}
    for path in (ROOT / "tests").rglob("*.py"):
        for name, default in re.findall(r'environ\.get\("(\w+)"(?:, "(\w+)")?\)', path.read_text("utf-8")):
            read[name] = default or "none"
    assert read.pop("CI")
    assert "`CI`" in PAGE
    assert read
    assert {name: DOCUMENTED.get(name) for name in read} == read


@pytest.mark.parametrize(
    ("embedded", "contained"),
    [(PostgresServer, PostgresContainer), (SeaweedFSServer, SeaweedFSContainer), (KafkaServer, KafkaContainer)],
)
def test_a_container_does_what_an_embedded_server_does(
    embedded: type[EmbeddedServer], contained: type[ContainerServer]
) -> None:
    """Tests needn't know which of them they have."""
    assert public(embedded) - NOT_FOR_TESTS <= public(contained)
    for name in public(embedded) & public(contained):
        ours, theirs = getattr(contained, name), getattr(embedded, name)
        if callable(theirs):
            assert signature(ours) == signature(theirs), name


def test_make_passes_the_option_on() -> None:
    command = ["make", "--dry-run", "--old-file=.venv/.installed", "test", "SERVERS=containers", "ARGS=tests/unit -x"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "-m pytest --servers=containers tests/unit -x" in done.stdout


def test_a_missing_engine_ends_the_session(tmp_path: Path) -> None:
    """Once and at once, with what can be done about it."""
    command = [sys.executable, "-m", "pytest", "--servers=containers", "-p", "no:cacheprovider", __file__]
    nobody = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DOCKER_HOST": f"unix://{tmp_path}/nobody.sock"}
    done = subprocess.run(command, cwd=ROOT, env=nobody, capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert done.stderr.count("No Docker engine answers") == 1
    assert "Start one" in done.stderr
    assert "drop `--servers=containers`" in done.stderr
    assert "Traceback" not in done.stderr
