"""`board` as a process: a run seen live, its settings, servers that are away, and its end."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from tests.acceptance.gate import GATED, Gate
from tests.acceptance.kafka_side import Messages
from tests.acceptance.service import LARGE, Service
from tests.acceptance.warm import Forked
from tests.watching import eventually

NOWHERE = "postgresql://me:tops3cret@127.0.0.1:9/none"
TOKEN = "0123456789abcdef"


class Board:
    """A `board` process."""

    def __init__(self, process: Forked) -> None:
        self.process = process
        self.address = eventually(self._address, 60)

    def _address(self) -> str | None:
        said = self.process.stderr_so_far()
        assert self.process.poll() is None, said
        found = re.search(r"the board is at this address.*?(http://[^\"]+)", said)
        return found and found[1]

    def ask(self, path: str) -> tuple[int, Any]:
        """Return status and JSON of an answer."""
        try:
            with urllib.request.urlopen(self.address + path, timeout=20) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def stop(self) -> None:
        """End it as an orchestrator does."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=20)
        assert self.process.returncode == 0
        assert "tops3cret" not in self.process.stderr_so_far()


@contextmanager
def board(service: Service, env: Mapping[str, str | None] | None = None) -> Iterator[Board]:
    """Run a board, which must end cleanly."""
    process = service.start("board", env={"PIPELINE_BOARD__PORT": "0", **(env or {})})
    assert isinstance(process, Forked)
    opened = Board(process)
    yield opened
    opened.stop()


class Page:
    """Reads a board's stream in a thread."""

    def __init__(self, address: str) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.ended = threading.Event()
        self._connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
        self._connection.request("GET", "/api/v1/live")
        self._answer = self._connection.getresponse()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        name = ""
        for line in self._answer:
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                self.events.append((name, json.loads(value)))
        self.ended.set()

    def wait_for(self, event: str, **fields: Any) -> dict[str, Any]:
        """Wait for an event with these fields, and return the latest one."""

        def found() -> list[dict[str, Any]]:
            return [data for name, data in self.events if name == event and fields.items() <= data.items()]

        return eventually(found, 60)[-1]

    def wait_for_progress(self, run_id: str) -> dict[str, Any]:
        """Wait until the progress of a run comes, in an event of its own or with the run."""

        def found() -> list[dict[str, Any]]:
            return [data["progress"] for _, data in self.events if data.get("run_id") == run_id and data["progress"]]

        return eventually(found, 60)[-1]


def test_a_run_is_seen_live(service: Service, messages: Messages) -> None:
    """From the request to the manifest, with progress. The stream ends with the process."""
    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(GATED))
    env = {"PIPELINE_BOARD__TRACE_URL": "https://traces/{trace_id}"}
    serve = service.serve()
    serve.wait_until_taking()
    with Gate(service, LARGE) as gate, board(service, env) as shown:
        page = Page(shown.address)
        page.wait_for("overview", kafka="ok", history="ok", lag={"messages": 0, "partitions": messages.partitions})
        messages.send({"agency_id": LARGE, "run_id": "r", "labels": {"team": "<b>a</b>"}})
        running = page.wait_for("run", run_id="r", state="running")
        assert (running["agency_id"], running["labels"]) == (str(LARGE), {"team": "<b>a</b>"})
        gate.wait_for_run()
        progress = page.wait_for_progress("r")  # the only event, which may come before the board knows the run
        assert (progress["dataset"], progress["rows_read"] > 0) == (GATED["datasets"][0]["name"], True)
        gate.open()
        page.wait_for("run", run_id="r", state="succeeded")
        eventually(lambda: shown.ask("/api/v1/runs/r")[1]["events"][0]["sent"], 20)
        serve.stop()

        run = shown.ask("/api/v1/runs/r")[1]
        manifest = json.loads(service.objects()[f"agencies/agency_id={LARGE}/run_id=r/_manifest.json"].body)
        assert [each["sha256"] for each in run["artifacts"]] == [each["sha256"] for each in manifest["entries"]]
        assert run["manifest_url"].endswith("/_manifest.json")
        assert run["trace_url"] == f"https://traces/{run['trace_id']}"
        assert [each["outcome"] for each in run["attempts"]] == ["succeeded"]
        for path in ("/readyz", "/api/v1/runs?label=team=%3Cb%3Ea%3C/b%3E", "/api/v1/dead-letters", "/api/v1/triggers"):
            assert shown.ask(path)[0] == 200
        shown.stop()
        assert page.ended.wait(10)


def test_without_its_servers_it_runs_and_says_so(service: Service) -> None:
    """Neither the history nor Kafka answers: the page is there, the API says why it has nothing."""
    env = {"PIPELINE_HISTORY__DSN": NOWHERE, "PIPELINE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:9"}
    with board(service, env) as shown:
        with urllib.request.urlopen(shown.address, timeout=20) as answer:
            assert answer.headers["content-type"].startswith("text/html")
        status, problem = shown.ask("/api/v1/overview")
        assert (status, problem["title"]) == (503, "The history can't be used")
        eventually(lambda: shown.ask("/readyz")[0] == 503, 20)
        assert shown.ask("/livez") == (200, {"status": "ok"})


def test_what_it_refuses_to_start_with(service: Service) -> None:
    """78, with the remedy."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for env, remedy in (
            ({"PIPELINE_BOARD__HOST": "0.0.0.0"}, "Set PIPELINE_BOARD__TOKEN"),
            ({"PIPELINE_BOARD__TOKEN": "short"}, "at least 16 characters"),
            ({"PIPELINE_BOARD__PORT": port}, "PIPELINE_BOARD__PORT"),
            ({"PIPELINE_BOARD__PORT": "0", "PIPELINE_HISTORY__SCHEMA": "nowhere"}, "pipeline-processing migrate"),
            ({"PIPELINE_HISTORY__DSN": None, "PIPELINE_SOURCE__DSN": None}, "Set PIPELINE_HISTORY__DSN"),
        ):
            refused = service.cli("board", env=env)
            assert refused.returncode == 78, refused.stderr
            assert remedy in refused.stderr


def test_a_wider_address_asks_for_its_token(service: Service) -> None:
    env = {
        "PIPELINE_BOARD__HOST": "0.0.0.0",
        "PIPELINE_BOARD__TOKEN": TOKEN,
        "PIPELINE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:9",
    }
    with board(service, env) as shown:
        shown.address = shown.address.replace("0.0.0.0", "127.0.0.1")
        assert shown.ask("/api/v1/overview")[0] == 401
        request = urllib.request.Request(
            f"{shown.address}/api/v1/overview", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.status == 200
    assert TOKEN not in shown.process.stderr_so_far()
