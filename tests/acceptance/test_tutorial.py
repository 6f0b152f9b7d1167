"""The tutorial, command by command from `init` on, on the demo's tables. What it shows is what commands print."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from pathlib import Path
from string import Template

from pipeline_processing.demo.sample import resource
from pipeline_processing.embedded.kafka import KafkaServer
from tests.acceptance.service import Service
from tests.acceptance.serving import Serving
from tests.acceptance.warm import Forked
from tests.watching import eventually

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
CLI = ["-m", "pipeline_processing.cli.main"]


class Reader:
    """Does what the page says, in a folder and a shell of its own."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._background: list[Serving] = []

    def follow(self, block: str) -> str:
        """Run the commands of a block. Returns what they print."""
        return "".join(self._do(shlex.split(line), line) for line in block.splitlines())

    def write(self, name: str, text: str) -> None:
        (self._service.folder / name).write_text(text, "utf-8")

    def wait_for_runs(self, count: int) -> None:
        succeeded = "SELECT FROM tutorial.runs WHERE state = 'succeeded'"
        eventually(lambda: len(self._service.sql(succeeded)) >= count, 60)

    def _do(self, words: list[str], line: str) -> str:
        match words:
            case ["export", assignment]:
                name, _, value = assignment.partition("=")
                self._service.environment[name] = Template(value).substitute(PWD=self._service.folder)
                return ""
            case ["kill", *jobs]:
                assert len(jobs) == len(self._background)
                for each in self._background:
                    each.signal(signal.SIGTERM)
                for each in self._background:
                    each.ended()
                return ""
            case [*_, "&"]:
                command = words[words.index("pipeline-processing") + 1 : words.index("2>")]
                process = self._service._start([*CLI, *command], {"PIPELINE_HTTP__PORT": "0"}, warm=True)
                assert isinstance(process, Forked)
                self._background.append(Serving(process))
                return ""
            case ["pipeline-processing", *command]:
                done = self._service.cli(*command)
                assert done.returncode == 0, (line, done.stderr)
                return done.stdout
        return subprocess.check_output(["sh", "-c", line], cwd=self._service.folder, text=True)


def test_the_tutorial(kafka: KafkaServer, service: Service) -> None:
    """From a draft of the demo's tables to the runs that a schedule asks for."""
    service.sql("DROP SCHEMA pipeline CASCADE; DROP TABLE records, documents, payments;" + resource("sample.sql"))
    service.environment.pop("PIPELINE_JOB_CONFIG_FILE")
    (service.folder / "exports").mkdir()
    reader = Reader(service)
    text = PAGE.read_text("utf-8")
    first, rest = text.split("\n## Draft a job config\n")
    reader.follow(re.findall(r"^export PIPELINE_DESTINATION=.*$", first, re.MULTILINE)[0])

    printed, compared = "", 0
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", rest, re.DOTALL | re.MULTILINE):
        match language:
            case "sh":
                if "pipeline-processing history" in block:
                    reader.wait_for_runs(13)  # the first one, and one for each of twelve agencies
                printed += reader.follow(block)
            case "yaml":
                reader.write("triggers.yaml" if block.startswith("triggers:") else "job.yaml", block)
            case "text":
                assert re.fullmatch(_pattern(block), _steady(printed), re.DOTALL), printed
                printed, compared = "", compared + 1
    assert (printed, compared) == ("", 5)


def _pattern(shown: str) -> str:
    """Match what is shown, where `…` is any text; on a line of its own, any lines."""
    lines = [re.escape(line).replace("…", "[^\n]*") if line != "…" else ".*?" for line in _steady(shown).split("\n")]
    return "\n".join(lines)


def _steady(text: str) -> str:
    """Replace what differs from run to run."""
    for found, instead in (
        (r"\w{3} \d{4}-\d\d-\d\d \d\d:\d\d \+0000", "DAY"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?![.\d])", "TIME"),
        (r"\d[\d.]* (ms|s)\b", "TOOK"),
        (r"\b[0-9a-f]{32}\b", "TRACE"),
        (r"^used .*$", "used"),
        (r"^trigger-nightly-.* (?=succeeded)", "RUN "),  # any three of the twelve
        (r"(?<=TOOK)( +[\d,]+){3}", " ROWS AND BYTES"),
        (r" +", " "),
    ):
        text = re.sub(found, instead, text, flags=re.MULTILINE)
    return text
