"""The published schemas: equal to the code, valid, and of one mind with the models."""

import importlib
import json
import pkgutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import jsonschema_rs
import pytest
import typer
import yaml
from jsonschema_rs import Draft7Validator, Draft202012Validator
from pydantic import ValidationError

import pipeline_processing
from pipeline_processing.board import openapi
from pipeline_processing.cli import schemas as command
from pipeline_processing.cli.schemas import differences
from pipeline_processing.errors import PipelineError, RequestError
from pipeline_processing.model import JobRequest, Run, RunFailure, RunState
from pipeline_processing.options.json_schema import PublishedModel
from pipeline_processing.published.asyncapi import DEAD_LETTER_REASONS
from pipeline_processing.published.remedies import REMEDIES
from pipeline_processing.published.schemas import (
    JOB_CONFIG,
    JOB_REQUEST,
    MANIFEST,
    MODELS,
    RUN_COMPLETION,
    RUN_PROGRESS,
    TRIGGERS,
    error_kinds,
    schema_files,
)
from pipeline_processing.runs.completions import RunCompletion, RunProgress, completion_event
from pipeline_processing.runs.manifest import Manifest

FOLDER = Path(__file__).parents[3] / "schemas"
FILES = schema_files()
ASYNCAPI = yaml.load(FILES["asyncapi.yaml"], yaml.CSafeLoader)
PUBLISHED = {published.name: published for published in MODELS}
EXAMPLES = sorted((FOLDER / "examples").iterdir())

NOON = datetime(2026, 1, 18, 12, 0, 0, 250_000, tzinfo=UTC)
TRACE = "6f1c0a9d27b84e53a1d2c3b4e5f60718"
SMALL, FULL = "job-config.small.yaml", "job-config.full.yaml"
TRIGGERS_FULL = "triggers.full.yaml"


def validator(published: PublishedModel) -> Draft202012Validator:
    """Of the published file, not of the model."""
    return Draft202012Validator(json.loads(FILES[f"{published.name}.schema.json"]))


def accepted_by_model(published: PublishedModel, document: Any) -> bool:
    """As the service parses it: JSON for messages, parsed YAML for the job config and triggers."""
    try:
        if published in (JOB_CONFIG, TRIGGERS):
            published.model.model_validate(document)
        else:
            published.model.model_validate_json(json.dumps(document))
    except ValidationError:
        return False
    return True


def example(name: str) -> Any:
    return yaml.load((FOLDER / "examples" / name).read_text("utf-8"), yaml.CSafeLoader)


# -- the files -----------------------------------------------------------------------------------


def test_the_files_are_those_the_code_generates() -> None:
    """`pipeline-processing schemas` would change nothing."""
    assert differences(FOLDER, FILES) == []


def test_generating_twice_gives_the_same_bytes() -> None:
    """A comparison with the repository means something."""
    assert schema_files() == FILES
    assert all(content.endswith("\n") and not content.endswith("\n\n") for content in FILES.values())


@pytest.mark.parametrize("published", MODELS, ids=lambda published: published.name)
def test_each_schema_is_valid_and_says_what_it_is(published: PublishedModel) -> None:
    """2020-12, with a urn, a title and a description, in this order."""
    schema = json.loads(FILES[f"{published.name}.schema.json"])

    jsonschema_rs.meta.validate(schema)
    assert list(schema)[:4] == ["$schema", "$id", "title", "description"]
    assert schema["$id"] == f"urn:pipeline-processing:schema:{published.name}"


def test_a_folder_that_differs_is_told_file_by_file(tmp_path: Path) -> None:
    """Missing, changed and left-over files, each by its path."""
    (tmp_path / "a.schema.json").write_text("{}")
    (tmp_path / "old.schema.json").write_text("{}")

    assert differences(tmp_path, {"a.schema.json": "{}\n", "b.schema.json": "{}"}) == [
        f"{tmp_path}/a.schema.json: differs from the code",
        f"{tmp_path}/b.schema.json: missing",
        f"{tmp_path}/old.schema.json: isn't generated any more; delete it",
    ]


def test_the_command_writes_the_files_and_checks_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--check` succeeds on what was written; a changed file is named, with the remedy."""
    app = typer.Typer()
    app.command()(command.schemas)
    folder = tmp_path / "new" / "schemas"

    app(["--output", str(folder)], standalone_mode=False)
    written = {path.name: path.read_text("utf-8") for path in folder.iterdir()}
    assert written == FILES | {"board.openapi.json": openapi.file()}
    assert not app(["--output", str(folder), "--check"], standalone_mode=False)

    (folder / "asyncapi.yaml").write_text("asyncapi: 2.6.0\n")
    assert app(["--output", str(folder), "--check"], standalone_mode=False) == 1
    told = capsys.readouterr().err
    assert f"{folder}/asyncapi.yaml: differs" in told
    assert f"pipeline-processing schemas --output {folder}" in told


# -- examples ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_each_example_is_accepted_by_schema_and_model(path: Path) -> None:
    """What we show works."""
    published = PUBLISHED[path.name.split(".")[0]]
    document = yaml.safe_load(path.read_text("utf-8"))

    validator(published).validate(document)
    assert accepted_by_model(published, document)


def test_every_schema_has_an_example() -> None:
    """Nothing is published without showing one."""
    assert {path.name.split(".")[0] for path in EXAMPLES} == set(PUBLISHED)


CONTRACT_RUN = {"run_id": "run-20260118-123", "job": "agency_data_job", "agency_id": 123}
CONTRACT_COUNTS = {"rows_read": 10, "rows_written": 9, "rows_filtered": 0, "rows_rejected": 1}
CONTRACT_AT = "2026-01-18T10:00:00Z"
CONTRACT = [
    (
        JOB_REQUEST,
        {
            **CONTRACT_RUN,
            "datasets": ["records"],
            "params": {},
            "since": None,
            "until": None,
            "format": None,
            "dry_run": False,
            "requested_by": "billing-service",
            "labels": {},
            "priority": 0,
            "not_before": None,
            "deadline": None,
            "replay_of": None,
        },
    ),
    (
        RUN_COMPLETION,
        {
            **CONTRACT_RUN,
            "state": "succeeded",
            "attempt": 1,
            "dry_run": False,
            "replay_of": None,
            "requested_at": CONTRACT_AT,
            "started_at": CONTRACT_AT,
            "finished_at": CONTRACT_AT,
            "duration_ms": 1234,
            **CONTRACT_COUNTS,
            "bytes_written": 4321,
            "manifest": "s3://exports/agencies/agency_id=123/run_id=run-20260118-123/_manifest.json",
            "trace_id": TRACE,
            "error": None,
        },
    ),
    (
        RUN_PROGRESS,
        {
            "run_id": "run-20260118-123",
            "agency_id": 123,
            "attempt": 1,
            "state": "running",
            "dataset": "records",
            "stage": "upload",
            "rows_read": 10,
            "rows_written": 9,
            "bytes_written": 4321,
            "at": CONTRACT_AT,
        },
    ),
    (
        MANIFEST,
        {
            "version": 1,
            **CONTRACT_RUN,
            "attempt": 1,
            "trace_id": TRACE,
            "snapshot_at": CONTRACT_AT,
            "created_at": CONTRACT_AT,
            **CONTRACT_COUNTS,
            "datasets": [{"name": "records", **CONTRACT_COUNTS}],
            "entries": [
                {
                    "url": "s3://exports/agencies/records/part-00000.ndjson",
                    "mandatory": True,
                    "dataset": "records",
                    "format": "ndjson",
                    "compression": "none",
                    "rows": 9,
                    "meta": {"content_length": 4321},
                    "sha256": "ab" * 32,
                }
            ],
            "rejected": [
                {
                    "url": "s3://exports/agencies/_rejected/records/part-00000.ndjson",
                    "dataset": "records",
                    "rows": 1,
                    "meta": {"content_length": 99},
                    "sha256": "cd" * 32,
                }
            ],
        },
    ),
    (
        JOB_CONFIG,
        {
            "job": "agency_data_job",
            "datasets": [
                {
                    "name": "records",
                    "source": {
                        "postgres": {
                            "query": "SELECT * FROM agency_records WHERE agency_id = $1 ORDER BY id",
                            "args": ["agency_id"],
                            "statement_timeout": "1h",
                        }
                    },
                    "steps": [
                        {"select": ["id", "name", "status", "amount", "created_at", "attributes"]},
                        {"rename": {"name": "display_name"}},
                        {"add": {"exported_by": "{run_id}"}},
                        {"filter": "status != 'deleted'"},
                        {"python": "mycompany.steps:normalise"},
                        {"python": {"function": "mycompany.steps:rate", "reads": ["id"], "adds": {"n": "integer"}}},
                        {"python": {"function": "mycompany.steps:rate", "reads": ["id"], "takes": "columns"}},
                    ],
                    "format": "ndjson",
                    "compression": "none",
                    "expect": {"min_rows": 1},
                }
            ],
            "destinations": [{"s3": {"bucket": "exports", "prefix": "agencies"}}],
        },
    ),
    (
        TRIGGERS,
        {
            "triggers": [
                {
                    "topic": "agencies.events",
                    "match": {"type": "agency.updated"},
                    "agency_id": "data.agency_id",
                    "datasets": ["records"],
                    "debounce": {"quiet_for": "10s", "at_latest_after": "5m"},
                }
            ]
        },
    ),
]


@pytest.mark.parametrize(("published", "document"), CONTRACT, ids=[published.name for published, _ in CONTRACT])
def test_the_documents_of_the_contract_are_accepted(published: PublishedModel, document: Any) -> None:
    """Every key that users were promised, by schema and model."""
    validator(published).validate(document)
    assert accepted_by_model(published, document)


@pytest.mark.parametrize("initial", [None, "-infinity", "2026-01-18T10:00:00Z", "2026-01-18T10:00:00.5+02:00"])
def test_a_first_since(initial: str | None) -> None:
    """Null is a choice, and so is everything."""
    document = changed(SMALL, "datasets", 0, "initial", to=initial)

    validator(JOB_CONFIG).validate(document)
    assert accepted_by_model(JOB_CONFIG, document)


# -- counter-examples ----------------------------------------------------------------------------


def changed(name: str, *path: str | int, to: Any) -> Any:
    """An example with one value replaced, or added."""
    document = example(name)
    where = document
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = to
    return document


def without(name: str, key: str) -> Any:
    document = example(name)
    del document[key]
    return document


REFUSED = {
    "no agency": (JOB_REQUEST, {}),
    "agency 0": (JOB_REQUEST, {"agency_id": 0}),
    "agency beyond bigint": (JOB_REQUEST, {"agency_id": 2**63}),
    "agency as no word": (JOB_REQUEST, {"agency_id": "seven\t"}),
    "half an agency": (JOB_REQUEST, {"agency_id": 7.5}),
    "unknown key": (JOB_REQUEST, {"agency_id": 7, "bucket": "elsewhere"}),
    "run id with a slash": (JOB_REQUEST, {"agency_id": 7, "run_id": "a/b"}),
    "run id with a dot first": (JOB_REQUEST, {"agency_id": 7, "run_id": "..a"}),
    "run id of 129 characters": (JOB_REQUEST, {"agency_id": 7, "run_id": "r" * 129}),
    "time without an offset": (JOB_REQUEST, {"agency_id": 7, "since": "2026-01-18T10:00:00"}),
    "a date for a time": (JOB_REQUEST, {"agency_id": 7, "deadline": "2026-01-18"}),
    "unknown format": (JOB_REQUEST, {"agency_id": 7, "format": "xml"}),
    "a nested param": (JOB_REQUEST, {"agency_id": 7, "params": {"where": {"a": 1}}}),
    "datasets as text": (JOB_REQUEST, {"agency_id": 7, "datasets": "permits"}),
    "priority beyond smallint": (JOB_REQUEST, {"agency_id": 7, "priority": 32768}),
    "17 labels": (JOB_REQUEST, {"agency_id": 7, "labels": {f"k{number}": "" for number in range(17)}}),
    "a label with a space": (JOB_REQUEST, {"agency_id": 7, "labels": {"a b": ""}}),
    "a label that is a number": (JOB_REQUEST, {"agency_id": 7, "labels": {"a": 1}}),
    "a label of 257 characters": (JOB_REQUEST, {"agency_id": 7, "labels": {"a": "v" * 257}}),
    "a label with a tab": (JOB_REQUEST, {"agency_id": 7, "labels": {"a": "\t"}}),
    "no error key": (RUN_COMPLETION, without("run-completion.failed.json", "error")),
    "not finished": (RUN_COMPLETION, changed("run-completion.failed.json", "state", to="running")),
    "a negative count": (RUN_COMPLETION, changed("run-completion.succeeded.json", "rows_read", to=-1)),
    "an error without kind": (RUN_COMPLETION, changed("run-completion.failed.json", "error", to={"message": "no"})),
    "an unknown state": (RUN_PROGRESS, changed("run-progress.json", "state", to="paused")),
    "a short checksum": (MANIFEST, changed("manifest.json", "entries", 0, "sha256", to="abc")),
    "another version": (MANIFEST, changed("manifest.json", "version", to=2)),
    "no datasets": (JOB_CONFIG, {"datasets": []}),
    "a dataset with a slash": (JOB_CONFIG, changed(SMALL, "datasets", 0, "name", to="a/b")),
    "two keys in a step": (
        JOB_CONFIG,
        changed(SMALL, "datasets", 0, "steps", to=[{"select": ["id"], "filter": "id > 1"}]),
    ),
    "an unknown step": (JOB_CONFIG, changed(SMALL, "datasets", 0, "steps", to=[{"sort": ["id"]}])),
    "a step without a key": (JOB_CONFIG, changed(SMALL, "datasets", 0, "steps", to=[{}])),
    "an empty select": (JOB_CONFIG, changed(SMALL, "datasets", 0, "steps", to=[{"select": []}])),
    "a function without a module": (
        JOB_CONFIG,
        changed(SMALL, "datasets", 0, "steps", to=[{"python": "normalise"}]),
    ),
    "a function without columns": (
        JOB_CONFIG,
        changed(SMALL, "datasets", 0, "steps", to=[{"python": {"function": "a:f", "adds": {"n": "integer"}}}]),
    ),
    "a duration without a unit": (
        JOB_CONFIG,
        changed(SMALL, "datasets", 0, "source", "postgres", "statement_timeout", to="90"),
    ),
    "a duration as a number": (
        JOB_CONFIG,
        changed(SMALL, "datasets", 0, "source", "postgres", "statement_timeout", to=90),
    ),
    "a first since without a zone": (
        JOB_CONFIG,
        changed(SMALL, "datasets", 0, "initial", to="2026-01-18T10:00:00"),
    ),
    "a param without a type": (JOB_CONFIG, changed(FULL, "params", to={"district": {"default": "x"}})),
    "a param of an unknown type": (JOB_CONFIG, changed(FULL, "params", to={"district": {"type": "regexp"}})),
    "unknown compression": (JOB_CONFIG, changed(SMALL, "datasets", 0, "compression", to="zip")),
    "fewer than no rows": (JOB_CONFIG, changed(SMALL, "datasets", 0, "expect", to={"min_rows": -1})),
    "no destination for the manifest": (
        JOB_CONFIG,
        changed(FULL, "destinations", to=[{"postgres": {"dsn": "warehouse_dsn"}}, {"acme.lake": {}}]),
    ),
    "a destination of two kinds": (
        JOB_CONFIG,
        changed(FULL, "destinations", to=[{"file": {"path": "/a"}, "s3": {"bucket": "abc"}}]),
    ),
    "a relative folder": (JOB_CONFIG, changed(FULL, "destinations", to=[{"file": {"path": "exports"}}])),
    "no triggers": (TRIGGERS, {"triggers": []}),
    "a trigger without an agency": (TRIGGERS, {"triggers": [{"topic": "t"}]}),
    "a trigger of two kinds": (TRIGGERS, changed(TRIGGERS_FULL, "triggers", 1, "topic", to="t")),
    "a trigger's unknown key": (TRIGGERS, changed(TRIGGERS_FULL, "triggers", 0, "dataset", to="records")),
    "a trigger's name in capitals": (TRIGGERS, changed(TRIGGERS_FULL, "triggers", 0, "name", to="Nightly")),
    "a topic with a space": (TRIGGERS, changed(TRIGGERS_FULL, "triggers", 0, "topic", to="a b")),
    "a path that leads nowhere": (TRIGGERS, changed(TRIGGERS_FULL, "triggers", 0, "agency_id", to="data..id")),
    "a condition that is an object": (TRIGGERS, changed(TRIGGERS_FULL, "triggers", 0, "match", "body", to={"a": {}})),
    "a param from nowhere": (TRIGGERS, changed(TRIGGERS_FULL, "triggers", 0, "params", to={"a": {"default": 1}})),
    "a schedule with a param from an event": (
        TRIGGERS,
        changed(TRIGGERS_FULL, "triggers", 1, "params", to={"kind": {"from": "key"}}),
    ),
    "a schedule without agencies": (TRIGGERS, changed(TRIGGERS_FULL, "triggers", 1, "schedule", "agencies", to=[])),
}


@pytest.mark.parametrize(("published", "document"), REFUSED.values(), ids=REFUSED.keys())
def test_a_counter_example_is_refused_by_schema_and_model(published: PublishedModel, document: Any) -> None:
    """Whoever checks with the schema is never surprised by the service."""
    assert not validator(published).is_valid(document)
    assert not accepted_by_model(published, document)


# -- what the service sends ----------------------------------------------------------------------


def finished_run(state: RunState, **fields: Any) -> Run:
    return Run(
        run_id="permits-7",
        job="agency_data_job",
        agency_id=7,
        state=state,
        attempt=1,
        request=JobRequest(agency_id=7),
        queued_at=NOON,
        started_at=NOON,
        finished_at=NOON + timedelta(seconds=2),
        trace_id=TRACE,
        span_id="a1b2c3d4e5f60718",
        **fields,
    )


FAILURE = RunFailure(kind="query_failed", message="division by zero", retryable=False, exit_code=1)
FINISHED = [
    finished_run(RunState.SUCCEEDED, manifest_url="file:///exports/_manifest.json"),
    finished_run(RunState.FAILED, error=FAILURE),
    finished_run(RunState.CANCELLED),
]


@pytest.mark.parametrize("run", FINISHED, ids=lambda run: str(run.state))
def test_an_announced_run_matches_its_schemas(run: Run) -> None:
    """The very bytes and headers of the outbox, by the JSON Schema and the AsyncAPI document."""
    event = completion_event(run)
    message = resolved(f"#/components/messages/run{run.state.capitalize()}")

    validator(RUN_COMPLETION).validate(json.loads(event.value))
    in_asyncapi(message["payload"]).validate(json.loads(event.value))
    in_asyncapi(message["headers"]).validate(dict(event.headers))
    in_asyncapi(message["bindings"]["kafka"]["key"]).validate(event.key)


@pytest.mark.parametrize(
    ("published", "message"),
    [
        (
            RUN_PROGRESS,
            RunProgress(
                run_id="permits-7",
                agency_id=7,
                attempt=1,
                state=RunState.RUNNING,
                dataset=None,
                stage=None,
                rows_read=0,
                rows_written=0,
                bytes_written=0,
                at=NOON,
            ),
        ),
        (
            MANIFEST,
            Manifest(
                job="agency_data_job",
                agency_id=7,
                run_id="permits-7",
                attempt=1,
                trace_id=TRACE,
                snapshot_at=NOON,
                created_at=NOON,
                rows_read=0,
                rows_written=0,
                rows_filtered=0,
                rows_rejected=0,
                datasets=(),
                entries=(),
            ),
        ),
    ],
    ids=["progress", "manifest"],
)
def test_a_message_with_defaults_matches_its_schema(published: PublishedModel, message: RunProgress | Manifest) -> None:
    """Defaults are sent, so the schema may require them."""
    validator(published).validate(json.loads(message.model_dump_json()))


@pytest.mark.parametrize("published", [RUN_COMPLETION, RUN_PROGRESS, MANIFEST], ids=lambda p: p.name)
def test_a_reader_can_rely_on_every_key(published: PublishedModel) -> None:
    """All that the service sends is always there, but for what messages of earlier versions lack."""
    schema = json.loads(FILES[f"{published.name}.schema.json"])

    for part in (schema, *schema.get("$defs", {}).values()):
        properties = part.get("properties", {})
        assert part.get("required", []) == [name for name, its in properties.items() if "$comment" not in its]


# -- the error kinds -----------------------------------------------------------------------------


def below(error: type[PipelineError]) -> list[type[PipelineError]]:
    return [error, *(found for child in error.__subclasses__() for found in below(child))]


def test_the_table_has_every_kind_of_the_package() -> None:
    """No module has a kind of its own that the published table lacks."""
    for module in pkgutil.walk_packages(pipeline_processing.__path__, "pipeline_processing."):
        importlib.import_module(module.name)

    assert {error.kind for error in below(PipelineError)} == set(error_kinds()) == set(REMEDIES)


def test_every_class_agrees_with_the_row_of_its_kind() -> None:
    """A class that shares a kind has the same exit code, or the table would be wrong about one of them."""

    kinds = error_kinds()
    # PublicationError only groups the two below it, and is never raised itself.
    raised = [error for error in below(PipelineError) if error.__name__ != "PublicationError"]
    assert {(e.__name__, e.exit_code) for e in raised} == {(e.__name__, kinds[e.kind]["exit_code"]) for e in raised}


def test_every_kind_is_described_has_a_remedy_and_has_an_exit_code_of_the_contract() -> None:
    """The table answers what a kind means and how `run` ends."""
    for row in error_kinds().values():
        assert row["description"].endswith(".")
        assert row["remedy"].endswith(".")
        assert row["exit_code"] in (1, 64, 65, 69, 70, 75, 77, 78, 79)


# -- the AsyncAPI document -----------------------------------------------------------------------


def resolved(reference: str) -> Any:
    """What a reference points to. Raises KeyError if it dangles."""
    assert reference.startswith("#/"), f"{reference} leads out of the document"
    found = ASYNCAPI
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [found for value in node.values() for found in references(value)]
    return [found for value in node for found in references(value)] if isinstance(node, list) else []


def in_asyncapi(schema: dict[str, Any]) -> Draft7Validator:
    """A schema of the document, with what it refers to; AsyncAPI's own dialect is a superset of draft 7."""
    return Draft7Validator({"allOf": [schema], "components": ASYNCAPI["components"]})


def test_no_reference_dangles() -> None:
    """The document stands alone."""
    found = references(ASYNCAPI)

    assert found
    for reference in found:
        assert resolved(reference)


def test_every_message_has_an_operation_of_its_own() -> None:
    """Of an operation with several, generators make a union, whose classes Jackson can't tell apart."""
    messages = {
        f"#/channels/{channel}/messages/{message}"
        for channel, its in ASYNCAPI["channels"].items()
        for message in its["messages"]
    }
    used = [[message["$ref"] for message in operation["messages"]] for operation in ASYNCAPI["operations"].values()]

    assert sorted(used) == [[message] for message in sorted(messages)]
    for operation in ASYNCAPI["operations"].values():
        assert operation["messages"][0]["$ref"].startswith(operation["channel"]["$ref"])


@pytest.mark.parametrize("name", ASYNCAPI["components"]["messages"])
def test_examples_of_messages_match_their_schemas(name: str) -> None:
    """Headers and payload of each."""
    message = ASYNCAPI["components"]["messages"][name]

    assert message["examples"]
    for shown in message["examples"]:
        in_asyncapi(message["payload"]).validate(shown["payload"])
        in_asyncapi(message["headers"]).validate(shown.get("headers", {}))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_schemas_for_generators_accept_the_same(path: Path) -> None:
    """Every example of the JSON Schemas that the document has, too."""
    name = PUBLISHED[path.name.split(".")[0]].model.__name__
    if name in ASYNCAPI["components"]["schemas"]:
        in_asyncapi(ASYNCAPI["components"]["schemas"][name]).validate(yaml.safe_load(path.read_text("utf-8")))


@pytest.mark.parametrize(
    ("name", "document"),
    [
        (published.model.__name__, document)
        for published, document in REFUSED.values()
        if published in (JOB_REQUEST, RUN_COMPLETION, RUN_PROGRESS)
    ],
)
def test_schemas_for_generators_refuse_the_same(name: str, document: Any) -> None:
    """Every counter-example of the JSON Schemas."""
    assert not in_asyncapi({"$ref": f"#/components/schemas/{name}"}).is_valid(document)


def test_the_channels_are_the_topics_of_the_contract() -> None:
    """By their default names, seen from the service."""
    directions = {
        resolved(operation["channel"]["$ref"])["address"]: operation["action"]
        for operation in ASYNCAPI["operations"].values()
    }

    assert ASYNCAPI["asyncapi"] == "3.0.0"
    assert directions == {
        "agency-jobs.requests": "receive",
        "agency-jobs.completions": "send",
        "agency-jobs.progress": "send",
        "agency-jobs.dead-letters": "send",
    }


def test_every_event_type_has_its_message() -> None:
    """Each message that the service announces names its CloudEvents type."""
    types = {
        message["headers"]["properties"]["ce_type"]["const"]
        for name, message in ASYNCAPI["components"]["messages"].items()
        if name.startswith("run")
    }

    states = get_args(RunCompletion.model_fields["state"].annotation)
    assert types == {f"agency.run.{state}" for state in states} | {"agency.run.progress"}


def test_a_request_matches_its_payload_in_either_mode() -> None:
    """Binary: the value is the request. Structured: it is the event's data, and never both."""
    request = example("job-request.full.json")
    event = {"specversion": "1.0", "id": "1", "source": "/permit-portal", "type": "permit.updated", "data": request}
    messages = ASYNCAPI["components"]["messages"]
    binary, structured = (in_asyncapi(messages[name]["payload"]) for name in ("jobRequest", "jobRequestStructured"))

    binary.validate(request)
    structured.validate(event)
    assert not binary.is_valid(event)
    assert not structured.is_valid(request)


def test_dead_letters_know_every_reason_that_a_request_can_be_refused_for() -> None:
    """The kind of a RequestError is the reason of its dead letter."""
    kinds = {error.kind for error in RequestError.__subclasses__()} | {RequestError.kind}

    assert kinds <= set(DEAD_LETTER_REASONS)
