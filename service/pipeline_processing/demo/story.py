"""The demo's story, chapter by chapter. Everything it says is checked first."""

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry.trace import Tracer

from pipeline_processing.app.history import run_store
from pipeline_processing.app.kafka import topics as open_topics
from pipeline_processing.demo.evidence import Evidence, expect
from pipeline_processing.demo.failures import explain_failure, repair_and_replay, show_dead_letter
from pipeline_processing.demo.page import Page
from pipeline_processing.demo.requests import Requests
from pipeline_processing.demo.sample import (
    ASKED_FOR_BY_ANOTHER,
    ASKED_FOR_TWICE,
    FAULTY,
    MALFORMED,
    SUBMITTED,
    SampleData,
)
from pipeline_processing.demo.success import show_event, show_publication
from pipeline_processing.demo.upstream import show_trigger
from pipeline_processing.destinations.s3.client import s3_client
from pipeline_processing.messaging.port import Record
from pipeline_processing.model import JobRequest, Run, RunState
from pipeline_processing.requests import dead_letters
from pipeline_processing.requests.submission import Sent
from pipeline_processing.runs.completions import SOURCE, RunCompletion
from pipeline_processing.settings.settings import Settings
from pipeline_processing.terminal.render import duration, number
from pipeline_processing.terminal.tables import Column, Table


class Story:
    """Drives the running service, and tells what happens."""

    def __init__(self, *, page: Page, settings: Settings, tracer: Tracer) -> None:
        self._page = page
        self._settings = settings
        self._tracer = tracer
        self._sample = SampleData(settings=settings)
        self._agencies: Mapping[int, str] = {}

    async def tell(self) -> None:
        """Raises StoryUntrue if something happens otherwise, and a PipelineError if a server fails."""
        page, settings = self._page, self._settings
        await self._load_data()
        async with (
            open_topics(settings) as topics,
            run_store(settings) as runs,
            s3_client(settings.s3) as s3,
            Requests.opened(settings, topics=topics, tracer=self._tracer) as requests,
        ):
            evidence = Evidence(kafka=settings.kafka, topics=topics, runs=runs, s3=s3)
            with _no_dead_letter_warnings():
                sent = await self._send_requests(requests, evidence)
                history = await self._follow_runs(sent, requests, evidence)
            run, failed = history[_run_id(ASKED_FOR_TWICE)], history[_run_id(FAULTY)]
            manifest = await show_publication(run, page=page, evidence=evidence)
            await show_event(run, run_ids=history.keys(), page=page, evidence=evidence)
            await show_dead_letter(page=page, evidence=evidence)
            await explain_failure(failed, like=manifest, page=page, evidence=evidence, sample=self._sample)
            await repair_and_replay(
                failed, page=page, evidence=evidence, sample=self._sample, runs=runs.history, requests=requests
            )
            await show_trigger(page=page, evidence=evidence, requests=requests)

    async def _load_data(self) -> None:
        started = time.monotonic()
        tables, self._agencies = await self._sample.load()
        *most, last = (f"{number(table.rows)} {table.name}" for table in tables)
        self._page.say(
            f"A state's records are loaded: {', '.join(most)} and {last} of {len(self._agencies)} agencies, generated "
            f"in {duration((time.monotonic() - started) * 1000)}."
        )

    async def _send_requests(self, requests: Requests, evidence: Evidence) -> list[Sent]:
        page, topic = self._page, self._settings.kafka.requests_topic
        page.chapter("Requests are sent to Kafka")
        sent: list[Sent] = []
        for id_, times in ((ASKED_FOR_TWICE, 2), (ASKED_FOR_BY_ANOTHER, 1)):
            value = f'{{"agency_id": {id_}, "run_id": "{_run_id(id_)}"}}'
            traceparent = await requests.send_bare(value, key=id_, times=times)
            sent.append(Sent(JobRequest.model_validate_json(value), _run_id(id_), traceparent))
        value = f'{{"agency_id": "{MALFORMED}", "run_id": "{_run_id(MALFORMED)}"}}'
        await requests.send_bare(value, key=MALFORMED)
        sent += await requests.submit([JobRequest(agency_id=id_, run_id=_run_id(id_)) for id_ in SUBMITTED])

        records = await evidence.records(topic)
        others = [record for record in records if not _sent_by_submit(record)]
        expect((len(records), len(others)) == (len(SUBMITTED) + 4, 4), f"{topic} has other messages than were sent")
        one, again = (record for record in others if record.key == str(ASKED_FOR_TWICE).encode())
        expect((one.value, one.headers) == (again.value, again.headers), "two messages differ that should be the same")
        page.say(
            f"{len(SUBMITTED)} by `submit`, {len(others)} by another service, as bare JSON, which any Kafka client "
            f"can send. The topic {topic} has them at these places (partition:offset):"
        )
        page.table(_MESSAGES, records)
        page.say(
            f"For agency {ASKED_FOR_TWICE} the same message came twice, as if its sender had got no answer. The "
            f"message for agency {MALFORMED} has text where a number belongs. The bare messages have one header, the "
            f"trace to which they belong. The one for agency {ASKED_FOR_TWICE}:"
        )
        page.code("\n".join(f"{name}: {(value or b'').decode()}" for name, value in one.headers))
        return sent

    async def _follow_runs(self, sent: Sequence[Sent], requests: Requests, evidence: Evidence) -> Mapping[str, Run]:
        """Wait until all runs have ended, and show the history. Returns it by run id."""
        page = self._page
        page.chapter("How their runs ended")
        completions = await requests.followed(sent)
        for completion in completions.values():
            state = RunState.FAILED if completion.agency_id == FAULTY else RunState.SUCCEEDED
            why = f" ({completion.error.kind}: {completion.error.message})" if completion.error else ""
            expect(completion.state == state, f"run {completion.run_id} ended {completion.state}{why}, not {state}")
        await evidence.settled()
        history = await evidence.history()
        expect(history.keys() == completions.keys(), f"the history has the runs {', '.join(history)}")
        for run in history.values():
            expect(completions[run.run_id] == RunCompletion.of(run), f"event and history differ on {run.run_id}")
        at_once = self._settings.worker.concurrency
        page.say(
            f"All ended within {_time_taken(history.values())}; up to {at_once} ran at once. Each read its agency's "
            "tables in one snapshot, and streamed them through the job's steps into S3. The history:"
        )
        page.table(
            {
                Column("RUN ID"): lambda run: run.run_id,
                Column("AGENCY"): lambda run: self._agencies[int(run.agency_id)],
                Column("STATE"): lambda run: run.state,
                Column("ROWS", right=True): lambda run: number(run.rows_written),
                Column("TOOK", right=True): lambda run: duration(run.duration_ms),
                Column("TRACE ID"): lambda run: run.trace_id or "",
            },
            history.values(),
        )
        succeeded = sum(run.state is RunState.SUCCEEDED for run in history.values())
        page.say(
            f"{len(history)} runs: the second message for agency {ASKED_FOR_TWICE} started none. {succeeded} "
            f"succeeded, one failed. The message for agency {MALFORMED} started none, either. More on both below."
        )
        return history


def _run_id(agency_id: int) -> str:
    return f"demo-{agency_id}"


def _sent_by_submit(record: Record) -> bool:
    return record.header("ce_source") == SOURCE.encode()


_MESSAGES: Table[Record] = {
    Column("FROM"): lambda record: "submit" if _sent_by_submit(record) else "another service",
    Column("PLACE"): lambda record: f"{record.partition}:{record.offset}",
    Column("KEY"): lambda record: (record.key or b"").decode(),
    Column("VALUE"): lambda record: (record.value or b"").decode(),
}


def _time_taken(runs: Collection[Run]) -> str:
    """Return the time from the first acceptance to the last end."""
    first = min(run.queued_at for run in runs)
    last = max(run.finished_at or run.queued_at for run in runs)
    return duration((last - first).total_seconds() * 1000)


@contextmanager
def _no_dead_letter_warnings() -> Iterator[None]:
    """Keep the intake from logging dead letters inside the block: the story reports them."""
    logger = logging.getLogger(dead_letters.__name__)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
