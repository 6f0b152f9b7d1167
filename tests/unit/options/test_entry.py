"""Steps, sources and destinations as a job config writes them: a mapping with one key, the kind, and its options."""

import pickle
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator, BaseModel, TypeAdapter, ValidationError

from pipeline_processing import plugins
from pipeline_processing.agency_data_job.entries import DestinationEntry, SourceEntry
from pipeline_processing.options.entry import Entry
from pipeline_processing.plugins import BUILT_IN, Plugin
from pipeline_processing.steps.config import StepEntry
from tests.unit.plugged import installed


class Options(BaseModel):
    limit: int
    names: tuple[str, ...] = ("a",)
    place: str = "here"


GOOD = Plugin(options=Options, build=lambda options, context: None)
PLAIN = Plugin(options=list[int], build=lambda options, context: None)
EXITING = Plugin(options=Annotated[int, AfterValidator(sys.exit)], build=lambda options, context: None)


@pytest.fixture(autouse=True)
def _acme() -> Iterator[None]:
    names = ("GOOD", "PLAIN", "EXITING")
    with installed(
        *(EntryPoint(f"acme.{name.lower()}", f"{__name__}:{name}", plugins.STEPS) for name in names),
        EntryPoint("acme.good", f"{__name__}:GOOD", plugins.DESTINATIONS),
    ):
        yield


@pytest.mark.parametrize(
    ("written", "kind", "options", "timeout"),
    [
        ({"select": ["a"]}, "select", ("a",), None),
        ({"timeout": "2s", "filter": "a > 1"}, "filter", "a > 1", 2),
        ({"validate": {"json_schema": True}, "timeout": "1m"}, "validate", None, 60),
        ({"acme.good": {"limit": "5"}, "timeout": "2s"}, "acme.good", Options(limit=5), 2),
        ({"acme.plain": [1, 2]}, "acme.plain", [1, 2], None),
    ],
)
def test_an_entry_is_read_by_its_key(written: Any, kind: str, options: Any, timeout: float | None):
    """What may stand beside the key says nothing about the kind, on either side of it."""
    entry = StepEntry.model_validate(written)

    assert (entry.kind, entry.is_plugin) == (kind, "." in kind)
    assert options is None or entry.options == options
    assert (entry.timeout and entry.timeout.total_seconds()) == timeout
    assert StepEntry.model_validate(entry) is entry
    assert StepEntry.model_validate(entry.model_dump(mode="json", by_alias=True)) == entry


@pytest.mark.parametrize("written", [{"green": 1}, {}, {"timeout": "2s"}, "select", None, 5, ["select"], {1: 2}])
def test_an_unknown_kind(written: Any):
    """The message has all kinds, and how those of other packages are written."""
    with pytest.raises(ValidationError) as raised:
        StepEntry.model_validate(written)

    (fault,) = raised.value.errors()
    assert fault["msg"].split(": did you mean")[0].split(".")[0] == "unknown step"
    assert "did you mean" in fault["msg"] or fault["msg"].endswith(
        f" A step is a mapping with one of the keys {', '.join(BUILT_IN[plugins.STEPS])}, or the name of "
        "another package's step, which has a dot"
    )


@pytest.mark.parametrize(
    ("group", "written", "message"),
    [
        (StepEntry, {"select": ["a"], "drop": ["b"]}, "needs one key beside `timeout`, and has 'select', 'drop'"),
        (StepEntry, {"acme.good": {}, "drop": ["b"]}, "needs one key beside `timeout`, and has 'acme.good', 'drop'"),
        (SourceEntry, {"http": {}, "postgres": {}}, "needs one key, and has 'http', 'postgres'"),
        (StepEntry, {"acme.none": {}}, "no installed package provides 'acme.none'.*available: acme.exiting, acme.good"),
        (DestinationEntry, {"acme.plain": {}}, "no installed package provides 'acme.plain'.*available: acme.good"),
        (StepEntry, {"acme.exiting": 5}, r"'acme\.exiting' can't check its options: SystemExit: 5"),
    ],
)
def test_an_entry_that_cannot_be_read(group: type[Entry], written: Any, message: str):
    """The message says what to correct."""
    with pytest.raises(ValidationError, match=message):
        group.model_validate(written)


def test_all_faults_of_all_entries_at_once():
    """Each by its place, whoever offers the step."""
    written = [
        {"mask": {"columns": 1, "using": "rot13"}},
        {"select": [], "timeout": 5},
        {"acme.good": {"limit": "many"}},
        {"green": 1},
    ]
    with pytest.raises(ValidationError) as raised:
        TypeAdapter(list[StepEntry]).validate_python(written)

    assert [".".join(map(str, fault["loc"])) for fault in raised.value.errors()] == [
        "0.mask.columns",
        "0.mask.using",
        "1.timeout",
        "1.select",
        "2.acme.good.limit",
        "3",
    ]


def test_only_built_in_options_answer_questions():
    """An option of another package may be called like a question, and mean something else."""
    step = StepEntry.model_validate({"acme.good": {"limit": 1}})
    destination = DestinationEntry.model_validate({"acme.good": {"limit": 1}})

    assert (step.names, destination.place, destination.holds_manifest) == (frozenset(), None, False)
    assert destination.guarantee == "what its package says"
    assert StepEntry.model_validate({"add": {"by": "{run_id}", "odd": "{"}}).names == {"run_id"}


@pytest.mark.parametrize(("group", "kind"), [(group, kind) for group, kinds in BUILT_IN.items() for kind in kinds])
def test_every_built_in_is_a_plugin(group: str, kind: str):
    """The module that the list names has a `PLUGIN`."""
    assert isinstance(plugins.plugin(group, kind), Plugin)


@pytest.mark.parametrize(
    ("entry", "written"),
    [
        (StepEntry, {"select": ["id"], "timeout": "5s"}),
        (StepEntry, {"validate": {"model": "mycompany.models:Order"}}),
        (StepEntry, {"acme.good": {"limit": 1}}),
        (SourceEntry, {"postgres": {"query": "SELECT 1 AS id"}}),
        (DestinationEntry, {"s3": {"bucket": "exports", "tags": {"agency": "{agency_id}"}}}),
    ],
)
def test_an_entry_is_pickled(entry: type[Entry], written: dict[str, Any]) -> None:
    """An isolated attempt gets its job config from its parent."""
    read: Entry = TypeAdapter(entry).validate_python(written)

    again = pickle.loads(pickle.dumps(read))

    assert type(again) is type(read)
    assert again == read


def test_an_entry_is_unpickled_by_a_process_that_has_read_no_job_config() -> None:
    """The classes of entries are made there, too."""
    pickled = pickle.dumps(TypeAdapter(StepEntry).validate_python({"mask": {"columns": ["email"], "using": "redact"}}))
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).options.columns)"

    done = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True, check=False)

    assert (done.stdout.strip(), done.stderr) == (b"('email',)", b"")
