"""`dead-letters`: what it prints of each letter, and what resending says."""

import asyncio
import base64
import json
from collections.abc import Callable, Iterator, Sequence

import pytest

from pipeline_processing.cli import dead_letters
from pipeline_processing.cli.main import main
from pipeline_processing.errors import InvalidEvent, InvalidJson, RequestTooLarge, UnknownDataset
from pipeline_processing.messaging.port import Outgoing, Record
from pipeline_processing.requests.job_messages import run_id_of_place
from pipeline_processing.settings.settings import Settings
from pipeline_processing.terminal import tables
from tests.unit.past_requests import TOPIC, Past

UNKNOWN = UnknownDataset(["permits"], available=["records"])


@pytest.fixture
def past(monkeypatch: pytest.MonkeyPatch) -> Iterator[Past]:
    """One partition, so that places are 0:0, 0:1, …"""
    past = Past(partitions=1)
    monkeypatch.setattr(dead_letters, "current_settings", Settings)
    with past.behind_the_command_line():
        yield past


@pytest.fixture
def two(past: Past) -> list[Record]:
    """A bare request for a dataset that isn't there, and bytes that are no JSON; the requests."""
    requests = [
        past.send('{"agency_id": 7, "datasets": ["permits"]}', traceparent="00-1"),
        past.send(b"\xff\x00no", key=b"\xfe"),
    ]
    past.put_aside(requests[0], UNKNOWN)
    past.put_aside(requests[1], InvalidJson("The value isn't JSON: \x1b[31m " + "x" * 200))
    return requests


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(past: Past, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs `dead-letters` with these arguments; exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["dead-letters", *arguments])
        return code, *capfd.readouterr()

    return run


# -- list ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("two")
def test_letters_are_listed_newest_first(run: Run) -> None:
    """A line each: where it is, when, why, whose, from where, and the beginning of what is wrong."""
    code, out, _ = run("list")

    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["PLACE", "AT", "(UTC)", "REASON", "KEY", "CAME", "FROM", "MESSAGE"]
    assert lines[1].startswith("0:1    2026-01-18 10:00:02  invalid_json     base64:/g==  agency-jobs.requests 0:1  ")
    assert lines[1].endswith("x …")
    assert lines[2].startswith("0:0    2026-01-18 10:00:01  unknown_dataset  7            agency-jobs.requests 0:0  ")
    assert lines[2].endswith("Correct the request, or add the dataset to the job config.")
    assert "\x1b" not in out


def test_an_event_goes_back_to_its_own_topic(past: Past, run: Run) -> None:
    """As it came: as a request, it would mean something else."""
    past.broker.create("agencies.events", partitions=1)
    event = past.broker.put(
        Outgoing(topic="agencies.events", key=b"k", value=b'{"agency_id": 7}', headers=(("ce_id", b"1"),))
    )
    past.put_aside(event, InvalidEvent("The event has no data.region."))

    code, out, _ = run("redrive")
    assert (code, out.splitlines()[0]) == (0, "0:0  invalid_event  key k  sent to agencies.events")
    assert past.sent == []
    _, again = past.broker.records("agencies.events")
    assert (again.key, again.value, again.headers) == (event.key, event.value, event.headers)


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    ("arguments", "places"),
    [
        ((), ["0:1", "0:0"]),
        (("--limit", "1"), ["0:1"]),
        (("--reason", "unknown_dataset"), ["0:0"]),
        (("--since", "2026-01-18T10:00:02Z"), ["0:1"]),
        (("--since", "1h"), ["0:1", "0:0"]),
        (("--reason", "too_large"), []),
    ],
)
def test_the_list_is_narrowed(run: Run, arguments: Sequence[str], places: list[str]) -> None:
    """By reason, time and number."""
    code, out, _ = run("list", "--json", *arguments)

    assert code == 0
    assert [json.loads(line)["place"] for line in out.splitlines()] == places


@pytest.mark.usefixtures("two")
def test_a_list_as_json_has_the_names_of_the_headers(run: Run) -> None:
    """In full, with a key that isn't text under a name that says so."""
    newest, oldest = map(json.loads, run("list", "--json")[1].splitlines())

    assert oldest == {
        "place": "0:0",
        "key": "7",
        "dlq_reason": "unknown_dataset",
        "dlq_message": str(UNKNOWN),
        "dlq_topic": TOPIC,
        "dlq_partition": 0,
        "dlq_offset": 0,
        "dlq_at": "2026-01-18T10:00:01+00:00",
        "dlq_timestamp": 1768730400000,
    }
    assert newest["key_base64"] == "/g=="
    assert len(newest["dlq_message"]) > 200


def test_no_letters_are_a_header(run: Run) -> None:
    """Or no line at all."""
    assert run("list")[1].split()[0] == "PLACE"
    assert run("list", "--json") == (0, "", "")


def test_a_topic_that_nobody_has_made_yet_has_no_letters(past: Past, run: Run) -> None:
    """It is made, as by any other command that needs it."""
    past.broker._topics.clear()
    past.broker._creates = ("agency-jobs.requests", "agency-jobs.dead-letters")

    assert run("list", "--json") == (0, "", "")


# -- show ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("two")
def test_one_letter_is_shown_in_full(run: Run) -> None:
    """All headers by their names, and the value as it is."""
    code, out, _ = run("show", "0:0")

    assert code == 0
    assert out.splitlines() == [
        "place          0:0",
        "key            7",
        "traceparent    00-1",
        "dlq_reason     unknown_dataset",
        f"dlq_message    {UNKNOWN}",
        "dlq_topic      agency-jobs.requests",
        "dlq_partition  0",
        "dlq_offset     0",
        "dlq_at         2026-01-18T10:00:01+00:00",
        "dlq_timestamp  1768730400000",
        "",
        '{"agency_id": 7, "datasets": ["permits"]}',
    ]


@pytest.mark.usefixtures("two")
def test_what_isn_t_text_is_shown_without_loss(run: Run) -> None:
    """Bytes as base64, and what a terminal would obey in quotes, with escapes."""
    lines = run("show", "0:1")[1].splitlines()

    assert lines[1] == "key            base64:/g=="
    assert lines[3].startswith("dlq_message    \"The value isn't JSON: \\u001b[31m xxx")
    assert lines[-1] == "base64:" + base64.b64encode(b"\xff\x00no").decode()


def test_a_letter_without_a_value_says_so(past: Past, run: Run) -> None:
    """A tombstone is none, an empty value is empty."""
    past.put_aside(past.send(None, key=None), UNKNOWN)
    past.put_aside(past.send(b"", key=b""), UNKNOWN)

    assert run("show", "0:0")[1].splitlines()[1::7][0] == "key            (none)"
    assert run("show", "0:0")[1].splitlines()[-1] == "(none)"
    assert run("show", "0:1")[1].splitlines()[-1] == ""
    assert [json.loads(run("show", place, "--json")[1])["value"] for place in ("0:0", "0:1")] == [None, ""]


@pytest.mark.parametrize("value", ["text \x1b[31m\x7f\u2028é\ud7ff", "", "\ufeff{}", "base64:x", b"\xff\x00", b"\xc3"])
def test_json_brings_every_byte_back(past: Past, run: Run, value: str | bytes) -> None:
    """Of key, value and headers, in their order, also where a name stands there twice."""
    data = value.encode() if isinstance(value, str) else value
    record = past.send(data, key=data, b="1", a="2", B="3")
    put = past.put_aside(record, UNKNOWN)

    shown = json.loads(run("show", "0:0", "--json")[1])

    def back(holder: dict[str, str], name: str) -> bytes:
        return holder[name].encode() if name in holder else base64.b64decode(holder[f"{name}_base64"])

    assert back(shown, "value") == back(shown, "key") == data
    assert tuple((each["name"], back(each, "value")) for each in shown["headers"]) == put.headers
    assert (shown["topic"], shown["partition"], shown["offset"]) == (put.topic, put.partition, put.offset)
    assert shown["timestamp_ms"] == put.timestamp_ms


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("command", ["show", "redrive"])
def test_a_place_without_a_letter_is_an_error(run: Run, command: str) -> None:
    """Exit code 65, and the way to those that are there."""
    code, out, err = run(command, "0:9")

    assert (code, out) == (65, "")
    assert "no dead letter at 0:9" in err
    assert "dead-letters list" in err


# -- those in the database -----------------------------------------------------------------------


def test_letters_in_the_database_are_listed_shown_and_resent(
    past: Past, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside those in Kafka, under places of their own. Without a history there are none."""
    past.put_aside(past.send(b"no", key=b"1"), InvalidJson("The value isn't JSON."))
    asyncio.run(past.keep(past.send('{"agency_id": 7, "run_id": "r"}', key=None), UNKNOWN))
    assert len(run("list", "--json")[1].splitlines()) == 1

    history = {"dsn": "postgresql://127.0.0.1/history"}
    monkeypatch.setattr(dead_letters, "current_settings", lambda: Settings.model_validate({"history": history}))

    listed = [json.loads(line) for line in run("list", "--json")[1].splitlines()]
    assert [(each["place"], each["key"]) for each in listed] == [("db:1", None), ("0:0", "1")]
    shown = json.loads(run("show", "db:1", "--json")[1])
    assert (shown["partition"], shown["value"]) == (None, '{"agency_id": 7, "run_id": "r"}')
    assert run("redrive", "db:1")[1].splitlines()[0] == "db:1  unknown_dataset  key -  sent, run r"
    assert past.sent[-1].value == past.sent[1].value
    assert run("show", "db:2")[0] == 65


@pytest.mark.usefixtures("two")
def test_redriving_as_json_has_an_object_for_each_letter(run: Run) -> None:
    """The count is a note beside them."""
    code, out, err = run("redrive", "--json")

    assert code == 0
    assert [(each["place"], each["sent"], each["obstacle"]) for each in map(json.loads, out.splitlines())] == [
        ("0:0", True, None),
        ("0:1", True, None),
    ]
    assert "2 requests sent" in err


# -- redrive -------------------------------------------------------------------------------------


def test_resending_says_what_was_sent(past: Past, two: list[Record], run: Run) -> None:
    """A line each with the run that it asks for, and how many."""
    code, out, _ = run("redrive")

    assert code == 0
    assert out.splitlines() == [
        f"0:0  unknown_dataset  key 7  sent, run {run_id_of_place(two[0])}",
        "0:1  invalid_json  key base64:/g==  sent, but it still can't be read as a request",
        "2 requests sent.",
    ]
    assert len(past.sent) == 4


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    ("arguments", "places"),
    [
        (("0:1",), ["0:1"]),
        (("0:1", "0:0", "0:1"), ["0:0", "0:1"]),
        (("--reason", "invalid_json"), ["0:1"]),
        (("--since", "2026-01-18T10:00:02Z"), ["0:1"]),
        (("--since", "2026-01-19"), []),
    ],
)
def test_only_what_is_named_is_resent(run: Run, arguments: Sequence[str], places: list[str]) -> None:
    """By place, reason or time; nothing at all is fine."""
    code, out, _ = run("redrive", *arguments)

    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [*places, str(len(places))]


def test_letters_that_say_the_same_are_counted(past: Past, run: Run) -> None:
    """One line, and how many had the same to say."""
    for _ in range(3):
        past.put_aside(past.send('{"agency_id": 7, "run_id": "a"}'), UNKNOWN)

    assert run("redrive")[1].splitlines() == [
        "0:2  unknown_dataset  key 7  sent, run a",
        "1 request sent; 2 letters say the same as another.",
    ]


def test_a_request_that_is_gone_is_told(past: Past, run: Run) -> None:
    """Exit code 1: something that was asked for wasn't done."""
    past.put_aside(past.send("x" * 50), RequestTooLarge(50, limit=10), left_out=True)
    past.broker.partition(TOPIC, 0).expire(1)
    code, out, _ = run("redrive")

    assert code == 1
    assert out.splitlines() == [
        f"0:0  too_large  key 7  not sent: its value was too large for a dead letter, and is gone from {TOPIC}",
        "0 requests sent; 1 could not be sent.",
    ]


@pytest.mark.usefixtures("two")
def test_breaking_off_says_that_it_can_be_done_again(past: Past, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first batch."""
    monkeypatch.setattr("pipeline_processing.requests.redrive._BATCH", 1)
    send = past.broker.send

    async def once(messages: Sequence[object]) -> None:
        await send(messages)  # type: ignore[arg-type]
        past.broker.outage = True

    monkeypatch.setattr(past.broker, "send", once)
    code, out, err = run("redrive")

    assert code == 69
    assert out.startswith("0:0  ")
    assert "1 sent so far. Sending all of them again is harmless." in err


# -- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list", "--reason", "bad"), "the reasons are invalid_json, invalid_request"),
        (("list", "--since", "soon"), "neither a time nor a duration"),
        (("list", "--limit", "0"), "--limit"),
        (("show", "x"), "isn't partition:offset"),
        (("show",), "P:O"),
        (("redrive", "0"), "isn't partition:offset"),
        (("redrive", "0:0", "--reason", "invalid_json"), "leave out --reason"),
        (("redrive", "0:0", "--since", "2h"), "leave out --reason and --since"),
        ((), "ommand"),
    ],
)
def test_wrong_options_are_wrong_usage(run: Run, arguments: Sequence[str], message: str) -> None:
    """Exit code 64."""
    code, _, err = run(*arguments)

    assert code == 64
    assert message in err


def test_a_time_that_somebody_else_wrote_is_shown_as_it_is(past: Past, run: Run) -> None:
    """Headers are only text."""
    put = past.put_aside(past.send("{}"), UNKNOWN)
    headers = tuple((name, b"yesterday" if name == "dlq_at" else value) for name, value in put.headers)
    past.broker.partition(put.topic, 0).records[0] = Record(put.topic, 0, 0, put.timestamp_ms, put.key, None, headers)

    assert "yesterday" in run("list")[1]


def test_a_long_message_is_wrapped_on_a_terminal(
    past: Past, two: list[Record], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below its own column. Places and topics stay in one piece, even if the window is too narrow for them."""
    monkeypatch.setattr(tables, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")

    out = run("list")[1]

    header = out.splitlines()[0]
    (more,) = [line for line in out.splitlines() if line.endswith("the job config.")]
    assert more.startswith(" " * header.index("MESSAGE"))
    assert "agency-jobs.requests 0:1" in out
    assert "unknown_dataset" in out
