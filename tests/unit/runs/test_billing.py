"""What a process uses is shared among its runs: nothing is lost, and nothing is charged twice."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.errors import DestinationUnavailable, SourceBusy, StepFailed
from pipeline_processing.model import Bill, RunState
from pipeline_processing.plan import Artifact, InlineContent, MultipartUpload, Staged, StagedFile
from pipeline_processing.runs.billing import Account, Ledger, planned_requests
from pipeline_processing.usage import Usage, current_usage, use
from tests.unit.in_memory import Service, refused
from tests.unit.runs.test_executor import drained
from tests.unit.runs.test_publication import EXPORT
from tests.unit.virtual_clock import in_virtual_time


class Process:
    """A process whose processor time a test decides, and its ledger."""

    def __init__(self, *, longest_carry: float = 0.1) -> None:
        self.used = 0.0
        self.ledger = Ledger(cpu=lambda: self.used, longest_carry=longest_carry)

    def bill(self, account: Account, *, earlier: Bill | None = None, planned: int = 0) -> Bill:
        return self.ledger.bill(account, earlier=earlier, planned_requests=planned)


# -- processor time ------------------------------------------------------------------------------

ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "roll forward", "apart", "move", "bill", "end"]),
        st.integers(0, 5),  # which attempt
        st.floats(0, 100, allow_subnormal=False),  # seconds used before
    ),
    max_size=60,
)


@given(ACTIONS, st.sampled_from([0.0, 0.1, 50.0, float("inf")]))
def test_what_was_used_is_billed_carried_or_unbilled(actions: list[tuple[str, int, float]], longest: float) -> None:
    """Whatever attempts do, and in whatever order."""
    process = Process(longest_carry=longest)
    attempts: list[tuple[ExitStack, Account]] = []
    bills: dict[Account, float] = {}
    for action, number, seconds in actions:
        process.used += seconds
        if action in ("begin", "roll forward", "apart"):
            stack = ExitStack()
            charged = process.ledger.attempt(billed=action == "roll forward", apart=action == "apart")
            account = stack.enter_context(charged)
            attempts.append((stack, account))
        elif attempts:
            stack, account = attempts[number % len(attempts)]
            if action == "move":
                account.usage.bytes_read += int(seconds * 1_000_000)
            elif action == "bill":
                bills[account] = process.bill(account).client_cpu_ms / 1000
            else:
                attempts.remove((stack, account))
                stack.close()
    with process.ledger.attempt(billed=True):
        pass
    for stack, _ in attempts:
        stack.close()

    told = sum(bills.values()) + process.ledger.carried + process.ledger.unbilled
    assert told == pytest.approx(process.used, abs=1e-6 * (1 + len(bills)))


def test_attempts_share_by_the_bytes_that_they_have_moved() -> None:
    """One that moves nothing pays a little: that of 64 KiB."""
    process = Process()
    with process.ledger.attempt() as busy, process.ledger.attempt() as waiting:
        busy.usage.bytes_read, busy.usage.bytes_written = 3 * 65536, 65536
        process.used = 6.0
        assert process.bill(waiting).client_cpu_ms == 1000
        process.used = 7.0
        assert process.bill(busy).client_cpu_ms == 6000


def test_publishing_is_charged_to_those_in_progress() -> None:
    """Or to the next one: a bill is never changed."""
    process = Process()
    with process.ledger.attempt() as first, process.ledger.attempt() as second:
        process.bill(first)
        process.used = 1.0
        assert process.bill(second).client_cpu_ms == 1000
        process.used = 4.0
        assert process.bill(first).client_cpu_ms == 0
    assert process.ledger.carried == 3.0
    with process.ledger.attempt() as third:
        process.used = 4.5
        assert process.bill(third).client_cpu_ms == 3500


def test_no_run_pays_for_a_long_wait() -> None:
    """The next one is charged a tenth of a second at most."""
    process = Process()
    process.used = 60.0
    with process.ledger.attempt() as account:
        assert process.bill(account).client_cpu_ms == 100
    assert process.ledger.unbilled == pytest.approx(59.9)


def test_no_run_pays_for_waiting_for_the_process_of_another() -> None:
    """As for any long wait."""
    process = Process()
    with process.ledger.attempt(apart=True):
        process.used = 60.0
    with process.ledger.attempt() as account:
        assert process.bill(account).client_cpu_ms == 100


def test_the_process_of_one_run_is_charged_to_it_from_the_start() -> None:
    """With all imports."""
    process = Process(longest_carry=float("inf"))
    process.used = 1.5
    with process.ledger.attempt() as account:
        process.used = 2.0
        assert process.bill(account).client_cpu_ms == 2000


def test_an_attempt_that_is_never_billed_is_charged_to_nobody() -> None:
    """It was lost to another worker, or cancelled."""
    process = Process()
    with process.ledger.attempt():
        process.used = 2.0
    assert (process.ledger.carried, process.ledger.unbilled) == (0.0, 2.0)


def test_a_bill_adds_up_attempts() -> None:
    """And the requests that publishing will take."""
    process = Process()
    earlier = Bill(client_cpu_ms=1.5, database_ms=2.5, bytes_read=10, bytes_written=20, s3_requests=3)
    with process.ledger.attempt() as account:
        process.used = 0.002
        account.usage.database_seconds = 0.0105
        account.usage.bytes_read, account.usage.bytes_written, account.usage.s3_requests = 1, 2, 4
        assert process.bill(account, earlier=earlier, planned=5) == Bill(
            client_cpu_ms=3.5, database_ms=13.0, bytes_read=11, bytes_written=22, s3_requests=12
        )


# -- usage ---------------------------------------------------------------------------------------


async def test_what_an_attempt_starts_counts_as_its_own() -> None:
    """Tasks and threads, and not what others do meanwhile."""

    async def attempt(requests: int) -> Usage:
        usage = Usage()
        use(usage)
        await asyncio.gather(*(one_request() for _ in range(requests)), asyncio.to_thread(read))
        return usage

    async def one_request() -> None:
        await asyncio.sleep(0)
        current_usage().s3_requests += 1

    def read() -> None:
        current_usage().bytes_read += 7

    assert await asyncio.gather(*map(asyncio.create_task, map(attempt, (2, 5)))) == [
        Usage(bytes_read=7, s3_requests=2),
        Usage(bytes_read=7, s3_requests=5),
    ]
    assert current_usage() == Usage()


def _artifact(staged: Staged, destination: str) -> Artifact:
    return EXPORT.datasets[0].artifacts[0].model_copy(update={"staged": staged, "destination": destination})


def test_a_plan_takes_one_request_for_each_object_in_s3() -> None:
    """And one for the manifest."""
    inline, upload = InlineContent(content=""), MultipartUpload(upload_id="u", parts=())
    artifacts = [_artifact(inline, "s3://b"), _artifact(upload, "s3://b"), _artifact(upload, "s3://c")]
    assert planned_requests(artifacts, manifest_at="s3://b/_manifest.json") == 4
    artifacts = [_artifact(inline, "file:///d"), _artifact(StagedFile(path="p"), "file:///d")]
    assert planned_requests(artifacts, manifest_at="file:///d/_manifest.json") == 0


# -- runs ----------------------------------------------------------------------------------------


MANIFEST = "run_id=r/_manifest.json"


@in_virtual_time
async def test_history_manifest_and_event_have_the_same_bill() -> None:
    """It is decided with the plan, so that another worker, which publishes it later, changes nothing."""
    process = Process()
    service = Service(ledger=process.ledger)
    service.between.on_next("complete", refused(DestinationUnavailable("down")))
    await service.accept()
    process.used = 0.05
    assert (await service.attempt()).run.state is RunState.PREPARED
    process.used = 9.0
    await service.clock.sleep(60)
    run = (await service.attempt(service.second)).run
    assert run.bill == Bill(client_cpu_ms=50, bytes_written=run.bytes_written or 0)
    assert service.events()[0].bill == run.bill
    assert json.loads(service.visible()[MANIFEST])["bill"] == run.bill.model_dump()


@in_virtual_time
async def test_a_bill_covers_all_attempts_of_a_run() -> None:
    """One that is retried, one that is handed back, and the last, which fails the run."""
    process = Process()
    service = Service(ledger=process.ledger)
    await service.accept()

    async def charged(*, drain: bool = False) -> float:
        process.used += 0.05
        if drain:
            await drained(service, "seal")
        else:
            await service.attempt()
        bill = service.record().run.bill
        assert bill is not None
        await service.clock.sleep(60)
        return bill.client_cpu_ms

    service.between.on_next("seal", refused(SourceBusy("busy")))
    assert await charged() == 50
    assert await charged(drain=True) == 100
    service.between.on_next("seal", refused(StepFailed("no")))
    assert await charged() == 150
    run = service.record().run
    assert run.state is RunState.FAILED
    assert service.events()[0].bill == run.bill
    assert process.ledger.unbilled == 0


@in_virtual_time
async def test_a_dry_run_has_a_bill() -> None:
    """It writes nothing."""
    process = Process()
    service = Service(ledger=process.ledger)
    await service.accept(dry_run=True)
    process.used = 0.05
    run = (await service.attempt()).run
    assert run.bill == service.events()[0].bill == Bill(client_cpu_ms=50)
