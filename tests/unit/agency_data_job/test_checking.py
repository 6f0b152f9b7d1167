"""What is wrong with a job config that is valid in itself, found without any server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from pipeline_processing.agency_data_job.checking import faults_without_servers, require_sound
from pipeline_processing.agency_data_job.config import AgencyJobConfig, InvalidJobConfig
from pipeline_processing.errors import InvalidStep, PipelineError, SecretMissing, UnknownColumn
from pipeline_processing.plugins import Plugin
from pipeline_processing.steps.step import Batch, Step
from tests.unit.plugged import installed, step

QUERY = "SELECT id, name, status FROM records WHERE agency_id = $1"
HTTP = {"http": {"url": "https://api.example.com/records", "columns": {"id": "integer", "name": "text"}}}
HOOKS = "tests.unit.steps.hooks"


class Options(BaseModel):
    column: str


class Nameless(Step):
    """Tells nothing about itself."""

    async def __call__(self, batch: Batch) -> Batch:
        return batch


class Knowing(Nameless):
    """Reads a column."""

    def __init__(self, options: Options, context: Any) -> None:
        self.name, self.columns = "acme", context.columns
        context.columns.require(options.column, step="acme")


def fails(options: Options, *, context: Any) -> Any:
    raise ZeroDivisionError("of theirs")


FAILING = Plugin(options=Options, build=fails)
NO_STEP = Plugin(options=Options, build=lambda options, context: "no step")
NAMELESS = Plugin(options=Options, build=lambda options, context: Nameless())
KNOWING = Plugin(options=Options, build=lambda options, context: Knowing(options, context))


@pytest.fixture(autouse=True)
def _acme() -> Iterator[None]:
    names = ("FAILING", "NO_STEP", "NAMELESS", "KNOWING")
    with installed(*(step(f"acme.{name.lower()}", f"{__name__}:{name}") for name in names)):
        yield


def dataset(*steps: Any, source: Any = None, name: str = "records", **options: Any) -> dict[str, Any]:
    """One with these steps; a source that is text is a query."""
    if source is None or isinstance(source, str):
        source = {"postgres": {"query": source or QUERY, "args": ["agency_id"]}}
    return {"name": name, "source": source, "steps": steps, **options}


def job(*datasets: dict[str, Any]) -> AgencyJobConfig:
    return AgencyJobConfig.model_validate({"datasets": datasets})


def config(*steps: Any, **options: Any) -> AgencyJobConfig:
    """A job with one dataset."""
    return job(dataset(*steps, **options))


def faults(checked: AgencyJobConfig, *secrets: str) -> list[PipelineError]:
    return list(faults_without_servers(checked, secrets=secrets))


SOUND: dict[str, list[Any]] = {
    "no steps": [],
    "every step": [
        {"filter": "status <> 'deleted' AND id > 5"},
        {"rename": {"name": "label"}},
        {"add": {"by": "{run_id}", "of": "{a_param_of_the_request}"}},
        {"cast": {"id": "text"}},
        {"derive": {"upper": "upper(label)"}},
        {"mask": {"columns": ["label"], "using": "redact"}},
        {"dedupe": {"by": ["id"]}},
        {"drop": ["status"]},
        {"select": ["id", "label", "by", "of", "upper"]},
    ],
    "what a python step makes": [
        {"python": f"{HOOKS}:watch"},
        {"filter": "made_there = 1"},
        {"select": ["made_there"]},
    ],
    "what a python step declares": [
        {"python": {"function": f"{HOOKS}:watch", "reads": ["name"], "adds": {"length": "integer"}}},
        {"filter": "length > 5 AND name <> '' AND id > 5"},
    ],
}


@pytest.mark.parametrize("steps", SOUND.values(), ids=SOUND)
@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_a_sound_config(steps: list[Any], form: str):
    """Nothing is found."""
    sound = config(*steps, format=form)

    assert faults(sound) == []
    require_sound(sound, secrets=())


UNSOUND: dict[str, tuple[list[Any], type[PipelineError], int, str]] = {
    "a column that the query doesn't have": (
        [{"filter": "stauts = 'a'"}], UnknownColumn, 1, "'stauts'.*have id, name, status",
    ),
    "a misspelt column after select": (
        [{"select": ["id", "name"]}, {"filter": "nmae = 'a'"}], UnknownColumn, 2, "'nmae'.*have id, name",
    ),
    "a dropped column": ([{"drop": ["name"]}, {"select": ["name"]}], UnknownColumn, 2, "'name'.*have id, status"),
    "a column that was renamed away": (
        [{"rename": {"name": "label"}}, {"mask": {"columns": ["name"], "using": "sha256"}}], UnknownColumn, 2, "'name'",
    ),
    "a column that was renamed away behind a python step": (
        [{"python": f"{HOOKS}:watch"}, {"rename": {"name": "label"}}, {"select": ["name"]}], UnknownColumn, 3,
        "'name', but an earlier step left it out or renamed it",
    ),
    "a column that a python step declares and the query lacks": (
        [{"python": {"function": f"{HOOKS}:watch", "reads": ["nmae"]}}], UnknownColumn, 1,
        "reads column 'nmae'.*have id, name, status",
    ),
    "a column that a python step doesn't declare": (
        [{"python": {"function": f"{HOOKS}:watch", "reads": ["name"]}}, {"select": ["made_there"]}], UnknownColumn, 2,
        "'made_there'.*have id, name, status",
    ),
    "a bad expression": ([{"filter": "id ="}], InvalidStep, 1, "ends where a value is expected"),
    "a bad expression to derive": ([{"derive": {"x": "no_such_function(id)"}}], InvalidStep, 1, "no_such_function"),
    "a type that there isn't": ([{"cast": {"id": "colour"}}], InvalidStep, 1, "colour"),
    "a column that is there already": ([{"add": {"id": 1}}], InvalidStep, 1, "would replace the column 'id'"),
    "a module that isn't installed": ([{"python": "nowhere:f"}], InvalidStep, 1, "ModuleNotFoundError"),
    "a plugin that can't be built": (
        [{"acme.failing": {"column": "id"}}], InvalidStep, 1, "'acme.failing' can't be built: ZeroDivisionError",
    ),
    "a plugin that is no step": (
        [{"acme.no_step": {"column": "id"}}], InvalidStep, 1, "'acme.no_step' built a str, not a Step",
    ),
    "a plugin that is no whole step": (
        [{"acme.nameless": {"column": "id"}}], InvalidStep, 1, "'acme.nameless' built a step without name and columns",
    ),
    "a plugin that reads a column": ([{"acme.knowing": {"column": "x"}}], UnknownColumn, 1, "'acme' reads column 'x'"),
}  # fmt: skip


@pytest.mark.parametrize(("steps", "error", "number", "message"), UNSOUND.values(), ids=UNSOUND)
def test_faults_of_steps(steps: list[Any], error: type[PipelineError], number: int, message: str):
    """Each says in which dataset and step it is."""
    (fault,) = faults(config(*steps))

    assert isinstance(fault, error)
    assert str(fault).startswith(f"datasets[records].steps[{number - 1}].")
    with pytest.raises(error, match=message):
        require_sound(config(*steps), secrets=())


def test_all_faults_of_all_steps():
    """A fault hides none of the same step or of later ones, and makes up none."""
    found = faults(
        config(
            {"select": ["id", "nmae", "stauts"]},
            {"filter": "id ="},
            {"derive": {"a": "upper(nmae)", "b": "no(id)", "c": "id + 1"}},
            {"cast": {"b": "text", "c": "colour"}},
            {"python": "nowhere:f"},
            {"select": ["x", "id"]},
        )
    )

    for fault, (path, message) in zip(
        found,
        [
            ("steps[0].select", "'nmae', but the rows there have id, name, status. Did you mean 'name'?"),
            ("steps[0].select", "'stauts', but the rows there have id, name, status. Did you mean 'status'?"),
            ("steps[1].filter", "ends where a value is expected"),
            ("steps[2].derive.a", "'nmae', but the rows there have id."),
            ("steps[2].derive.b", "calls NO"),
            ("steps[3].cast.c", "has 'colour' where a type is expected"),
            ("steps[4].python", "No module named 'nowhere'"),
        ],
        strict=True,
    ):
        assert str(fault).startswith(f"datasets[records].{path}: ")
        assert message in str(fault)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("SELECT id, name FROM records", True),
        ("SELECT id, r.name AS label FROM records r", True),
        ("SELECT id, upper(name) AS label, status FROM records", True),
        ("WITH x AS (SELECT * FROM records) SELECT id FROM x", True),
        ("SELECT * FROM records", False),
        ("SELECT r.*, id FROM records r", False),
        ("SELECT lower(name) FROM records", False),
        ("SHOW server_version", False),
        (HTTP, True),
    ],
)
def test_what_a_source_tells(source: Any, found: bool):
    """The list of a SELECT is known unless a name in it has to be worked out by Postgres; so are an API's columns."""
    misspelt = faults(config({"filter": "no_such_column = 1"}, source=source, shared=True))

    assert [type(fault) for fault in misspelt] == ([UnknownColumn] if found else [])
    assert faults(config({"filter": "id = 1"}, source=source, shared=True)) == []


@pytest.mark.parametrize("expect", [{"unique": ["nmae"]}, {"not_null": ["id", "nmae"]}])
def test_checks_of_columns_that_are_not_there(expect: dict[str, Any]):
    """They are looked at behind the last step."""
    (fault,) = faults(config({"rename": {"name": "label"}}, expect=expect))

    assert isinstance(fault, UnknownColumn)
    assert str(fault).startswith("datasets[records].expect.")
    assert "have id, label, status" in str(fault)
    assert faults(config({"rename": {"name": "nmae"}}, expect=expect)) == []


# -- whose rows they are -------------------------------------------------------------------------


def of_query(query: str, *args: str) -> dict[str, Any]:
    return {"postgres": {"query": query, "args": args}}


def of_api(url: str = "https://api.example.com/records", **options: Any) -> dict[str, Any]:
    return {"http": {"url": url, "columns": {"id": "integer"}, **options}}


EVERYBODYS: dict[str, dict[str, Any]] = {
    "no parameter": of_query("SELECT id FROM records"),
    "another parameter": of_query("SELECT id FROM records WHERE region = $1", "region"),
    "bound, and not used": of_query("SELECT id FROM records WHERE region = $2", "agency_id", "region"),
    "in a comment": of_query("SELECT id FROM records -- WHERE agency_id = $1\n", "agency_id"),
    "in a nested comment": of_query("SELECT id FROM records /* /* */ WHERE agency_id = $1 */", "agency_id"),
    "in a literal": of_query("SELECT id FROM records WHERE name = 'it''s $1'", "agency_id"),
    "in an escaped literal": of_query(r"SELECT id FROM records WHERE name = E'it\'s $1'", "agency_id"),
    "in a dollar-quoted literal": of_query("SELECT id FROM records WHERE name = $x$ $1 $x$", "agency_id"),
    "in a quoted name": of_query('SELECT id FROM records WHERE "$1" = 1', "agency_id"),
    "in a name": of_query("SELECT id FROM records WHERE agency$1 = 1", "agency_id"),
    "a table without its column": {"postgres": {"table": "records", "key": "id"}},
    "an API's URL without it": of_api(query={"since": "{since}"}),
    "plain braces in an API's query": of_api(query={"agency": "{{agency_id}}"}),
}
ITS_OWN: dict[str, dict[str, Any]] = {
    "a parameter": of_query(QUERY, "agency_id"),
    "the second one": of_query("SELECT id FROM records WHERE region = $1 AND agency_id=$2::int", "region", "agency_id"),
    "behind a comment": of_query("SELECT id /* $2 ' */ FROM records WHERE agency_id = -$1", "agency_id"),
    "behind a literal": of_query(r"SELECT id FROM records WHERE name > 'a\' AND agency_id = $1", "agency_id"),
    "a table with its column": {"postgres": {"table": "records", "agency_column": "agency_id"}},
    "in an API's path": of_api("https://api.example.com/agencies/{agency_id}/records"),
    "in an API's query": of_api("https://api.example.com/records?agency={agency_id}"),
    "in an API's parameter": of_api(query={"filter": "agency eq {agency_id}"}),
}


@pytest.mark.parametrize("source", EVERYBODYS.values(), ids=EVERYBODYS)
def test_rows_of_all_agencies(source: dict[str, Any]):
    """One agency never gets them, unless the dataset says that all get the same."""
    with pytest.raises(
        InvalidJobConfig, match=r"datasets\[records\]\.source\.\w+: The .* doesn't use `agency_id`.*shared: true"
    ) as raised:
        require_sound(config(source=source), secrets=())

    assert raised.value.exit_code == 65
    assert faults(config(source=source, shared=True)) == []


@pytest.mark.parametrize("source", ITS_OWN.values(), ids=ITS_OWN)
def test_rows_of_one_agency(source: dict[str, Any]):
    """It uses the agency's id."""
    assert faults(config(source=source)) == []


# -- queries -------------------------------------------------------------------------------------


def test_queries_that_cannot_be_right():
    """Each fault is told with its place. Runs leave them to Postgres, so that each run's history says what it was."""
    lookup = {"query": "SELECT a, b FROM c", "on": "id", "key": "a", "add": {"b": "b"}}
    wrong = config(
        {"enrich_table": lookup}, source=of_query("SELEC id FROM a WHERE b = $1; SELECT 2", "agency_id", "x")
    )

    told = [str(fault) for fault in faults(wrong)]

    query = "datasets[records].source.postgres.query: "
    assert [fault.startswith(query) for fault in told] == [True, True, True, False]
    assert "did you mean SELECT?" in told[0]
    assert "two statements" in told[1]
    assert "names x for $2" in told[2]
    assert told[3].startswith("datasets[records].steps[0].enrich_table.query: A lookup's query has exactly one")
    require_sound(wrong, secrets=())


# -- values that nothing uses, or provides -------------------------------------------------------

BY_TIME = of_query("SELECT id FROM records WHERE agency_id = $1 AND updated_at >= $2", "agency_id", "since")


@pytest.mark.parametrize("option", [{"since": "last_success"}, {"initial": "2026-01-01T00:00:00Z"}, {"initial": None}])
def test_a_since_that_nothing_uses(option: dict[str, Any]):
    """Every run would export everything, though the config says otherwise."""
    (fault,) = faults(config(**option))

    assert "changes nothing: neither the source nor a step uses `since`" in str(fault)
    assert fault.exit_code == 65
    assert faults(config(source=BY_TIME, **option)) == []


def declaring(*steps: Any, source: dict[str, Any]) -> AgencyJobConfig:
    return AgencyJobConfig.model_validate(
        {"params": {"region": {"type": "text"}}, "datasets": [dataset(*steps, source=source)]}
    )


@pytest.mark.parametrize(
    ("source", "steps"),
    [
        (of_query("SELECT id FROM r WHERE a = $1 AND b = $2 AND c = $3", "agency_id", "region", "regoin"), []),
        (of_api("https://api.example.com/{agency_id}/{region}?x={regoin}"), []),
        (of_api("https://api.example.com/{agency_id}", query={"r": "{region}", "x": "<{regoin}>"}), []),
        (of_query("SELECT id FROM r WHERE a = $1 AND b = $2", "agency_id", "region"), [{"add": {"x": "{regoin}"}}]),
    ],
    ids=["args", "url", "query", "add"],
)
def test_names_that_nothing_provides(source: dict[str, Any], steps: list[Any]):
    """With declared params it is known what a request can send."""
    (fault,) = faults(declaring(*steps, source=source))

    assert str(fault).startswith(
        "datasets[records]: It uses regoin, which isn't defined. Built in are agency_id, run_id,"
    )
    assert "declares region (text, required)" in str(fault)
    assert fault.exit_code == 65


# -- secrets -------------------------------------------------------------------------------------

SALTED = {"mask": {"columns": ["name"], "using": "sha256", "salt": "pepper"}}
KEYED = {"mask": {"columns": ["status"], "using": "hmac", "secret": "key"}}


def test_missing_secrets():
    """All of them, each with the settings that would give it; never a value."""
    missing = faults(config(SALTED, KEYED), "other")

    assert [type(fault) for fault in missing] == [SecretMissing, SecretMissing]
    assert "'pepper', but the settings have other. Set PIPELINE_SECRETS__PEPPER" in str(missing[0])
    assert missing[0].exit_code == 78
    assert faults(config(SALTED, KEYED), "pepper", "key") == []


def test_without_settings_nobody_knows_which_secrets_there_are():
    """A config can be checked on another machine."""
    assert list(faults_without_servers(config(SALTED), secrets=None)) == []


def test_one_missing_secret_keeps_its_kind():
    """It is the settings that have to be mended."""
    with pytest.raises(SecretMissing, match="PIPELINE_SECRETS__PEPPER"):
        require_sound(config(SALTED), secrets=())


def test_all_missing_secrets_at_once():
    """Nobody sets them one start after the other."""
    with pytest.raises(PipelineError) as raised:
        require_sound(config(SALTED, KEYED), secrets=())

    assert "PIPELINE_SECRETS__PEPPER" in str(raised.value)
    assert "PIPELINE_SECRETS__KEY" in str(raised.value)
    assert raised.value.exit_code == 78


# -- everything at once --------------------------------------------------------------------------


def test_several_faults():
    """One of each dataset and all secrets, in one message."""
    unsound = job(
        dataset({"select": ["x"]}, name="first"),
        dataset(name="second"),
        dataset(SALTED, {"filter": "y = 1"}, name="third"),
    )

    assert [type(fault) for fault in faults(unsound)] == [UnknownColumn, UnknownColumn, SecretMissing]
    with pytest.raises(InvalidJobConfig) as raised:
        require_sound(unsound, secrets=())

    lines = str(raised.value).splitlines()
    assert lines[0] == "The job config isn't sound:"
    assert [line.split(":")[0].strip() for line in lines[1:3]] == [
        "datasets[first].steps[0].select",
        "datasets[third].steps[1].filter",
    ]
    assert "PIPELINE_SECRETS__PEPPER" in lines[3]
    assert raised.value.exit_code == 65


# -- what isn't even valid -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"datasets": [{"name": "a", "source": {"postgres": {"query": QUERY}}}] * 2}, "two datasets are named a"),
        ({"datasets": [{"name": "a", "source": {"mysql": {}}}]}, "unknown source. A source is .* postgres, http, or"),
        (
            {"datasets": [{"name": "a", "source": {"postgres": {"query": QUERY}}, "steps": [{"filtre": "x"}]}]},
            "unknown step: did you mean filter",
        ),
        (
            {
                "datasets": [{"name": "a", "source": {"postgres": {"query": QUERY}}}],
                "destinations": [{"file": {"path": "/x"}}, {"ftp": {}}],
            },
            "unknown destination. A destination is .* s3, file, postgres, or",
        ),
    ],
)
def test_names_that_there_are_not(document: Any, message: str):
    """They never come as far as a check: the config isn't valid."""
    with pytest.raises(ValidationError, match=message):
        AgencyJobConfig.model_validate(document)
