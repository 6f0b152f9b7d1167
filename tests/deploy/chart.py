"""Render the Helm chart as `helm template` does, and validate what it makes, without a cluster or network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml
from jsonschema_rs import Draft202012Validator

CHART = Path(__file__).parents[2] / "deploy/helm/pipeline-processing"
EXAMPLES = sorted(path.stem for path in (CHART / "examples").glob("*.yaml"))
DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))

Object = dict[str, Any]


def _fields(*required: str, **fields: Any) -> dict[str, Any]:
    """The schema of an object with these fields only."""
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_COUNT = {"type": "integer", "minimum": 0}
_SELECTOR = _fields(
    matchLabels=_TEXTS,
    matchExpressions={
        "items": _fields(
            "key",
            "operator",
            key=_TEXT,
            operator={"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
            values={"type": "array", "items": _TEXT},
        )
    },
)
_ENDPOINTS = {
    "type": "array",
    "items": _fields(port=_TEXT, path=_TEXT, interval={"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$"}),
}
_METRIC_TYPES = ["AverageValue", "Value", "Utilization"]
CUSTOM = {
    ("keda.sh/v1alpha1", "TriggerAuthentication"): _fields(
        secretTargetRef={"items": _fields("parameter", "name", "key", parameter=_TEXT, name=_TEXT, key=_TEXT)}
    ),
    ("keda.sh/v1alpha1", "ScaledObject"): _fields(
        "scaleTargetRef",
        "triggers",
        scaleTargetRef=_fields("name", name=_TEXT, kind=_TEXT),
        minReplicaCount=_COUNT,
        maxReplicaCount=_COUNT,
        pollingInterval=_COUNT,
        # Its `behavior` is that of a HorizontalPodAutoscaler.
        advanced=_fields(horizontalPodAutoscalerConfig=_fields(behavior={"type": "object"})),
        triggers={
            "items": _fields(
                "type",
                "metadata",
                type=_TEXT,
                metricType={"enum": _METRIC_TYPES},
                authenticationRef=_fields("name", name=_TEXT),
                metadata=_TEXTS,
            )
        },
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): _fields(
        "selector", "podMetricsEndpoints", selector=_SELECTOR, podMetricsEndpoints=_ENDPOINTS
    ),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): _fields(
        "selector", "endpoints", selector=_SELECTOR, endpoints=_ENDPOINTS
    ),
}
"""The fields of custom resources that the chart may use, below `spec`, by API version and kind."""


def example(name: str, **changes: Any) -> dict[str, Any]:
    """An example's values, with some of them changed: `example("trial", **{"serve.replicas": 3})`."""
    values: dict[str, Any] = deepcopy(yaml.safe_load((CHART / f"examples/{name}.yaml").read_text("utf-8")))
    for path, value in changes.items():
        *sections, last = path.split(".")
        section = values
        for each in sections:
            section = section.setdefault(each, {})
        section[last] = value
    return values


def merged(values: Mapping[str, Any]) -> dict[str, Any]:
    """The chart's defaults with these values."""
    with helm_python.Chart.load(CHART) as chart:
        return chart.merge_values(dict(values))


def rendered(values: Mapping[str, Any]) -> list[Object]:
    """All objects of a release `exports` in the namespace `pipeline`. Raises HelmError for values that are refused."""
    files = _rendered(values)
    texts = [text for name, text in files.items() if not name.endswith("NOTES.txt")]
    return [each for text in texts for each in yaml.safe_load_all(text) if each]


def notes(values: Mapping[str, Any]) -> str:
    """What Helm prints after the installation."""
    (text,) = (text for name, text in _rendered(values).items() if name.endswith("NOTES.txt"))
    return text


def _rendered(values: Mapping[str, Any]) -> dict[str, str]:
    with helm_python.Chart.load(CHART) as chart:
        return chart.render(dict(values), name="exports", namespace="pipeline")


def complaints(values: Mapping[str, Any], version: str) -> list[str]:
    """What `helm lint --strict` says about the chart with these values, from warnings on."""
    report = helm_python.lint(CHART, dict(values), strict=True, kube_version=version)
    return [*report["errors"], *(each["error"] for each in report["messages"] if each["severity"] > 1)]


def validate(thing: Object, version: str) -> None:
    """Raise ValueError unless this Kubernetes would accept the object, which may have no unknown field."""
    if spec := CUSTOM.get((thing["apiVersion"], thing["kind"])):
        schema = _fields("metadata", "spec", apiVersion=_TEXT, kind=_TEXT, metadata={"type": "object"}, spec=spec)
        Draft202012Validator(schema).validate(thing)
        return
    kubernetes = _kubernetes_validate()
    try:
        kubernetes.validate(thing, version, strict=True)
    except kubernetes.ValidationError as error:
        raise ValueError(str(error)) from None


@cache
def _kubernetes_validate() -> Any:
    """Import it when it is used: it takes more than a second, in each process that collects these tests."""
    import kubernetes_validate.utils as kubernetes

    kubernetes.schema_contents = cache(kubernetes.schema_contents)  # it reads a megabyte for each object
    return kubernetes


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def pods(objects: list[Object]) -> dict[str, Object]:
    """The pod of each Deployment and Job, by component."""
    return {
        each["metadata"]["labels"]["app.kubernetes.io/component"]: each["spec"]["template"]
        for each in of_kind(objects, "Deployment", "Job")
    }


def container(pod: Object) -> Object:
    (only,) = pod["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def environment(pod: Object) -> dict[str, str]:
    """The variables of its container."""
    return {each["name"]: each["value"] for each in container(pod)["env"]}


def files(objects: list[Object], pod: Object) -> Iterator[tuple[str, str | None]]:
    """Path and content of each mounted file; None for the content of an object that isn't the chart's."""
    named = {(each["kind"], each["metadata"]["name"]): each for each in objects}
    folders = {mount["name"]: mount["mountPath"] for mount in container(pod)["volumeMounts"]}
    for volume in pod["spec"]["volumes"]:
        folder = folders[volume["name"]]
        if "configMap" in volume:
            config = named.get(("ConfigMap", volume["configMap"]["name"]))
            for name, text in config["data"].items() if config else ():
                yield f"{folder}/{name}", text
        for source in volume.get("projected", {}).get("sources", ()):
            secret = named.get(("Secret", source["secret"]["name"]))
            for item in source["secret"]["items"]:
                yield f"{folder}/{item['path']}", secret["stringData"][item["key"]] if secret else None
