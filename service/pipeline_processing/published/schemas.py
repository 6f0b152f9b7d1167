"""
Generate the files in `schemas/` from the models.

Users, upstream services and operators validate against them. A test checks that the committed files are up to date.
"""

import json
from typing import Any

import yaml

from pipeline_processing import errors
from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.errors import PipelineError
from pipeline_processing.model import JobRequest
from pipeline_processing.options.json_schema import PublishedModel, schema_document
from pipeline_processing.published import asyncapi
from pipeline_processing.published.remedies import REMEDIES
from pipeline_processing.runs.completions import RunCompletion, RunProgress
from pipeline_processing.runs.manifest import Manifest
from pipeline_processing.triggers.config import Triggers

JOB_REQUEST = PublishedModel("job-request", "Job request", JobRequest, "validation")
RUN_COMPLETION = PublishedModel("run-completion", "Run completion", RunCompletion, "serialization")
RUN_PROGRESS = PublishedModel("run-progress", "Run progress", RunProgress, "serialization")
MANIFEST = PublishedModel("manifest", "Manifest", Manifest, "serialization")
JOB_CONFIG = PublishedModel("job-config", "Job config", AgencyJobConfig, "validation")
TRIGGERS = PublishedModel("triggers", "Triggers", Triggers, "validation")

MODELS = (JOB_REQUEST, RUN_COMPLETION, RUN_PROGRESS, MANIFEST, JOB_CONFIG, TRIGGERS)


def schema_files() -> dict[str, str]:
    """Return the content of each generated file, by file name."""
    documents = {f"{published.name}.schema.json": _json(schema_document(published)) for published in MODELS}
    return documents | {
        "error-kinds.json": _json(error_kinds()),
        "asyncapi.yaml": _yaml(asyncapi.document(JOB_REQUEST, RUN_COMPLETION, RUN_PROGRESS)),
    }


def error_kinds() -> dict[str, dict[str, Any]]:
    """Return exit code, retryability, description and remedy of each error, by `error.kind`."""
    return {
        error.kind: {
            "exit_code": error.exit_code,
            "retryable": error.retryable,
            "description": _summary(error),
            "remedy": REMEDIES[error.kind],
        }
        for error in _errors_by_kind()
    }


def _errors_by_kind() -> list[type[PipelineError]]:
    """
    Return one class per kind, sorted by kind: the most specific one if a base class shares the kind.

    Only classes in `errors.py` count. Otherwise the result would depend on which modules are imported.
    """
    classes = [error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, PipelineError)]
    by_depth = sorted(classes, key=lambda error: len(error.__mro__))
    return sorted({error.kind: error for error in by_depth}.values(), key=lambda error: error.kind)


def _summary(error: type[PipelineError]) -> str:
    """Return the first paragraph of the docstring, on one line."""
    return " ".join((error.__doc__ or "").split("\n\n")[0].split())


# -- bytes ---------------------------------------------------------------------------------------


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


class _Dumper(yaml.SafeDumper):
    """A dumper without anchors and aliases, for readability."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _yaml(document: dict[str, Any]) -> str:
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text
