"""A `serve` process: its answers over HTTP, its log, and its end."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.error
import urllib.request
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.warm import Forked
from tests.watching import eventually


class Serving:
    """A `serve` that `Service.serve` has started."""

    def __init__(self, process: Forked) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        return self.process.pid

    # -- its log ---------------------------------------------------------------------------------

    def log(self) -> list[dict[str, Any]]:
        """Return the lines so far."""
        said = self.process.stderr_so_far()
        return [json.loads(line) for line in said[: said.rfind("\n") + 1].splitlines() if line.startswith("{")]

    def said(self, event: str) -> list[dict[str, Any]]:
        """Return the lines so far whose message contains this text."""
        return [line for line in self.log() if event in line["event"]]

    def wait_until_said(self, event: str, *, times: int = 1, seconds: float = 60.0) -> dict[str, Any]:
        """Wait until this was logged `times` times, and return that line."""

        def lines() -> list[dict[str, Any]]:
            found = self.said(event)
            assert len(found) >= times or self.process.poll() is None, self.process.stderr_so_far()
            return found[times - 1 :]

        return eventually(lines, seconds)[0]

    def wait_until_taking(self, *, seconds: float = 60.0) -> None:
        """Wait until it is a member of the group and has partitions."""
        self.wait_until_said("partitions assigned", seconds=seconds)

    def complained(self) -> list[dict[str, Any]]:
        """
        Return the lines above level info, in order, without those of the watchdog: a machine so busy that the process
        gets no time looks like a blocked event loop.
        """
        return [
            line
            for line in self.log()
            if line["level"] not in ("debug", "info") and not line["logger"].endswith(".watchdog")
        ]

    def complaints(self) -> list[str]:
        """Return the messages of these lines."""
        return [line["event"] for line in self.complained()]

    # -- HTTP ------------------------------------------------------------------------------------

    def ask(self, path: str) -> tuple[int, dict[str, Any]]:
        """Return status and body of `/livez` or `/readyz`."""
        (address, *_) = self.wait_until_said("answering /livez and /readyz")["addresses"]
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def scraped(self) -> str:
        """Return the answer of `/metrics` to a scrape without an `Accept` header."""
        (address, *_) = self.wait_until_said("answering /livez and /readyz")["addresses"]
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=")
            text: str = answer.read().decode()
        return text

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Return all samples: by name, and the values of the labels in the order of their names."""
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.scraped())
            for sample in family.samples
        }

    def is_ready(self) -> bool:
        """Whether `/readyz` reports that it is ready."""
        return self.ask("/readyz")[0] == 200

    def is_alive(self) -> bool:
        """Whether `/livez` reports that it is alive."""
        return self.ask("/livez")[0] == 200

    # -- its end ---------------------------------------------------------------------------------

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self, *, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Send SIGTERM, and wait for a clean end."""
        self.signal(signal.SIGTERM)
        return self.ended(seconds=seconds)

    def ended(self, *, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Wait for its end, with exit code 0 and only the service's own lines in the log."""
        stdout, stderr = self.process.communicate(timeout=seconds)
        assert self.process.returncode == 0, (self.process.returncode, stderr)
        assert "Traceback" not in stderr, stderr
        assert stdout == ""
        lines = [json.loads(line) for line in stderr.splitlines()]  # nothing else is on stderr
        foreign = [line for line in lines if not line["logger"].startswith("pipeline_processing")]
        assert not foreign, foreign
        return subprocess.CompletedProcess(self.process.args, self.process.returncode, stdout, stderr)

    def kill(self) -> None:
        """Send SIGKILL, and wait for its end."""
        self.process.kill()
        self.process.communicate()
        assert self.process.returncode == -signal.SIGKILL
