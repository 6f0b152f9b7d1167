"""
Alerts, recording rules, dashboard and runbook agree with each other and with the code, and every alert fires.

`tests/acceptance/test_monitoring.py` holds them to a real `serve`.
"""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from pipeline_processing.cli.main import program as command_line
from pipeline_processing.telemetry.metrics import Metrics
from tests.docs.tables import prometheus_name
from tests.prometheus import program

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus"
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/pipeline-processing.json").read_text("utf-8"))
RUNBOOK = (ROOT / "deploy/runbook.md").read_text("utf-8")


def rules(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((RULES / name).read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules("alerts.yml")}
RECORDED = {rule["record"] for rule in rules("recording.yml")}


def panel_queries() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


def promtool(*arguments: str) -> None:
    done = subprocess.run([program("promtool"), *arguments], cwd=RULES, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def scraped_names() -> set[str]:
    """Every name under which Prometheus stores a metric of this service."""
    of_histograms = ("_bucket", "_sum", "_count")
    return {
        prometheus_name(each) + suffix
        for each in Metrics().instruments
        for suffix in (of_histograms if each.kind == "histogram" else ("",))
    }


# -- rules ---------------------------------------------------------------------------------------


def test_the_rules_are_valid() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", "recording.yml", "alerts.yml")
    promtool("check", "config", "prometheus.yml")


def test_every_alert_fires_and_keeps_silent_before() -> None:
    """As alerts.test.yml says, which has both for each alert."""
    promtool("test", "rules", "alerts.test.yml")
    cases = [
        case
        for test in yaml.safe_load((RULES / "alerts.test.yml").read_text())["tests"]
        for case in test["promql_expr_test"]
    ]
    for fires in (True, False):
        named = {
            name
            for case in cases
            if bool(case["exp_samples"]) is fires
            for name in re.findall(r"Pipeline\w+", case["expr"])
        }
        assert named == set(ALERTS)


def test_what_rules_and_dashboard_ask_for_exists() -> None:
    """Every metric, recorded or not, and every label."""
    attributes = {name.replace(".", "_") for instrument in Metrics().instruments for name in instrument.attributes}
    labels = attributes | {"namespace", "job", "instance", "le", "alertname", "alertstate"}
    expressions = [str(rule["expr"]) for rule in (*rules("alerts.yml"), *rules("recording.yml"))] + [*panel_queries()]
    for expression in expressions:
        bare = re.sub(r'"[^"]*"', "", expression)
        assert set(re.findall(r"\bpipeline:\w+:\w+", bare)) <= RECORDED
        metrics = set(re.findall(r"(?<![:\w])(?:pipeline|db_client|process)_\w+", bare)) - attributes
        assert metrics <= scraped_names(), expression
        asked = {
            word for words in re.findall(r"(?:by|on) \(([^)]*)\)", bare) for word in words.replace(" ", "").split(",")
        }
        asked |= set(re.findall(r"(\w+) *(?:=~|!~|!=|=)(?!=)", bare))
        assert asked <= labels, expression


def test_runs_failing_leaves_out_what_users_cause() -> None:
    """Exit code 1 or 65 is for the request, the job config or the rows, but for interference from outside."""
    kinds = json.loads((ROOT / "schemas/error-kinds.json").read_text("utf-8"))
    by_users = {kind for kind, of_it in kinds.items() if of_it["exit_code"] in (1, 65)}
    (left_out,) = re.findall(r'error_type!~"([^"]*)"', ALERTS["PipelineRunsFailing"]["expr"])
    assert left_out.split("|") == sorted(by_users - {"conflicting_objects", "plan_lost", "publication_error"})


def test_alerts_say_what_to_do() -> None:
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        assert rule["annotations"]["runbook"] == f"deploy/runbook.md#{name.lower()}"


def test_rules_become_resources_as_documented(tmp_path: Path) -> None:
    """For the Prometheus operator, by the page's own lines."""
    (loop,) = re.findall(r"^for rules in .*?^done$", (ROOT / "docs/deployment.md").read_text("utf-8"), re.M | re.DOTALL)
    kubectl = tmp_path / "kubectl"
    kubectl.write_text("#!/bin/sh\necho ---; cat\n")
    kubectl.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-ec", loop], cwd=ROOT, env=path, capture_output=True, text=True, check=True)
    made = list(yaml.safe_load_all(done.stdout))
    assert [each["spec"] for each in made] == [
        yaml.safe_load((RULES / f"{name}.yml").read_text("utf-8")) for name in ("recording", "alerts")
    ]
    assert {each["kind"] for each in made} == {"PrometheusRule"}
    assert len({each["metadata"]["name"] for each in made}) == 2


# -- runbook -------------------------------------------------------------------------------------


def test_every_alert_has_a_section_of_the_runbook() -> None:
    """With symptom, check and action, in the order of the alerts."""
    heading, *sections = re.split(r"^## ", RUNBOOK, flags=re.MULTILINE)
    alerts = {section.split("\n", 1)[0]: section for section in sections if section.startswith("Pipeline")}
    assert list(alerts) == list(ALERTS)
    for section in alerts.values():
        assert re.findall(r"^\*\*(Symptom|Check|Action)\.\*\*", section, re.MULTILINE) == ["Symptom", "Check", "Action"]
    rows = {
        severity: set(re.findall(r"\(#(\w+)\)", row))
        for row, severity in re.findall(r"^\| (.*) \| (\w+) \|$", heading, re.M)
    }
    for severity in ("page", "ticket"):
        assert rows[severity] == {
            name.lower() for name, rule in ALERTS.items() if rule["labels"]["severity"] == severity
        }


def test_commands_of_the_runbook_are_understood() -> None:
    commands = [
        shlex.split(line, comments=True)[1:] for line in re.findall(r"^pipeline-processing .*$", RUNBOOK, re.MULTILINE)
    ]
    assert len(commands) > len(ALERTS)
    for first, *rest in commands:
        command = command_line().commands[first]
        while rest and rest[0] in getattr(command, "commands", ()):
            command, *rest = command.commands[rest[0]], *rest[1:]
        command.make_context(first, rest)


# -- dashboard -----------------------------------------------------------------------------------


def test_panels_dont_overlap() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
    assert all(place["x"] + place["w"] <= 24 for place in places)


def test_panels_choose_their_installation() -> None:
    """By data source and, but for the count of alerts, by namespace."""
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    assert [
        query for query in panel_queries() if 'namespace=~"$namespace"' not in query and "ALERTS" not in query
    ] == []
