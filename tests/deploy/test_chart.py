"""The Helm chart renders what Kubernetes accepts, and what it derives agrees with the service."""

import math
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from pipeline_processing.agency_data_job.loading import load_job_config
from pipeline_processing.cli.main import program
from pipeline_processing.settings.keys import is_secret, path_of
from pipeline_processing.settings.loader import LoadedSettings, load_settings
from pipeline_processing.settings.settings import Settings
from pipeline_processing.triggers.loading import load_triggers
from tests.deploy.chart import (
    CHART,
    DEFAULTS,
    EXAMPLES,
    complaints,
    container,
    environment,
    example,
    files,
    merged,
    notes,
    of_kind,
    pods,
    rendered,
    validate,
)

ROOT = CHART.parents[2]
VERSIONS = ["1.30.0", "1.37.0"]
"""The oldest Kubernetes that the chart admits, and the newest."""
GIVEN = {
    "DSN": "postgresql://pipeline:pipeline@postgres:5432/agencies",
    "TOKEN": "0123456789abcdef",
    "URL": "https://receiver.example.com/hook",
}
"""Contents of secrets that aren't the chart's, by the last word of their variable."""


def settings_of(pod: dict[str, Any], objects: list[dict[str, Any]], folder: Path) -> LoadedSettings:
    """The settings that the pod's process would load, with its files below this folder."""
    for path, text in files(objects, pod):
        here = folder / path.lstrip("/")
        here.parent.mkdir(parents=True, exist_ok=True)
        here.write_text(GIVEN.get(path.rpartition("_")[2], "a-secret-of-theirs") if text is None else text)
    variables = {
        name: str(folder / value.lstrip("/")) if value.startswith("/etc/pipeline/") else value
        for name, value in environment(pod).items()
    }
    return load_settings(variables)


# -- Helm and Kubernetes -------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_valid(name: str, version: str) -> None:
    """`helm lint --strict` has nothing to say, and each object has the fields of this Kubernetes and no others."""
    assert complaints(example(name), f"v{version}") == []
    objects = rendered(example(name))
    assert len({(each["kind"], each["metadata"]["name"]) for each in objects}) == len(objects)
    for each in objects:
        validate(each, version)


def test_the_validation_would_notice() -> None:
    """A misspelt field, of Kubernetes or of a custom resource, isn't valid."""
    objects = rendered(example("production"))
    (scaled,), (monitor,), (deployment, *_) = (
        of_kind(objects, kind) for kind in ("ScaledObject", "PodMonitor", "Deployment")
    )
    deployment["spec"]["template"]["spec"]["containers"][0]["lifeness"] = {}
    scaled["spec"]["triggers"][0]["metric_type"] = "Value"
    monitor["spec"]["podMetricsEndpoints"][0]["every"] = "30s"
    for each in (deployment, scaled, monitor):
        with pytest.raises(ValueError, match=r"lifeness|metric_type|every"):
            validate(each, VERSIONS[-1])


def test_the_chart_admits_what_is_tested() -> None:
    """And its version is the package's."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert chart["kubeVersion"] == f">={VERSIONS[0]}-0"
    assert chart["appVersion"] == project["version"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"serve.replica": 3}, "replica"),
        ({"env": {"PIPELINE_WORKER__DRAIN_SECONDS": "300"}}, "PIPELINE_WORKER__DRAIN_SECONDS"),
        ({"settings.worker.memory_budget_mib": 16}, "memory_budget_mib"),
        ({"keda.minReplicas": 0}, "minReplicas"),
        ({"monitor.kind": "Monitor"}, "monitor"),
        ({"jobConfig.content": ""}, "No job config"),
        ({"triggers.enabled": True}, "No triggers"),
        ({"keda.enabled": True}, "keda.connection.secret"),
        (
            {"secrets.existing": [{"name": "other", "keys": {"PIPELINE_SOURCE__DSN": "dsn"}}]},
            "Two secrets give PIPELINE_SOURCE__DSN",
        ),
    ],
)
def test_wrong_values_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(helm_python.HelmError, match=message):
        rendered(example("trial", **changes))


def test_references_lead_somewhere() -> None:
    """Whatever selects pods or names an object of the release finds it."""
    for name in EXAMPLES:
        objects = rendered(example(name))
        labels = [pod["metadata"]["labels"] for pod in pods(objects).values()]
        selectors = [each["spec"]["selector"] for each in of_kind(objects, "Service")]
        selectors += [
            each["spec"]["selector"]["matchLabels"]
            for each in of_kind(objects, "Deployment", "PodDisruptionBudget", "PodMonitor", "ServiceMonitor")
        ]
        selectors += [each["spec"]["podSelector"]["matchLabels"] for each in of_kind(objects, "NetworkPolicy")]
        selectors += [
            each["labelSelector"]["matchLabels"] for each in pods(objects)["serve"]["spec"]["topologySpreadConstraints"]
        ]
        for selector in selectors:
            assert any(selector.items() <= each.items() for each in labels), selector
        names = {(each["kind"], each["metadata"]["name"]) for each in objects}
        for each in of_kind(objects, "ScaledObject"):
            assert ("Deployment", each["spec"]["scaleTargetRef"]["name"]) in names
            for trigger in each["spec"]["triggers"]:
                assert ("TriggerAuthentication", trigger["authenticationRef"]["name"]) in names


def test_pods_meet_the_restricted_standard() -> None:
    """Of Kubernetes' pod security standards; and they get no token of the cluster's API."""
    for name in EXAMPLES:
        for pod in pods(rendered(example(name))).values():
            of_pod, of_container = pod["spec"]["securityContext"], container(pod)["securityContext"]
            assert of_pod["runAsNonRoot"] is True
            assert (of_pod["runAsUser"], of_pod["runAsGroup"]) == (10001, 10001)
            assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
            assert of_container == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert pod["spec"]["automountServiceAccountToken"] is False
            (tmp,) = (each for each in pod["spec"]["volumes"] if each["name"] == "tmp")
            assert tmp["emptyDir"]["sizeLimit"]


def test_migrate_needs_nothing_of_the_release() -> None:
    """Its hook runs before anything else is created, so what it names is a hook that comes earlier, or isn't ours."""
    for name in EXAMPLES:
        objects = rendered(example(name))
        later = {
            (each["kind"], each["metadata"]["name"])
            for each in objects
            if "helm.sh/hook" not in each["metadata"].get("annotations", {})
        }
        spec = pods(objects)["migrate"]["spec"]
        used = {("ConfigMap", each["configMap"]["name"]) for each in spec["volumes"] if "configMap" in each}
        used |= {
            ("Secret", source["secret"]["name"])
            for each in spec["volumes"]
            for source in each.get("projected", {}).get("sources", ())
        }
        used.add(("ServiceAccount", spec["serviceAccountName"]))
        assert len(used) >= 2
        assert not used & later
        (job,) = of_kind(objects, "Job")
        earlier = [each["metadata"]["annotations"] for each in objects if each["metadata"]["name"].endswith("-migrate")]
        assert {each.get("helm.sh/hook") for each in earlier} == {"pre-install,pre-upgrade"}
        assert [each for each in earlier if int(each.get("helm.sh/hook-weight", 0)) < 0]
        assert "helm.sh/hook-weight" not in job["metadata"]["annotations"]


def test_a_changed_job_config_starts_new_pods() -> None:
    """What isn't read again while a process runs changes its pod."""

    def pod(values: dict[str, Any]) -> dict[str, Any]:
        return pods(rendered(values))["serve"]

    assert pod(example("trial")) == pod(example("trial"))
    other = example("trial")
    other["jobConfig"]["content"] += "params: {}\n"
    assert pod(other) != pod(example("trial"))


# -- the service ---------------------------------------------------------------------------------


def test_defaults_are_those_of_the_settings() -> None:
    """Apart from the addresses, which a pod opens to others."""
    own, settings = DEFAULTS["settings"], Settings()
    for section, values in own.items():
        for name, value in values.items():
            default = getattr(getattr(settings, section), name)
            assert value == default or (name, value, default) == ("host", "0.0.0.0", "127.0.0.1")


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_pod_gets_valid_settings(name: str, tmp_path: Path) -> None:
    """Its variables and files are those of the settings, and what each command requires is there."""
    objects = rendered(example(name))
    for component, pod in pods(objects).items():
        settings = settings_of(pod, objects, tmp_path / component).settings
        assert settings.require_history_dsn()
        if component == "board":
            assert settings.require_board_token()
            assert container(pod)["ports"] == [{"name": "http", "containerPort": settings.board.port}]
        if component == "triggers" or (component == "board" and "triggers" in pods(objects)):
            assert settings.require_triggers_file()
        if component in ("serve", "triggers"):
            assert settings.require_source_dsn()
            assert settings.require_job_config_file()
            assert settings.http.host == "0.0.0.0"
            assert container(pod)["ports"] == [{"name": "http", "containerPort": settings.http.port}]


def test_only_secret_settings_come_from_secrets() -> None:
    """`…_FILE` of anything else isn't a setting."""
    for name in EXAMPLES:
        for pod in pods(rendered(example(name))).values():
            variables = [each for each in environment(pod) if each.startswith("PIPELINE_") and each.endswith("_FILE")]
            plain = {"PIPELINE_SETTINGS_FILE", "PIPELINE_JOB_CONFIG_FILE", "PIPELINE_TRIGGERS_FILE"}
            assert [each for each in {*variables} - plain if not is_secret(path_of(each.removesuffix("_FILE")))] == []


def test_secrets_reach_only_the_components_that_are_named() -> None:
    """In production, each component has a role of its own in the history's database."""
    objects = pods(rendered(example("production")))
    used = {
        component: {
            source["secret"]["name"]
            for volume in pod["spec"]["volumes"]
            for source in volume.get("projected", {}).get("sources", ())
        }
        for component, pod in objects.items()
    }
    assert used["migrate"] == {"pipeline-history-owner"}
    assert used["board"] == {"pipeline-board", "pipeline-kafka"}
    assert used["serve"] == used["triggers"] == {"pipeline-source", "pipeline-history", "pipeline-kafka"}


def test_written_configs_are_valid(tmp_path: Path) -> None:
    """The job config and the triggers of the examples, as the pods get them."""
    found = set()
    for name in EXAMPLES:
        objects = rendered(example(name))
        for pod in pods(objects).values():
            for path, text in files(objects, pod):
                here = tmp_path / Path(path).name
                if text is not None:
                    here.write_text(text)
                if here.name == "job.yaml":
                    assert load_job_config(here).datasets
                elif here.name == "triggers.yaml":
                    assert load_triggers(here, job_config=None, kafka=Settings().kafka).triggers
                found.add(here.name)
    assert found >= {"job.yaml", "triggers.yaml", "settings.yaml"}


@pytest.mark.parametrize("drain_seconds", [0, 0.5, 60, 3600])
def test_pods_end_after_their_drain(drain_seconds: float, tmp_path: Path) -> None:
    """A process takes up to 1.5 s longer than it may drain."""
    objects = rendered(example("own-image", **{"settings.worker": {"drain_seconds": drain_seconds}}))
    for component in ("serve", "triggers"):
        pod = pods(objects)[component]
        assert settings_of(pod, objects, tmp_path / component).settings.worker.drain_seconds == drain_seconds
        assert pod["spec"]["terminationGracePeriodSeconds"] == math.ceil(drain_seconds) + 15


@pytest.mark.parametrize(("budget", "concurrency"), [(256, 4), (1024, 8)])
def test_memory_follows_the_budget(budget: int, concurrency: int) -> None:
    """The process is promised the budget + 150 MiB, and may use 100 MiB more for each run in a process of its own."""
    worker = {"memory_budget_mib": budget, "concurrency": concurrency}
    resources = container(pods(rendered(example("trial", **{"settings.worker": worker})))["serve"])["resources"]
    assert resources["requests"]["memory"] == f"{budget + 150}Mi"
    assert resources["limits"] == {"memory": f"{budget + 150 + 100 * concurrency}Mi"}


def test_commands_are_those_of_the_command_line() -> None:
    """Each pod's, and each that the notes and the page tell to run in a pod."""
    command = program()
    lines = []
    for name in EXAMPLES:
        lines += [container(pod)["command"] for pod in pods(rendered(example(name))).values()]
    texts = [notes(example("production")), (ROOT / "docs/deployment.md").read_text("utf-8")]
    found = [line for text in texts for line in re.findall(r"^ *kubectl .* -- (pipeline-processing .*)$", text, re.M)]
    assert len(found) >= 4
    for first, *rest in [line[1:] for line in (*lines, *map(shlex.split, found))]:
        command.commands[first].make_context(first, rest)


def test_the_page_leads_to_an_installation(tmp_path: Path) -> None:
    """Its values are valid, and every pod gets what its command requires."""
    page = (ROOT / "docs/deployment.md").read_text("utf-8")
    (text,) = re.findall(r"^cat > values.yaml <<'END'\n(.*?)^END$", page, re.M | re.DOTALL)
    objects = rendered(yaml.safe_load(text) | {"jobConfig": {"content": "job: agency_data_job"}})
    for component, pod in pods(objects).items():
        assert settings_of(pod, objects, tmp_path / component).settings.require_destination()
    named = re.findall(r"(?:deploy|service|job)/(exports-[\w-]+)", page)
    assert {*named} <= {each["metadata"]["name"] for each in objects}


def test_documented_values_are_there() -> None:
    """Every `name.of.a.value` in the table of the page."""
    page = (ROOT / "docs/deployment.md").read_text("utf-8")
    table = page.partition("## Kubernetes")[2].partition("\n## ")[0]
    paths = re.findall(r"^\| `([\w.]+)`", table, re.M)
    assert len(paths) > 5
    for path in paths:
        here: Any = merged({})
        for name in path.split("."):
            assert name in here, path
            here = here[name]
