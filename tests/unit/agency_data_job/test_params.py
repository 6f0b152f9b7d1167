"""The values of a request: those that nothing uses are refused, and so are those that don't fit what is declared."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.agency_data_job.params import ParamConfig
from pipeline_processing.errors import InvalidRequest
from pipeline_processing.model import JobRequest
from pipeline_processing.plugins import SOURCES, Plugin
from tests.unit.plugged import installed, step

DECLARED = {
    "region": {"type": "text", "required": True},
    "depth": {"type": "integer", "default": 3},
    "label": {"type": "text", "default": None},
}
ANYTHING = Plugin(options=BaseModel, build=lambda options, context: None)


@pytest.fixture(autouse=True)
def _acme() -> Iterator[None]:
    value = f"{__name__}:ANYTHING"
    with installed(step("acme.anything", value), EntryPoint(name="acme.anything", value=value, group=SOURCES)):
        yield


def query(*args: str) -> dict[str, Any]:
    return {"postgres": {"query": "SELECT", "args": args}}


def dataset(name: str, *args: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "source": query("agency_id", *args), **options}


API = {"http": {"url": "https://x.example/{agency_id}/{zone}", "query": {"q": "{since}"}, "columns": {"id": "integer"}}}


def config(**options: Any) -> AgencyJobConfig:
    return AgencyJobConfig.model_validate(
        {
            "datasets": [
                dataset("plain"),
                dataset("timed", "since", "until"),
                dataset(
                    "regional", "region", steps=[{"add": {"made_for": "{label}, not {{text}}", "depth": "{depth}"}}]
                ),
                {"name": "api", "source": API},
            ],
            **options,
        }
    )


def declared(*datasets: dict[str, Any], **params: Any) -> AgencyJobConfig:
    of = datasets or (dataset("plain"), dataset("regional", "region", "depth", "label"))
    return AgencyJobConfig.model_validate({"params": params or DECLARED, "datasets": of})


def asked(*datasets: str, **fields: Any) -> JobRequest:
    return JobRequest.model_validate({"agency_id": 7, "datasets": datasets or None, **fields}, strict=False)


NOON = "2026-01-18T12:00:00Z"


@pytest.mark.parametrize(
    ("request_", "faults"),
    [
        (asked("plain", since=NOON), ["since: is not used by plain."]),
        (asked("plain", "regional", until=NOON), ["until: is not used by plain, regional."]),
        (asked("api", until=NOON), ["until: is not used by api."]),
        (asked(params={"regoin": "north"}), ["params.regoin: is not used by plain, timed, regional, api."]),
        (
            asked("plain", params={"region": "north"}),
            ["params.region: is not used by plain.", "These datasets use: agency_id."],
        ),
        (asked("regional", params={"text": "x"}), ["params.text: is not used", "agency_id, depth, label, region."]),
        (asked("plain", since=NOON, params={"x": None}), ["since: is not used", "params.x: is not used"]),
    ],
)
def test_values_that_nothing_uses(request_: JobRequest, faults: list[str]):
    """They would change nothing, without a word. What only a dataset uses that isn't asked for, nothing uses."""
    with pytest.raises(InvalidRequest) as raised:
        config().for_request(request_)

    for fault in faults:
        assert fault in str(raised.value)
    assert (raised.value.kind, raised.value.exit_code) == ("invalid_request", 65)


def test_a_message_of_bounded_length():
    """However many params a request has: the message is stored and sent."""
    with pytest.raises(InvalidRequest, match=r"params\.p19: .*; and 980 more\. These") as raised:
        config().for_request(asked(params=dict.fromkeys((f"p{number}" for number in range(1000)), 1)))

    assert len(str(raised.value)) < 2000


@pytest.mark.parametrize(
    "request_",
    [
        asked(),
        asked("timed", since=NOON, until=NOON),
        asked(since=NOON, until=NOON, params={"region": "north", "depth": 3, "label": None, "zone": 5}),
        asked("regional", params={"label": "x"}),
        asked("api", since=NOON, params={"zone": 5}),
    ],
)
def test_values_that_something_uses(request_: JobRequest):
    """In one dataset of those asked for: its args, its URL, or a constant."""
    config().for_request(request_)


@pytest.mark.parametrize("option", [{"source": {"acme.anything": {}}}, {"steps": [{"acme.anything": {}}]}])
def test_a_plugin_may_use_anything(option: dict[str, Any]):
    """Sources and steps of other packages get all values, and don't say which they use."""
    of = AgencyJobConfig.model_validate({"datasets": [dataset("a"), dataset("b") | option]})

    of.for_request(asked(since=NOON, until=NOON, params={"x": 1}))
    with pytest.raises(InvalidRequest):
        of.for_request(asked("a", since=NOON))


# -- declared params -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "faults"),
    [
        (asked(params={"region": "n", "regoin": "n"}), ["params.regoin: isn't declared"]),
        (asked(), ["params.region: is required"]),
        (asked(params={"region": None}), ["params.region: is required"]),
        (
            asked(params={"region": 5, "depth": "x"}),
            ["params.region: must be text", "params.depth: must be an integer"],
        ),
        (asked("plain", params={"depth": 1}), ["params.depth: is not used by plain"]),
    ],
)
def test_requests_that_break_the_declaration(request_: JobRequest, faults: list[str]):
    """All faults are told, with what is declared."""
    with pytest.raises(InvalidRequest) as raised:
        declared().for_request(request_)

    for fault in faults:
        assert fault in str(raised.value)
    assert "declares region (text, required), depth (integer), label (text)." in str(raised.value)


def test_declared_params_have_their_types_and_defaults():
    """Whether they come as JSON or from a command line, whose values are all text."""
    of, sent = declared(), asked(params={"region": "north", "depth": "5"})

    of.for_request(sent)
    assert of.param_values(sent) == {"region": "north", "depth": 5, "label": None}
    assert of.param_values(asked(params={"region": "north"}))["depth"] == 3


def test_a_required_param_is_required_where_it_is_used():
    """A request for other datasets couldn't send it."""
    declared().for_request(asked("plain"))


VALUES: list[tuple[str, Any, Any]] = [
    ("text", "", ""),
    ("integer", 5, 5),
    ("integer", "-5", -5),
    ("number", 5, 5),
    ("number", 0.5, Decimal("0.5")),
    ("number", "12345678901234567.89", Decimal("12345678901234567.89")),
    ("boolean", True, True),
    ("boolean", "false", False),
    ("date", "2026-01-18", date(2026, 1, 18)),
    ("timestamp", "2026-01-18T12:00+02:00", datetime(2026, 1, 18, 10, tzinfo=UTC)),
]


@pytest.mark.parametrize(("kind", "sent", "value"), VALUES)
def test_values(kind: str, sent: Any, value: Any):
    """Each type takes its own JSON, and text."""
    read = ParamConfig.model_validate({"type": kind}).value_of(sent)

    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("text", 5),
        ("text", True),
        *(("integer", sent) for sent in ("", "x", "5.0", 5.0, True, "9223372036854775808", "٥")),
        *(("number", sent) for sent in ("", "NaN", "Infinity", "1e9999", "5 ", True)),
        *(("boolean", sent) for sent in (1, "yes", "")),
        *(("date", sent) for sent in ("2026-02-30", "20260118", "2026-01-18T00:00:00Z", 5)),
        *(("timestamp", sent) for sent in ("2026-01-18", "2026-01-18T12:00:00", 5)),
    ],
)
def test_values_of_another_type(kind: str, sent: Any):
    """Nothing is guessed at."""
    with pytest.raises(ValueError, match=r"^must be"):
        ParamConfig.model_validate({"type": kind}).value_of(sent)


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown type": ({"region": {"type": "regexp"}}, "'text', 'integer', .* or 'timestamp'"),
    "no type": ({"region": {"default": "x"}}, r"region\.type"),
    "a built-in name": ({"since": {"type": "timestamp"}}, "since is built in"),
    "a name with braces": ({"{region}": {"type": "text"}}, "must be a param's name"),
    "a default of another type": ({"region": {"type": "integer", "default": "x"}}, "`default` must be an integer"),
    "required, with a default": ({"region": {"type": "text", "default": "x", "required": True}}, "never uses its"),
    "a param that nothing uses": ({"regoin": {"type": "text"}}, "no dataset uses the declared param regoin"),
}  # fmt: skip


@pytest.mark.parametrize(("params", "message"), FAULTS.values(), ids=FAULTS)
def test_declarations_that_are_not_valid(params: dict[str, Any], message: str):
    """The config isn't valid then."""
    with pytest.raises(ValidationError, match=message):
        declared(dataset("regional", "region"), **params)


def test_who_must_send_a_param():
    """One without a default is required: compared with null, no row would be exported. `default: null` asks for it."""
    options = [{}, {"default": None}, {"default": "x"}, {"required": False}, {"default": None, "required": True}]

    required = [ParamConfig.model_validate({"type": "text", **each}).required for each in options]

    assert required == [True, False, False, False, True]
