"""What went wrong: a message that is no request, and a run that failed for its data until that was mended."""

from pipeline_processing.cli import replay as replay_command
from pipeline_processing.demo.errors import expect
from pipeline_processing.demo.evidence import Evidence
from pipeline_processing.demo.page import Page
from pipeline_processing.demo.requests import Requests
from pipeline_processing.demo.sample import MALFORMED, SampleData, statement
from pipeline_processing.errors import InvalidRequest, QueryFailed
from pipeline_processing.messaging.dead_letters import DeadLetter
from pipeline_processing.model import Manifest, Run, RunState
from pipeline_processing.requests.replay import ReplayPlan, planned
from pipeline_processing.requests.replay_sources import RecordedRequests
from pipeline_processing.runs.store import RunHistory
from pipeline_processing.settings.settings import Settings
from pipeline_processing.terminal.render import Column, duration, number

_COMMAND = "$ pipeline-processing replay --failed"


class Failures:
    """Tells what went wrong, and how one of it was put right."""

    def __init__(self, *, page: Page, settings: Settings, evidence: Evidence, sample: SampleData) -> None:
        self._page = page
        self._settings = settings
        self._evidence = evidence
        self._sample = sample

    async def dead_letter_is_shown(self) -> None:
        """The one there is."""
        page, topic = self._page, self._settings.kafka.dead_letters_topic
        page.chapter("The message that is no request")
        letters = [letter for record in await self._evidence.records(topic) if (letter := DeadLetter.of(record))]
        expect(len(letters) == 1, f"{topic} has {len(letters)} dead letters")
        [letter] = letters
        requests = await self._evidence.records(letter.topic)
        [asked] = [each for each in requests if (each.partition, each.offset) == (letter.partition, letter.offset)]
        expect(asked.key == str(MALFORMED).encode(), f"{topic} has a dead letter of another agency")
        expect(letter.reason == InvalidRequest.kind, f"the dead letter has the reason {letter.reason}")
        untouched = (letter.record.key, letter.record.value, letter.original_headers)
        expect(untouched == (asked.key, asked.value, asked.headers), "the dead letter isn't the message as it came")
        page.say(
            f"It held up none of the others. It came from {letter.partition}:{letter.offset} of {letter.topic}, and "
            f"stands untouched at {letter.place} of {topic}, with the reason in further headers:"
        )
        page.facts({"dlq_reason": letter.reason, "dlq_message": letter.message})

    async def run_is_explained(self, failed: Run, *, like: Manifest) -> None:
        """A run that failed, and left nothing like what that manifest names."""
        page, error = self._page, failed.error
        page.chapter(f"Why {failed.run_id} failed")
        expect(error is not None and error.kind == QueryFailed.kind, f"{failed.run_id} failed for another reason")
        assert error is not None
        page.facts({"error_kind": error.kind, "error_message": error.message})
        expect(not error.retryable and failed.attempt == 1, f"{failed.run_id} was tried again")
        there = [entry.url for entry in like.entries]
        theirs = [url.replace(_folder(like), _folder(failed)) for url in there]
        expect(await self._evidence.left_at(there) == there, f"{like.run_id} isn't all there")
        left = await self._evidence.left_at(theirs)
        expect(not left, f"{failed.run_id} has left {', '.join(left)}")
        page.say(
            "There was no second attempt, as none could help. S3 has nothing of the run: it is published whole or "
            "not at all. Amounts are text in this table. Which one isn't a number?"
        )
        page.code(statement("unreadable_amounts"))
        payments = await self._sample.unreadable_amounts()
        expect([payment.amount for payment in payments] == ["n/a"], "there isn't exactly one such amount")
        page.table((Column("ID"), Column("PAYEE"), Column("AMOUNT"), Column("PAID ON")), payments)

    async def run_is_replayed(self, failed: Run, *, runs: RunHistory, requests: Requests) -> None:
        """Its cause is mended, and its request sent again."""
        page = self._page
        page.chapter("The cause is mended, and the run replayed")
        page.code(statement("mend"))
        await self._sample.mend()
        page.say("What has finished stays as it is; a replay is a new run, of the same request. Its plan:")
        page.code(_COMMAND)
        async with planned(RecordedRequests(runs=runs, failed=True), runs=runs, same_run=False) as plan:
            self._print_plan(plan)
            page.code(f"{_COMMAND} --execute")
            sent = await requests.replay(plan)
            page.lines([f"{len(sent)} request sent."])
        expect(len(sent) == 1, f"{len(sent)} requests were replayed")
        await requests.followed(sent)
        history = await self._evidence.history()
        replays = [history[each.run_id] for each in sent]
        for replay in replays:
            expect(replay.replay_of == failed.run_id, f"{replay.run_id} is a replay of {replay.replay_of}")
            expect(replay.state is RunState.SUCCEEDED, f"{replay.run_id} ended {replay.state}")
            rows, took = number(replay.rows_written), duration(replay.duration_ms)
            page.say(f"{replay.run_id}, replay of {replay.replay_of}, has succeeded: {rows} rows in {took}. Once more:")
        page.code(_COMMAND)
        async with planned(RecordedRequests(runs=runs, failed=True), runs=runs, same_run=False) as plan:
            expect(not plan.to_send, f"{failed.run_id} would be replayed again")
            self._print_plan(plan)

    def _print_plan(self, plan: ReplayPlan) -> None:
        """As the command does."""
        if steps := [step for page in plan.pages() for step in page]:
            self._page.table(replay_command.COLUMNS, map(replay_command.line_of, steps))
        self._page.lines(replay_command.summary(plan))


def _folder(run: Run | Manifest) -> str:
    return f"/agency_id={run.agency_id}/run_id={run.run_id}/"
