"""Dead letters: what is kept of a request, how they are found, and that resending one asks for the same run."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.errors import InvalidJson, InvalidRequest, PlaceUnknown, RequestTooLarge, UnknownDataset
from pipeline_processing.messaging.dead_letters import DeadLetter, dead_letter, without_value
from pipeline_processing.messaging.port import Outgoing, Record
from pipeline_processing.requests.job_messages import received, run_id_of_place
from pipeline_processing.requests.redrive import DeadLetters, Filter, Redrive, Redriven, letter_place
from pipeline_processing.telemetry.masking import Mask
from tests.unit.past_requests import LETTERS, TOPIC, Past
from tests.unit.stepped_clock import START

UNUSABLE = InvalidRequest("agency_id: Field required.")
UNKNOWN = UnknownDataset(["permits"], available=["records"])
FIRST = ["dlq_reason", "dlq_message", "dlq_topic", "dlq_partition", "dlq_offset", "dlq_at"]
"""The headers of letters of the first version."""
OURS = [*FIRST, "dlq_timestamp"]


@pytest.fixture
def past() -> Past:
    return Past()


def letter_of(past: Past, record: Record, error: Any = UNUSABLE, **how: bool) -> DeadLetter:
    letter = DeadLetter.of(past.put_aside(record, error, **how))
    assert letter is not None
    return letter


def letters_in(past: Past) -> DeadLetters:
    return DeadLetters(topics=past.broker, topic=LETTERS, kept=past.kept)


async def redriven(past: Past, wanted: Filter = Filter()) -> tuple[list[Record], list[Redriven], int]:  # noqa: B008
    """What was sent, what was told, and how many letters said the same as another."""
    seen = {(record.partition, record.offset) for record in past.sent}
    told: list[Redriven] = []
    redrive = Redrive(
        topics=past.broker, events=past.broker, letters=letters_in(past), requests_topic=TOPIC, report=told.append
    )
    await redrive.run(wanted)
    return [r for r in past.sent if (r.partition, r.offset) not in seen], told, redrive.repeated


# -- one letter ----------------------------------------------------------------------------------


def test_a_dead_letter_keeps_the_request_untouched(past: Past) -> None:
    """Key, value and headers as they came, and the reason behind them."""
    record = past.send(b"\xff\x00", key=b"\xfe", ce_id="é", DLQ_Reason="theirs", dlq_at="theirs")
    put = past.put_aside(record, UNUSABLE)

    assert (put.key, put.value) == (record.key, record.value)
    assert put.headers[: len(record.headers)] == record.headers
    assert [name for name, _ in put.headers[len(record.headers) :]] == OURS
    assert [value for _, value in put.headers[len(record.headers) :]] == [
        b"invalid_request",
        b"agency_id: Field required.",
        TOPIC.encode(),
        str(record.partition).encode(),
        str(record.offset).encode(),
        past.clock.now().isoformat().encode(),
        str(record.timestamp_ms).encode(),
    ]


def test_a_dead_letter_is_read_as_it_was_written(past: Past) -> None:
    """Down to the original, which stands where it first stood."""
    record = past.send("{}", key=None, dlq_reason="theirs")
    letter = letter_of(past, record)

    assert (letter.reason, letter.message) == ("invalid_request", str(UNUSABLE))
    assert (letter.topic, letter.partition, letter.offset) == (TOPIC, record.partition, record.offset)
    assert letter.at == past.clock.now().isoformat()
    assert letter.place == f"{letter.record.partition}:{letter.record.offset}"
    assert not letter.left_out
    assert letter.original(timestamp_ms=record.timestamp_ms) == record


def test_a_letter_always_has_a_key(past: Past) -> None:
    """That of its place where the request has none: a compacted topic takes no other. The request's own is known."""
    nameless = letter_of(past, past.send("{}", key=None))
    empty = letter_of(past, past.send("{}", key=b""))
    long = letter_of(past, past.send("x" * 1000, key=b"k" * 2000), RequestTooLarge(1000, limit=10), left_out=True)

    assert nameless.record.key == f"{nameless.partition}-{nameless.offset}".encode()
    assert nameless.record.header("dlq_key") == b"null"
    assert (nameless.original_key, nameless.key_left_out) == (None, False)
    assert (empty.record.key, empty.original_key, empty.record.header("dlq_key")) == (b"", b"", None)
    assert long.record.key == f"{long.partition}-{long.offset}".encode()
    assert (long.original_key, long.key_left_out) == (None, True)


def test_a_dead_letter_of_a_dead_letter_is_one(past: Past) -> None:
    """Somebody copied one to the requests topic, headers and all: the newest reason counts, the old one stays."""
    first = letter_of(past, past.send("{}"))
    copied = past.broker.put(replace_topic(first.record))
    second = letter_of(past, copied, InvalidJson("The value isn't JSON."))

    assert second.reason == "invalid_json"
    assert second.original(timestamp_ms=copied.timestamp_ms) == copied


def replace_topic(record: Record) -> Outgoing:
    return Outgoing(topic=TOPIC, key=record.key, value=record.value, headers=record.headers)


def test_a_message_can_t_outgrow_its_letter(past: Past) -> None:
    """A request can be wrong in a thousand places, and what is wrong may not even be text."""
    letter = letter_of(past, past.send("{}"), InvalidRequest("x" * 10_000))
    odd = letter_of(past, past.send("{}"), InvalidRequest("half a pair: \ud800"))

    assert len(letter.message) == 4_000
    assert letter.message.endswith(" …")
    assert odd.message == "half a pair: \\ud800"


def test_what_a_broker_refuses_for_its_size_leaves_its_reason(past: Past) -> None:
    """The key, why, and where the rest is; told from a request that never had a value."""
    record = past.send("x" * 1000, trace="y")
    letter = letter_of(past, record, RequestTooLarge(1000, limit=10), left_out=True)

    assert (letter.record.key, letter.record.value) == (record.key, None)
    assert [name for name, _ in letter.record.headers] == OURS
    assert letter.left_out
    assert "dlq_offset of dlq_topic" in letter.message
    assert not letter_of(past, past.send(None)).left_out


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("dlq_reason", b"x"),),
        tuple((name, b"1") for name in OURS[::-1]),
        tuple((name, b"1") for name in OURS[1:]),
        tuple((name, b"x") for name in OURS),
        tuple((name, "٣".encode()) for name in OURS),
        tuple((name, b"9" * 5000) for name in OURS),
        tuple((name, b"-1") for name in OURS),
        tuple((name, b"") for name in OURS),
        (*((name, b"1") for name in OURS), ("other", b"")),
    ],
)
def test_what_is_no_dead_letter_is_none(headers: tuple[tuple[str, bytes], ...]) -> None:
    """Anybody may write to the topic; nothing there breaks the reader."""
    assert DeadLetter.of(Record(LETTERS, 0, 0, 0, None, b"{}", headers)) is None


@given(
    st.none() | st.binary(max_size=20),
    st.lists(st.tuples(st.sampled_from([*OURS, "a", "é"]), st.binary(max_size=5)), max_size=8),
    st.text(max_size=20),
)
def test_no_request_is_changed_by_being_put_aside(
    value: bytes | None, headers: Sequence[tuple[str, bytes]], message: str
) -> None:
    """Whatever it is, it comes back."""
    record = Record(TOPIC, 1, 2, 3, value, value, tuple(headers))
    letter = dead_letter(record, InvalidRequest(message), topic=LETTERS, now=START, mask=Mask())
    stored = Record(LETTERS, 0, 0, 0, letter.key, letter.value, letter.headers)
    found = DeadLetter.of(stored)

    assert found is not None
    assert found.original(timestamp_ms=3) == record
    emptied = without_value(letter)
    assert (found := DeadLetter.of(replace(stored, value=None, headers=emptied.headers))) is not None
    assert found.left_out


# -- found again ---------------------------------------------------------------------------------


async def test_letters_are_listed_newest_first(past: Past) -> None:
    """By reason, by time, and so many; what isn't a letter isn't listed."""
    for n in range(6):
        past.put_aside(past.send("{}", key=str(n).encode()), UNKNOWN if n % 2 else UNUSABLE)
    past.broker.put(Outgoing(LETTERS, b"x", b"no letter"))
    letters = letters_in(past)

    async def keys(wanted: Filter = Filter(), limit: int = 10) -> str:  # noqa: B008
        return b"".join(each.original_key or b"" for each in await letters.newest(wanted, limit=limit)).decode()

    assert await keys() == "543210"
    assert await keys(limit=2) == "54"
    assert await keys(Filter(reason="unknown_dataset")) == "531"
    assert await keys(Filter(since=START + timedelta(seconds=5))) == "54"
    assert await keys(Filter(reason="too_large")) == ""


async def test_a_place_without_a_letter_is_an_error(past: Past) -> None:
    """Gone, never there, or something else: with the way to those that are there."""
    letter = letter_of(past, past.send("{}"))
    past.broker.put(Outgoing(LETTERS, b"7", b"no letter"))
    letters = letters_in(past)
    partition = letter.record.partition

    assert await letters.at([(partition, 0)]) == [letter]
    with pytest.raises(PlaceUnknown, match=rf"no dead letter at {partition}:1, 9:0; .* dead-letters list"):
        await letters.at([(partition, 0), (partition, 1), (9, 0)])


# -- sent again ----------------------------------------------------------------------------------


async def test_a_letter_is_resent_as_the_request_came(past: Past) -> None:
    """Key, value, headers and trace, without what being put aside added."""
    record = past.send(
        '{"agency_id": 7, "run_id": "a", "datasets": ["permits"]}', key=b"k", traceparent="x", dlq_reason="theirs"
    )
    past.put_aside(record, UNKNOWN)

    [sent], [told], repeated = await redriven(past)

    assert (sent.key, sent.value, sent.headers) == (record.key, record.value, record.headers)
    assert (told.run_id, told.obstacle, repeated) == ("a", None, 0)


@pytest.mark.parametrize("key", [b"7", None])
async def test_a_bare_request_keeps_the_run_of_its_first_place(past: Past, key: bytes | None) -> None:
    """Its time is kept with the letter: an offset reset and the letter ask for the same run, whatever is gone since."""
    record = past.send('{"agency_id": 7}', key=key)
    past.put_aside(record, UNKNOWN)
    past.clock.pass_(100)
    past.broker.partition(TOPIC, record.partition).expire(1)

    [sent], [told], _ = await redriven(past)

    assert told.run_id == run_id_of_place(record) == received(record).run_id == received(sent).run_id
    assert sent.key == key


def put_aside_by_the_first_version(past: Past, record: Record) -> None:
    """A letter that doesn't say the request's own time."""
    letter = dead_letter(record, UNKNOWN, topic=LETTERS, now=past.clock.now(), mask=Mask())
    past.broker.put(replace(letter, key=record.key, headers=(*record.headers, *letter.headers[-7:-1])))


async def test_a_letter_of_the_first_version_goes_by_the_time_at_its_first_place(past: Past) -> None:
    """As long as it is there."""
    record = past.send('{"agency_id": 7}')
    put_aside_by_the_first_version(past, record)

    [sent], [told], _ = await redriven(past)

    assert told.run_id == run_id_of_place(record) == received(sent).run_id


async def test_a_request_that_retention_took_still_keeps_one_run(past: Past) -> None:
    """With 0 for the time that nobody knows any more: the same however often it is resent."""
    record = past.send('{"agency_id": 7}')
    put_aside_by_the_first_version(past, record)
    past.broker.partition(TOPIC, record.partition).expire(1)

    first, [told], _ = await redriven(past)
    second, _, _ = await redriven(past)

    assert told.run_id == f"{TOPIC}-{record.partition}-{record.offset}-0"
    assert [received(each).run_id for each in (*first, *second)] == [told.run_id] * 2


async def test_another_message_at_the_first_place_is_not_taken_for_it(past: Past) -> None:
    """The topic was made anew: its record says nothing of the letter's."""
    record = past.send('{"agency_id": 7}')
    put_aside_by_the_first_version(past, record)
    past.broker.create(TOPIC)
    past.send('{"agency_id": 7, "priority": 1}')

    _, [told], _ = await redriven(past)

    assert told.run_id == f"{TOPIC}-{record.partition}-{record.offset}-0"


async def test_a_topic_that_is_gone_is_no_obstacle(past: Past) -> None:
    """Requests came from another one, before it was renamed."""
    record = replace(past.send('{"agency_id": 7}'), topic="old.requests")
    put_aside_by_the_first_version(past, record)

    [sent], [told], _ = await redriven(past)

    assert sent.topic == TOPIC
    assert told.run_id == f"old.requests-{record.partition}-{record.offset}-0"


async def test_letters_that_say_the_same_are_sent_once(past: Past) -> None:
    """The newest: one key, value and headers are one request, however often it was tried."""
    records = [past.send('{"agency_id": 7}') for _ in range(3)]
    for record in records:
        past.put_aside(record, UNKNOWN)
    other = past.send('{"agency_id": 7}', x="1")
    past.put_aside(other, UNKNOWN)

    sent, told, repeated = await redriven(past)

    assert [received(each).run_id for each in sent] == [run_id_of_place(records[-1]), run_id_of_place(other)]
    assert [each.letter.offset for each in told] == [records[-1].offset, other.offset]
    assert repeated == 2


async def test_a_letter_that_came_back_is_the_one_it_was_made_of(past: Past) -> None:
    """Resending what is still unusable again and again adds a letter a time, and never a second message at a time."""
    past.put_aside(past.send('{"agency_id": 7, "unknown": 1}'), UNUSABLE)
    for _ in range(4):
        before = len(past.sent)
        sent, _, _ = await redriven(past)
        assert len(sent) == len(past.sent) - before == 1
        past.put_aside(sent[0], UNUSABLE)

    assert len({received_id(each) for each in past.sent[1:]}) == 1


def received_id(record: Record) -> str:
    run_id: str = json.loads(record.value or b"")["run_id"]
    return run_id


async def test_resending_twice_makes_no_second_run(past: Past) -> None:
    """Nor does an offset reset besides."""
    for record in (
        past.send('{"agency_id": 1}'),
        past.send('{"agency_id": 2, "run_id": "two"}'),
        past.send('{"agency_id": 3}', ce_specversion="1.0", ce_id="e", ce_source="s", ce_type="t"),
    ):
        past.put_aside(record, UNKNOWN)
    await redriven(past)
    await redriven(past)
    await past.take()

    assert [run.agency_id for run in await past.all_runs()] == [1, 2, 3]


async def test_letters_in_the_database_are_among_the_others(past: Past) -> None:
    """Listed by age, found by `db:` and their number, and resent as the request came."""
    past.put_aside(past.send('{"agency_id": 1}', key=b"1"), UNKNOWN)
    await past.keep(past.send('{"agency_id": 2}', key=b"2", x="y"), UNUSABLE)
    bare = past.send('{"agency_id": 3}', key=None)
    await past.keep(bare, UNKNOWN)
    past.put_aside(past.send('{"agency_id": 4}', key=b"4"), UNKNOWN)
    letters = letters_in(past)

    listed = await letters.newest(Filter(), limit=3)
    assert [each.original_key for each in listed] == [b"4", None, b"2"]
    assert [each.place for each in listed[1:]] == ["db:2", "db:1"]
    assert [each.place for each in await letters.newest(Filter(reason="invalid_request"), limit=3)] == ["db:1"]
    [found] = await letters.at([letter_place("db:1")])
    assert found.original_headers == (("x", b"y"),)
    with pytest.raises(PlaceUnknown, match="no dead letter at db:9; "):
        await letters.at([letter_place("db:1"), letter_place("db:9")])

    [sent], _, _ = await redriven(past, Filter(places=[letter_place("db:2")]))
    assert (sent.key, received(sent).run_id) == (None, run_id_of_place(bare))
    everything, _, repeated = await redriven(past)
    assert sorted(received(each).request.agency_id for each in everything) == [1, 2, 3, 4]
    assert repeated == 0


async def test_only_what_is_wanted_is_resent(past: Past) -> None:
    """By place, by reason, by time."""
    letters = [
        letter_of(past, past.send(f'{{"agency_id": {n}}}', key=str(n).encode()), UNKNOWN if n % 2 else UNUSABLE)
        for n in range(1, 6)
    ]

    async def agencies(wanted: Filter) -> list[int]:
        sent, _, _ = await redriven(past, wanted)
        return sorted(received(each).request.agency_id for each in sent)

    places = [(each.record.partition, each.record.offset) for each in letters]
    assert await agencies(Filter(places=places[1:3])) == [2, 3]
    assert await agencies(Filter(reason="unknown_dataset")) == [1, 3, 5]
    assert await agencies(Filter(since=START + timedelta(seconds=4))) == [4, 5]
    assert await agencies(Filter(reason="unknown_dataset", since=START + timedelta(seconds=4))) == [5]


async def test_an_unknown_place_is_told_before_anything_is_sent(past: Past) -> None:
    """All that were named, or nothing."""
    letter = letter_of(past, past.send('{"agency_id": 7}'))
    before = len(past.sent)

    with pytest.raises(PlaceUnknown):
        await redriven(past, Filter(places=[(letter.record.partition, 0), (letter.record.partition, 9)]))
    assert len(past.sent) == before


async def test_a_useless_request_is_resent_and_said_to_be_useless(past: Past) -> None:
    """Nobody decides here what is beyond help."""
    for value in (None, b"", b"\xff"):
        past.put_aside(past.send(value), InvalidJson("The value isn't JSON."))

    sent, told, _ = await redriven(past)

    assert [each.value for each in sent] == [None, b"", b"\xff"]
    assert [each.run_id for each in told] == [None] * 3


async def test_a_value_that_was_left_out_is_fetched_from_where_it_is(past: Past) -> None:
    """With the headers that were left out as well; both are said to be gone when they are."""
    there = past.send(json.dumps({"agency_id": 7, "requested_by": "x" * 100}), key=b"k" * 2000, traceparent="x")
    gone = past.send(json.dumps({"agency_id": 8, "requested_by": "x" * 100}), key=b"8")
    for record in (there, gone):
        past.put_aside(record, RequestTooLarge(100, limit=10), left_out=True)
    past.broker.partition(TOPIC, gone.partition).expire(gone.offset + 1)
    if there.partition == gone.partition:
        past.broker.partition(TOPIC, there.partition).records.insert(0, there)

    [sent], told, _ = await redriven(past)

    assert (sent.key, sent.headers) == (there.key, there.headers)
    assert received(sent).run_id == run_id_of_place(there)
    assert sorted(each.obstacle or "" for each in told) == [
        "",
        f"its value was too large for a dead letter, and is gone from {TOPIC}",
    ]


async def test_one_that_is_too_large_to_be_resent_stops_no_other(past: Past) -> None:
    """The topic's limit was lowered since."""
    for n in range(1, 4):
        past.put_aside(past.send(json.dumps({"agency_id": n, "requested_by": "x" * 100 * (n % 2)})), UNKNOWN)
    past.broker.max_message_bytes = 120

    sent, told, _ = await redriven(past)

    assert {received(each).request.agency_id for each in sent} == {2}
    assert [each.obstacle for each in told] == [
        f"it is larger than {TOPIC} takes",
        None,
        f"it is larger than {TOPIC} takes",
    ]


async def test_many_letters_go_in_batches(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    """By number, and by size; all of them, in order within a partition."""
    monkeypatch.setattr("pipeline_processing.requests.redrive._BATCH", 3)
    monkeypatch.setattr("pipeline_processing.requests.redrive._BATCH_BYTES", 100)
    for n in range(1, 20):
        past.put_aside(past.send(json.dumps({"agency_id": n, "requested_by": "x" * n * 10})), UNKNOWN)

    sent, told, repeated = await redriven(past)

    assert [received(each).request.agency_id for each in sent] == list(range(1, 20))
    assert len(told) == 19
    assert repeated == 0


VALUES = st.sampled_from(
    [
        None,
        "no JSON",
        '{"agency_id": 1}',
        '{"agency_id": 2, "x": 1}',
        '{"agency_id": 1, "run_id": "a"}',
        '{"agency_id": 3}',
    ]
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), VALUES, st.sampled_from([b"1", b"2", None]), st.booleans()),
        st.tuples(st.just("redrive")),
        st.tuples(st.just("reset")),
    ),
    max_size=10,
)


@given(STEPS)
async def test_resending_never_makes_more_runs(steps: Sequence[Any]) -> None:
    """
    Requests become letters, are resent, become letters once more, offsets are reset: what is resent at last asks for no
    run that wasn't asked for at first, and nothing is sent twice.
    """
    past = Past()
    asked: set[str | None] = {None}
    for step in steps:
        match step:
            case ("send", value, key, event):
                headers = {"ce_specversion": "1.0", "ce_id": "e", "ce_source": "s", "ce_type": "t"} if event else {}
                record = past.send(value, key=key, **headers)
                asked.add(_run_id(record))
                past.put_aside(record, UNUSABLE)
            case ("redrive",):
                for record in (await redriven(past))[0]:
                    past.put_aside(record, UNUSABLE)
            case ("reset",):
                for record in past.sent:
                    past.put_aside(record, UNUSABLE)
    letters = len(past.letters)
    sent, told, repeated = await redriven(past)

    assert len(sent) == len(told)
    assert len(sent) + repeated == letters
    messages = [(record.key, record.value, record.headers) for record in sent]
    assert len(set(messages)) == len(messages)
    assert {_run_id(record) for record in sent} <= asked


def _run_id(record: Record) -> str | None:
    try:
        return received(record).run_id
    except (InvalidJson, InvalidRequest):
        return None
