"""The failures: a message that isn't a valid request, and a run that fails until its data is repaired."""

from pipeline_processing.demo.evidence import Evidence, expect
from pipeline_processing.demo.page import Page
from pipeline_processing.demo.requests import Requests
from pipeline_processing.demo.sample import MALFORMED, Payment, SampleData, statement
from pipeline_processing.errors import InvalidRequest, QueryFailed
from pipeline_processing.messaging.dead_letters import DeadLetter
from pipeline_processing.model import Run, RunState
from pipeline_processing.requests.replay import ReplayPlan
from pipeline_processing.runs.manifest import Manifest
from pipeline_processing.runs.store import RunHistory
from pipeline_processing.terminal.render import duration, number
from pipeline_processing.terminal.replay_plan import PLAN_TABLE, plan_summary
from pipeline_processing.terminal.tables import Column, Table

_PAYMENTS: Table[Payment] = {
    Column("ID"): lambda payment: payment.id,
    Column("PAYEE"): lambda payment: payment.payee,
    Column("AMOUNT"): lambda payment: payment.amount,
    Column("PAID ON"): lambda payment: payment.paid_on,
}
_COMMAND = "$ pipeline-processing replay --failed"


async def show_dead_letter(*, page: Page, evidence: Evidence) -> None:
    """Show the only dead letter."""
    page.chapter("The message that isn't a valid request")
    topic = evidence.kafka.dead_letters_topic
    letters = [letter for record in await evidence.records(topic) if (letter := DeadLetter.of(record))]
    expect(len(letters) == 1, f"{topic} has {len(letters)} dead letters")
    [letter] = letters
    requests = await evidence.records(letter.topic)
    [asked] = [each for each in requests if (each.partition, each.offset) == (letter.partition, letter.offset)]
    expect(asked.key == str(MALFORMED).encode(), f"{topic} has a dead letter of another agency")
    expect(letter.reason == InvalidRequest.kind, f"the dead letter has the reason {letter.reason}")
    untouched = (letter.record.key, letter.record.value, letter.original_headers)
    expect(untouched == (asked.key, asked.value, asked.headers), "the dead letter isn't the message as it came")
    page.say(
        f"It didn't hold up the others. It came from {letter.partition}:{letter.offset} of {letter.topic}, and was "
        f"copied unchanged to {letter.place} of {topic}, with the reason in additional headers:"
    )
    page.facts({"dlq_reason": letter.reason, "dlq_message": letter.message})


async def explain_failure(failed: Run, *, like: Manifest, page: Page, evidence: Evidence, sample: SampleData) -> None:
    """Explain why the run failed, and that it left no objects like those in the manifest `like`."""
    page.chapter(f"Why {failed.run_id} failed")
    error = failed.error
    assert error is not None  # it failed
    expect(error.kind == QueryFailed.kind, f"{failed.run_id} failed for another reason")
    page.facts({"error_kind": error.kind, "error_message": error.message})
    expect(not error.retryable and failed.attempt == 1, f"{failed.run_id} was tried again")
    published = [entry.url for entry in like.entries]
    expect(await evidence.left_at(published) == published, f"{like.run_id} isn't all there")
    left = await evidence.left_at([url.replace(_folder(like), _folder(failed)) for url in published])
    expect(not left, f"{failed.run_id} has left {', '.join(left)}")
    page.say(
        "There was no second attempt, because it couldn't have helped. S3 has nothing of the run, because a run is "
        "published whole or not at all. Amounts are text in this table. Which one isn't a number?"
    )
    page.code(statement("unreadable_amounts"))
    payments = await sample.unreadable_amounts()
    expect([payment.amount for payment in payments] == ["n/a"], "there isn't exactly one such amount")
    page.table(_PAYMENTS, payments)


async def repair_and_replay(
    failed: Run, *, page: Page, evidence: Evidence, sample: SampleData, runs: RunHistory, requests: Requests
) -> None:
    """Repair the data, and replay the run."""
    page.chapter("The data is repaired, and the run replayed")
    page.code(statement("repair"))
    await sample.repair()
    page.say("A finished run never changes; a replay is a new run of the same request. Its plan:")
    page.code(_COMMAND)
    async with requests.planned_replays(runs) as plan:
        _print_plan(plan, page)
        page.code(f"{_COMMAND} --execute")
        sent = await requests.replay(plan)
        page.lines([f"{len(sent)} request sent."])
    expect(len(sent) == 1, f"{len(sent)} requests were replayed")
    await requests.followed(sent)
    replay = (await evidence.history())[sent[0].run_id]
    expect(replay.replay_of == failed.run_id, f"{replay.run_id} is a replay of {replay.replay_of}")
    expect(replay.state is RunState.SUCCEEDED, f"{replay.run_id} ended {replay.state}")
    rows, took = number(replay.rows_written), duration(replay.duration_ms)
    page.say(f"{replay.run_id}, replay of {replay.replay_of}, has succeeded: {rows} rows in {took}. Once more:")
    page.code(_COMMAND)
    async with requests.planned_replays(runs) as plan:
        expect(not plan.to_send, f"{failed.run_id} would be replayed again")
        _print_plan(plan, page)


def _print_plan(plan: ReplayPlan, page: Page) -> None:
    """Print the plan as `replay` does."""
    if steps := [step for steps in plan.pages() for step in steps]:
        page.table(PLAN_TABLE, steps)
    page.lines(plan_summary(plan))


def _folder(run: Run | Manifest) -> str:
    return f"/agency_id={run.agency_id}/run_id={run.run_id}/"
