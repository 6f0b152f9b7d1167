"""
Measures the rows per second of each step, relative to the bare path: `python -m tests.bench.steps`.

The steps run in turns in one session. The output has the median of each step's rounds, and its ratio to the bare path.
"""

import argparse
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.bench.measuring import Contestant, Figures, in_turns, middle, ratio
from tests.bench.report import aligned
from tests.bench.setting import NARROW, Bench, Checkout, bench, job

STATUSES = "CREATE TABLE statuses AS SELECT s AS code, upper(s) AS label FROM unnest(ARRAY['active', 'closed']) AS s"
ATTRIBUTES = """
    ALTER TABLE narrow ADD attributes jsonb;
    UPDATE narrow SET attributes = jsonb_build_object('city', status, 'n', id)
"""
HOOK = "tests.bench.hooks:change_two_columns"
SCHEMA = {"type": "object", "required": ["id"], "properties": {"amount": {"type": "number"}, "name": {"maxLength": 99}}}


def paths(url: str) -> Mapping[str, dict[str, Any]]:
    """Return the dataset settings of each path by name. The first is the bare path."""
    table = {"query": "SELECT code, label FROM statuses WHERE code = ANY($1)", "on": "status", "key": "code"}
    api = {"url": f"{url}/labels?ids={{values}}", "on": "id", "key": "id", "batch": 500}
    steps: dict[str, list[dict[str, Any]]] = {
        "bare": [],
        "select": [{"select": ["id", "name", "amount"]}],
        "drop": [{"drop": ["name"]}],
        "rename": [{"rename": {"name": "display_name"}}],
        "add": [{"add": {"run": "{run_id}"}}],
        "cast": [{"cast": {"amount": "text", "created_at": "date"}}],
        "filter": [{"filter": "status <> 'none' AND amount >= 0"}],
        "derive": [{"derive": {"total": "amount * 2 + 1", "label": "COALESCE(name, '?') || status"}}],
        "mask sha256": [{"mask": {"columns": ["name"], "using": "sha256", "salt": "salt"}}],
        "mask partial": [{"mask": {"columns": ["name"], "using": "partial"}}],
        "flatten": [{"flatten": {"column": "attributes", "fields": {"city": "text", "n": "integer"}}}],
        "dedupe": [{"dedupe": {"by": ["id"]}}],
        "validate": [{"validate": {"json_schema": SCHEMA}}],
        "enrich_table": [{"enrich_table": {**table, "add": {"status_label": "label"}}}],
        "enrich_http": [{"enrich_http": {**api, "add": {"customer": "label"}}}],
        "python": [{"python": HOOK}],
        "python, declared": [{"python": {"function": HOOK, "reads": ["name", "status"]}}],
    }
    return {
        **{name: {"steps": each} for name, each in steps.items()},
        "expect unique": {"expect": {"unique": ["id"]}},
        "expect not_null": {"expect": {"not_null": ["id", "name"]}},
        "quarantine, nothing rejected": {"steps": steps["filter"], "on_row_error": "quarantine"},
    }


class _Labels(BaseHTTPRequestHandler):
    """Returns labels for the requested ids."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # the name that http.server looks for
        (ids,) = parse_qs(urlsplit(self.path).query)["ids"]
        body = json.dumps([{"id": int(each), "label": f"label {each}"} for each in ids.split(",")]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as the base class has it
        """Log nothing."""


@contextmanager
def labels_api() -> Iterator[str]:
    """Run the API; yields its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Labels) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def contestants(bench: Bench, url: str) -> Iterator[Contestant]:
    """Return a run for each path."""

    def measure(name: str, dataset: dict[str, Any]) -> Figures:
        job_file = bench.file(f"{name}.json", job("narrow", **dataset))
        return bench.run(Checkout(), job_file, "--dry-run").figures

    for name, dataset in paths(url).items():
        yield Contestant(name, name, partial(measure, name, dataset))


def main() -> None:
    """Load the data, then run all paths in turns."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.steps", description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="one of the paths, beside the bare one")
    options = parser.parse_args()
    with bench() as running, labels_api() as url:
        running.load("narrow", NARROW, options.rows)
        for statements in (STATUSES, ATTRIBUTES, "VACUUM FULL ANALYZE narrow"):
            running.psql("-c", statements)
        chosen = [each for each in contestants(running, url) if options.only in (None, each.key) or each.key == "bare"]
        rounds = in_turns(chosen, options.rounds)
    rows = [["", "rows/s", "× bare", "peak MiB"]]
    for key in rounds:
        seconds, peak = middle(rounds, key, "seconds"), middle(rounds, key, "peak_mib")
        assert seconds
        rows.append([key, f"{options.rows / seconds:,.0f}", f"{ratio(rounds, key, 'bare'):.2f}", f"{peak:.0f}"])
    print(aligned(rows))


if __name__ == "__main__":
    main()
