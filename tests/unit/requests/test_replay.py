"""Replays: which past requests are found, what is planned for each, and that carrying it out is exactly that."""

import json
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.errors import KafkaUnavailable, PlaceUnknown, RunUnknown
from pipeline_processing.messaging.port import Record
from pipeline_processing.model import FormatName, JobRequest
from pipeline_processing.requests import replay, replay_sources
from pipeline_processing.requests.job_messages import received
from pipeline_processing.requests.replay import ReplayPlan, Step, carry_out, planned, replay_id
from pipeline_processing.requests.replay_sources import Selection
from pipeline_processing.requests.submission import Submitter
from pipeline_processing.telemetry.tracing import IdsOnlyTracer
from tests.unit.past_requests import SPAN, TOPIC, TRACE, Past
from tests.unit.stepped_clock import START


@pytest.fixture
def past() -> Past:
    return Past()


def in_topic(**choice: Any) -> Selection:
    return Selection(**choice) if "place" in choice else Selection(**{"since": START} | choice)


def plan_of(past: Past, selection: Selection, *, same_run: bool = False) -> AbstractAsyncContextManager[ReplayPlan]:
    return planned(selection, runs=past.runs.history, topics=past.broker, topic=TOPIC, same_run=same_run)


async def plan(past: Past, selection: Selection, *, same_run: bool = False) -> list[Step]:
    """The steps of the plan."""
    async with plan_of(past, selection, same_run=same_run) as made:
        return [step for page in made.pages() for step in page]


async def outcomes(past: Past, selection: Selection, *, same_run: bool = False) -> dict[str, str]:
    return {step.run_id: step.outcome for step in await plan(past, selection, same_run=same_run)}


async def execute(past: Past, selection: Selection, *, same_run: bool = False) -> list[Record]:
    """Plan and carry out; what was sent."""
    before = len(past.sent)
    seen = {(record.partition, record.offset) for record in past.sent}
    counted: list[int] = []
    async with plan_of(past, selection, same_run=same_run) as made:
        await carry_out(
            made,
            submitter=Submitter(events=past.broker, topic=TOPIC, clock=past.clock, tracer=IdsOnlyTracer()),
            events=past.broker,
            clock=past.clock,
            on_sent=counted.append,
        )
        assert sum(counted) == made.to_send == len(past.sent) - before
    return [record for record in past.sent if (record.partition, record.offset) not in seen]


def asked(record: Record) -> JobRequest:
    return received(record).request


# -- new runs ------------------------------------------------------------------------------------


async def test_a_replay_is_the_request_once_more_as_a_new_run(past: Past) -> None:
    """All that was asked for, who asked and how urgently; but not until when, since that was about then."""
    fields: dict[str, Any] = {
        "datasets": ("records",),
        "params": {"n": 2**60},
        "since": START,
        "format": FormatName.CSV,
        "requested_by": "billing",
        "labels": {"team": "billing"},
        "priority": 5,
    }
    past.request("a", deadline=START + timedelta(hours=1), not_before=START, **fields)
    await past.take()
    await past.succeed("a")

    [sent] = await execute(past, Selection(run_id="a"))

    assert asked(sent) == JobRequest(agency_id=7, run_id="a.r1", replay_of="a", **fields)
    assert (sent.key, received(sent).run_id) == (b"7", "a.r1")


async def test_a_dry_run_stays_one(past: Past) -> None:
    """A replay never writes what the original didn't."""
    past.request("a", dry_run=True)
    await past.take()
    await past.runs.queue.cancel("a")

    [sent] = await execute(past, Selection(run_id="a"))

    assert asked(sent).dry_run


async def test_each_replay_has_a_trace_of_its_own(past: Past) -> None:
    """A new run is a new story, told from `replay` on."""
    past.request("a")
    past.request("b")
    await past.take()
    await past.succeed("a", "b")

    sent = await execute(past, in_topic())

    traces = {(record.header("traceparent") or b"").split(b"-")[1] for record in sent}
    assert len(traces) == 2
    assert TRACE.encode() not in traces


async def test_a_plan_changes_nothing(past: Past) -> None:
    """It is only looked at."""
    past.request("a")
    await past.take()
    await past.succeed("a")

    assert await plan(past, in_topic()) == await plan(past, in_topic())
    assert len(past.sent) == 1


async def test_the_number_of_a_replay_counts_those_that_were_accepted(past: Past) -> None:
    """Twice in haste is one run; once that is accepted, the next is another."""
    past.request("a")
    await past.take()
    await past.succeed("a")

    await execute(past, Selection(run_id="a"))
    await execute(past, Selection(run_id="a"))
    await past.take()
    assert [run.run_id for run in await past.all_runs()] == ["a", "a.r1"]

    await execute(past, Selection(run_id="a"))
    await past.take()
    assert [run.run_id for run in await past.all_runs()] == ["a", "a.r1", "a.r2"]


async def test_an_id_that_somebody_has_taken_is_passed_over(past: Past) -> None:
    """A run may be named like a replay without being one: asking for it again would be a conflict."""
    past.request("a")
    past.request("a.r1", agency_id=8)
    past.request("a.r2", agency_id=8)
    await past.take()
    await past.succeed("a")

    assert await outcomes(past, Selection(run_id="a")) == {"a": "new run a.r3"}


async def test_what_hasn_t_finished_is_left_out(past: Past) -> None:
    """Queued, running and prepared runs have their result still before them."""
    for run_id in ("queued", "running", "failed", "cancelled"):
        past.request(run_id)
    await past.take()
    await past._claimed("running")
    await past.fail("failed")
    await past.runs.queue.cancel("cancelled")

    steps = await plan(past, Selection(agency_id=7))

    assert [(step.run_id, step.state, step.outcome) for step in steps] == [
        ("queued", "queued", "nothing: it hasn't finished"),
        ("running", "running", "nothing: it hasn't finished"),
        ("failed", "failed", "new run failed.r1"),
        ("cancelled", "cancelled", "new run cancelled.r1"),
    ]
    assert [asked(record).run_id for record in await execute(past, Selection(agency_id=7))] == [
        "failed.r1",
        "cancelled.r1",
    ]


async def test_a_replay_is_left_out_beside_its_original(past: Past) -> None:
    """One request is replayed once, however long the chain; alone, a replay can be replayed."""
    past.request("a")
    await past.take()
    await past.succeed("a")
    await execute(past, Selection(run_id="a"))
    await past.take()
    await past.succeed("a.r1")
    await execute(past, Selection(run_id="a.r1"))
    await past.take()
    await past.succeed("a.r1.r1")

    expected = {
        "a": "new run a.r2",
        "a.r1": "nothing: it is a replay of a, which is in this plan",
        "a.r1.r1": "nothing: it is a replay of a.r1, which is in this plan",
    }
    assert await outcomes(past, in_topic()) == expected
    assert await outcomes(past, Selection(agency_id=7)) == expected
    assert await outcomes(past, Selection(run_id="a.r1")) == {"a.r1": "new run a.r1.r2"}


async def test_a_replay_is_left_out_also_before_its_original(past: Past) -> None:
    """With other keys the two may stand in different partitions, read in any order."""
    original, replay = (
        json.dumps({"agency_id": 7, "run_id": "a"}),
        json.dumps({"agency_id": 7, "run_id": "a.r1", "replay_of": "a"}),
    )
    keys = [str(n).encode() for n in range(20)]
    first = {past.send("x", key=key).partition: key for key in keys}
    past.send(original, key=first[1])
    past.send(replay, key=first[0])
    await past.take()
    await past.succeed("a", "a.r1")

    assert [step.run_id for step in await plan(past, in_topic())] == ["a.r1", "a"]
    assert (await outcomes(past, in_topic()))["a.r1"].startswith("nothing: it is a replay of a")


# -- from the topic ------------------------------------------------------------------------------


async def test_requests_that_the_history_has_lost_are_found(past: Past) -> None:
    """After a failover, or with a new history: that is what the topic is read for."""
    bare = past.request()
    past.request("b")
    await past.take()
    lost = Past()
    lost.broker = past.broker

    run_id = f"{TOPIC}-{bare.partition}-{bare.offset}-{bare.timestamp_ms}"
    steps = await plan(lost, in_topic())
    assert [(step.run_id, step.state) for step in steps] == [(run_id, None), ("b", None)]
    assert [asked(record).replay_of for record in await execute(lost, in_topic())] == [run_id, "b"]


async def test_what_waits_in_the_topic_is_left_out(past: Past) -> None:
    """The intake is about to take it: a replay would be a second run of what isn't even a first."""
    past.request("a")
    await past.take()
    past.request("b")

    assert (await outcomes(past, in_topic()))["b"] == "nothing: it is still waiting in the topic"
    assert (await outcomes(past, in_topic(), same_run=True))["b"] == "nothing: it is still waiting in the topic"


async def test_messages_that_are_no_requests_are_counted(past: Past) -> None:
    """They have been dead letters, which have a command of their own."""
    past.request("a")
    for value in (None, "no", "{}", '{"agency_id": 7.5}'):
        past.send(value)
    past.send('{"agency_id": 7}', ce_id="1")
    await past.take()

    async with plan_of(past, in_topic()) as made:
        assert (made.unreadable, made.to_send, made.left_out) == (5, 0, 1)


async def test_a_run_counts_once(past: Past) -> None:
    """The first of its messages; the others only ask for it again."""
    past.request("a", requested_by="first")
    past.request("a", requested_by="second")
    past.request("b")
    past.request("a", requested_by="third")
    await past.take()
    await past.succeed("a", "b")

    async with plan_of(past, in_topic()) as made:
        assert made.repeated == 2
        assert [step.run_id for page in made.pages() for step in page] == ["a", "b"]
    assert asked((await execute(past, in_topic()))[0]).requested_by == "first"


async def test_the_run_s_own_request_is_replayed(past: Past) -> None:
    """Another one under its id was only ever a dead letter, even where it is the first that is left."""
    past.request("a", datasets=("records",))
    await past.take()
    await past.succeed("a")
    conflicting = past.request("a", datasets=("others",))
    await past.take()

    place = (conflicting.partition, conflicting.offset)
    assert await outcomes(past, in_topic(place=place), same_run=True) == {
        "a": "nothing: its run id was used before, for another request"
    }
    [sent] = await execute(past, in_topic(place=place))
    assert asked(sent).datasets == ("records",)


async def test_since_and_until_bound_the_record_s_time(past: Past) -> None:
    """From the one on, before the other, by each record's own time, in whatever order they stand."""
    times = [10, 30, 20, 5, 40]
    for seconds in times:
        past.clock.time = START + timedelta(seconds=seconds)
        past.send(json.dumps({"agency_id": 7, "run_id": f"at-{seconds}"}))
    await past.take()

    def at(seconds: int) -> datetime:
        return START + timedelta(seconds=seconds)

    async def found(**bounds: datetime) -> list[str]:
        return [step.run_id for step in await plan(past, in_topic(**bounds))]

    assert await found(since=at(20)) == ["at-30", "at-20", "at-40"]
    assert await found(since=at(10), until=at(30)) == ["at-10", "at-20"]
    assert await found(since=at(41)) == []


async def test_an_offset_reads_its_partition_only(past: Past) -> None:
    """From there on, and up to the end; an offset beyond the end finds nothing."""
    records = [past.request(f"r{n}", agency_id=n) for n in range(1, 12)]
    await past.take()
    partition = records[0].partition
    same = [f"r{n}" for n, record in enumerate(records, 1) if record.partition == partition]
    assert 2 < len(same) < len(records)

    assert [step.run_id for step in await plan(past, in_topic(place=(partition, 1)))] == same[1:]
    assert await plan(past, in_topic(place=(partition, 99))) == []


async def test_an_offset_of_no_partition_is_an_error(past: Past) -> None:
    """With those that there are."""
    with pytest.raises(PlaceUnknown, match=r"has no partition 9\. It has 0, 1\."):
        await plan(past, in_topic(place=(9, 0)))


@pytest.mark.parametrize("timestamp_ms", [-1, 2**62])
async def test_a_time_that_is_none_harms_nobody(past: Past, timestamp_ms: int) -> None:
    """Producers can set what they like."""
    record = past.request("a")
    await past.take()
    partition = past.broker.partition(TOPIC, record.partition)
    partition.records[0] = Record(record.topic, record.partition, 0, timestamp_ms, record.key, record.value)

    [step] = await plan(past, in_topic(place=(record.partition, 0)))

    assert step.requested_at is None


# -- from the history ----------------------------------------------------------------------------


async def test_failed_runs_are_replayed_until_they_have_a_replay(past: Past) -> None:
    """So that the same command takes only what has failed since; a replay that failed is one of those."""
    for run_id in "abc":
        past.request(run_id)
    await past.take()
    await past.fail("a", "b")
    await past.succeed("c")

    failed = {"failed": True}
    assert [asked(record).run_id for record in await execute(past, Selection(**failed))] == ["a.r1", "b.r1"]
    await past.take()
    assert await plan(past, Selection(**failed)) == []
    await past.fail("a.r1")
    await past.succeed("b.r1")
    assert await outcomes(past, Selection(**failed)) == {"a.r1": "new run a.r1.r1"}


async def test_the_history_is_narrowed_by_agency_and_time(past: Past) -> None:
    """By the time of acceptance; oldest first."""
    for n, (run_id, agency_id) in enumerate([("a", 7), ("b", 8), ("c", 7), ("d", 7)], start=1):
        past.clock.time = START + timedelta(minutes=n)
        past.request(run_id, agency_id=agency_id)
        await past.take()
    await past.fail("a", "b", "d")
    await past.succeed("c")

    async def found(**choice: Any) -> list[str]:
        return [step.run_id for step in await plan(past, Selection(**choice))]

    assert await found(agency_id=7) == ["a", "c", "d"]
    assert await found(agency_id=7, failed=True) == ["a", "d"]
    assert await found(failed=True, since=START + timedelta(minutes=2)) == ["b", "d"]
    assert await found(agency_id=7, until=START + timedelta(minutes=4)) == ["a", "c"]


async def test_an_unknown_run_is_an_error(past: Past) -> None:
    """A run that the history doesn't have can only be found in the topic."""
    with pytest.raises(RunUnknown):
        await plan(past, Selection(run_id="nobody"))


@pytest.mark.parametrize("page", [1, 2, 3, 100])
@pytest.mark.parametrize("at_once", [1, 2, 5, 7])
async def test_a_long_history_is_read_in_pages(
    past: Past, monkeypatch: pytest.MonkeyPatch, page: int, at_once: int
) -> None:
    """Each run once, also where more than a page of them were accepted at the same moment."""
    monkeypatch.setattr(replay_sources, "PAGE", page)
    for start in range(0, 14, at_once):
        past.clock.pass_(1)
        for n in range(start, min(14, start + at_once)):
            past.send(json.dumps({"agency_id": 7, "run_id": f"r{n}"}))
        await past.take()

    assert [step.run_id for step in await plan(past, Selection(agency_id=7))] == [f"r{n}" for n in range(14)]
    assert [step.run_id for step in await plan(past, in_topic())] == [f"r{n}" for n in range(14)]


async def test_a_run_that_is_pruned_meanwhile_is_left_out(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between finding it and looking at it."""
    past.request("a")
    await past.take()
    pages = replay.requests_in_history

    async def pruned(*args: Any, **options: Any) -> Any:
        async for page in pages(*args, **options):
            yield page
        past.table.records.clear()

    monkeypatch.setattr(replay, "requests_in_history", pruned)

    assert await outcomes(past, Selection(agency_id=7)) == {"a": "nothing: it was just removed from the history"}


# -- the same run --------------------------------------------------------------------------------


async def test_the_same_messages_again_say_what_becomes_of_each(past: Past) -> None:
    """Finished runs send their events again, lost ones are runs again, and the rest is settled."""
    for run_id in ("done", "waits", "lost"):
        past.request(run_id)
    await past.take()
    await past.succeed("done")
    del past.table.records["lost"]

    assert await outcomes(past, in_topic(), same_run=True) == {
        "done": "sends its event again",
        "waits": "nothing: it is accepted",
        "lost": "a new run",
    }
    sent = await execute(past, in_topic(), same_run=True)
    assert [received(record).run_id for record in sent] == ["done", "lost"]
    await past.take()
    assert {run.run_id: str(run.state) for run in await past.all_runs()} == {
        "done": "succeeded",
        "waits": "queued",
        "lost": "queued",
    }


@pytest.mark.parametrize("bare", [True, False])
async def test_the_same_message_is_the_same_to_the_byte(past: Past, bare: bool) -> None:
    """Key, headers, and value, which is only given the run id that it had by its place."""
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "x-other": "é"}
    if not bare:
        headers |= {"ce_specversion": "1.0", "ce_id": "e", "ce_source": "s", "ce_type": "t"}
    first = past.send('{ "agency_id" : 7,\n "deadline": "2026-01-18T10:00:00Z"}', key=None, **headers)
    await past.take()
    run_id = received(first).run_id
    await past.runs.queue.cancel(run_id)

    [again] = await execute(past, in_topic(), same_run=True)

    assert (again.key, again.headers) == (first.key, first.headers)
    assert again.value == first.value or (bare and json.loads(again.value or b"")["run_id"] == run_id)
    assert received(again).run_id == run_id
    assert asked(again).digest() == asked(first).digest()


async def test_the_history_s_requests_are_the_same_run_too(past: Past) -> None:
    """With their ids, deadlines and traces: the history knows them as they were accepted."""
    first = past.request(deadline=START, not_before=START, requested_by="billing")
    await past.take()
    [run] = await past.all_runs()
    await past.runs.queue.cancel(run.run_id)

    [again] = await execute(past, Selection(agency_id=7), same_run=True)

    assert received(again).run_id == run.run_id
    assert asked(again) == asked(first).model_copy(update={"run_id": run.run_id})
    assert again.header("traceparent") == f"00-{TRACE}-{SPAN}-01".encode()
    events = len(past.table.events)
    await past.take()
    assert len(await past.all_runs()) == 1
    assert len(past.table.events) == events


# -- carrying out --------------------------------------------------------------------------------


async def test_requests_are_sent_in_their_order_and_told_in_batches(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many pages a plan has."""
    monkeypatch.setattr(replay_sources, "PAGE", 3)
    for n in range(10):
        past.request(f"r{n}")
    await past.take()
    await past.succeed(*(f"r{n}" for n in range(10)))

    for source in (in_topic(), Selection(agency_id=7)):
        assert [asked(record).replay_of for record in await execute(past, source)] == [f"r{n}" for n in range(10)]


async def test_a_plan_that_breaks_off_can_be_carried_out_again(past: Past) -> None:
    """What was stored without a reply is sent twice, and is one run."""
    for n in range(3):
        past.request(f"r{n}")
    await past.take()
    await past.succeed("r0", "r1", "r2")
    past.broker.lost_replies = 10**9
    with pytest.raises(KafkaUnavailable):
        await execute(past, in_topic())
    past.broker.lost_replies = 0
    assert len(past.sent) > 6  # patiently, again and again

    await execute(past, in_topic())
    await past.take()

    runs = [run.run_id for run in await past.all_runs()]
    assert runs == ["r0", "r1", "r2", "r0.r1", "r1.r1", "r2.r1"]


# -- ids -----------------------------------------------------------------------------------------

RUN_IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)
LONG_RUN_IDS = st.text("ab", min_size=120, max_size=128)


@given(st.lists(st.tuples(RUN_IDS | LONG_RUN_IDS, st.integers(1, 10**6)), unique=True, max_size=20))
def test_ids_of_replays_are_run_ids_and_tell_all_apart(replays: Sequence[tuple[str, int]]) -> None:
    """However long the original's is, and through a chain of replays; an id is only ever made from one."""
    made = [replay_id(run_id, number) for run_id, number in replays]

    assert all(JobRequest(agency_id=1, run_id=each) for each in made)
    assert len(set(made)) == len(made)
    assert all(replay_id(each, 1) != each for each in made)


def test_ids_of_replays_stay_readable_as_long_as_they_can() -> None:
    """128 characters are kept, one more makes a hash of the end."""
    assert replay_id("a", 1) == "a.r1"
    assert replay_id("a" * 125, 1) == "a" * 125 + ".r1"
    shortened = replay_id("a" * 126, 1)
    assert len(shortened) == 128
    assert shortened.startswith("a" * 92 + ".")
    assert shortened.endswith(".r1")


# -- the algebra ---------------------------------------------------------------------------------

FIELDS = st.fixed_dictionaries(
    {}, optional={"priority": st.integers(0, 3), "requested_by": st.sampled_from(["a", "b"])}
)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("request"), st.integers(1, 3), st.sampled_from([None, "a", "b", "c"]), FIELDS),
        st.tuples(st.just("rubbish")),
        st.tuples(st.just("take")),
        st.tuples(st.sampled_from(["succeed", "fail"]), st.integers(0, 9)),
        st.tuples(st.just("replay")),
    ),
    max_size=15,
)


async def happened(past: Past, events: Sequence[Any]) -> None:
    for event in events:
        match event:
            case ("request", agency_id, run_id, fields):
                past.request(run_id, agency_id=agency_id, **fields)
            case ("rubbish",):
                past.send("no JSON")
            case ("take",):
                await past.take()
            case ("replay",):
                await execute(past, in_topic())
            case (how, which):
                queued = [run.run_id for run in await past.all_runs() if not run.state.finished]
                if queued:
                    await getattr(past, how)(queued[which % len(queued)])
    await past.take()


@given(EVENTS, st.sampled_from(["topic", "agency", "failed"]), st.booleans())
async def test_a_plan_is_what_happens_and_happens_once(events: Sequence[Any], kind: str, same_run: bool) -> None:
    """
    Whatever came before: a plan twice is the same plan; carried out twice before anything is accepted it makes no more
    runs than once; and the runs that it makes are those that it names.
    """
    past = Past()
    await happened(past, events)

    def source() -> Selection:
        if kind == "topic":
            return in_topic()
        return Selection(failed=True) if kind == "failed" else Selection(agency_id=1)

    before = {run.run_id: run for run in await past.all_runs()}
    letters = len(past.letters)
    steps = await plan(past, source(), same_run=same_run)
    assert steps == await plan(past, source(), same_run=same_run)

    await execute(past, source(), same_run=same_run)
    await execute(past, source(), same_run=same_run)
    await past.take()

    after = {run.run_id: run for run in await past.all_runs()}
    assert set(after) == set(before) | {step.new_run_id for step in steps if step.new_run_id}
    assert {run_id: after[run_id] for run_id in before} == before
    assert len(past.letters) == letters
    for step in steps:
        if step.new_run_id:
            assert after[step.new_run_id].replay_of == step.run_id
            assert after[step.new_run_id].agency_id == step.agency_id
    if kind == "failed" and not same_run:
        assert await plan(past, source()) == []


async def test_the_plan_s_pages_can_be_read_again_and_again(past: Past) -> None:
    """Printed first, carried out then; and gone with its block."""
    past.request("a")
    await past.take()
    await past.succeed("a")
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(plan_of(past, in_topic()))
        assert list(made.pages()) == list(made.pages())
        assert (made.to_send, made.left_out) == (1, 0)
    with pytest.raises(ValueError, match="closed"):
        list(made.pages())
