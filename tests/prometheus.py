"""Prometheus and promtool, for tests: the installed ones, else Debian's, unpacked into the cache folder."""

import json
import shutil
import urllib.parse
import urllib.request
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Any, ClassVar

from pipeline_processing.embedded.ports import LOOPBACK
from pipeline_processing.embedded.process import Launch
from pipeline_processing.embedded.server import EmbeddedServer
from tests.debian import unpacked


def program(name: str) -> str:
    """Return the path of `prometheus` or `promtool`. Raises PackageMissing."""
    return shutil.which(name) or str(unpacked("prometheus") / "usr" / "bin" / name)


class Prometheus(EmbeddedServer):
    """Scrapes the given targets every half second, and evaluates the given rules as often."""

    name: ClassVar[str] = "Prometheus"
    stop_signal: ClassVar[Signals] = SIGTERM
    stop_seconds: ClassVar[float] = 5.0

    def __init__(self, *, targets: dict[str, str], rules: dict[str, str]) -> None:
        """`targets` are addresses by job, `rules` the content of rule files by name. Raises PackageMissing."""
        super().__init__()
        self._targets = targets
        self._rules = rules
        self._command = program("prometheus")

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of its HTTP API."""
        url = f"http://{LOOPBACK}:{self._ports[0]}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an instant query, without those that aren't a number."""
        found = self.ask("query", query=expression)["result"]
        return [sample for sample in found if sample["value"][1] != "NaN"]

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire now."""
        alerts = self.ask("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def _prepare(self) -> None:
        for name, content in self._rules.items():
            (self.directory / name).write_text(content)
        configuration = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
            "rule_files": list(self._rules),
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [target]}]} for job, target in self._targets.items()
            ],
        }
        self._configuration.write_text(json.dumps(configuration))  # which is YAML, too

    @property
    def _configuration(self) -> Path:
        return self.directory / "prometheus.yml"

    def _launch(self) -> Launch:
        return Launch(
            name=self.name,
            command=(
                self._command,
                f"--config.file={self._configuration}",
                f"--storage.tsdb.path={self.directory / 'data'}",
                f"--web.listen-address={LOOPBACK}:{self._ports[0]}",
                "--log.level=warn",
            ),
            cwd=self.directory,
            log=self.log,
            stop_signal=self.stop_signal,
            stop_seconds=self.stop_seconds,
        )

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{self._ports[0]}/-/ready", timeout=2):
                return True
        except OSError:
            return False
