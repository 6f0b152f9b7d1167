"""The demo's story, chapter by chapter. Whatever it says is checked first."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from opentelemetry.trace import Tracer

from pipeline_processing.app import one_run as app
from pipeline_processing.app.data_path import s3_client
from pipeline_processing.demo.errors import expect
from pipeline_processing.demo.evidence import Evidence
from pipeline_processing.demo.failures import Failures
from pipeline_processing.demo.one_run import OneRun
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
from pipeline_processing.demo.serving import dead_letters_are_no_news
from pipeline_processing.messaging.port import Record
from pipeline_processing.model import JobRequest, Run, RunCompletion, RunState
from pipeline_processing.requests.submission import Sent
from pipeline_processing.runs.completions import SOURCE
from pipeline_processing.settings.settings import Settings
from pipeline_processing.terminal.render import Column, duration, number

_MESSAGES = (Column("FROM"), Column("PLACE"), Column("KEY"), Column("VALUE"))
_RUNS = (
    Column("RUN ID"),
    Column("AGENCY"),
    Column("STATE"),
    Column("ROWS", right=True),
    Column("TOOK", right=True),
    Column("TRACE ID"),
)


class Story:
    """What happens while the service is at work, and how it is told."""

    def __init__(self, *, page: Page, settings: Settings, tracer: Tracer) -> None:
        self._page = page
        self._settings = settings
        self._tracer = tracer
        self._sample = SampleData(settings=settings)
        self._agencies: Mapping[int, str] = {}

    async def tell(self) -> None:
        """Raises StoryUntrue where things go otherwise, and what a command may raise whose servers fail."""
        page, settings = self._page, self._settings
        await self._data_is_loaded()
        async with (
            app.topics(settings) as topics,
            app.history(settings) as runs,
            s3_client(settings) as s3,
            Requests.opened(settings, topics=topics, tracer=self._tracer) as requests,
        ):
            evidence = Evidence(settings=settings, topics=topics, runs=runs, s3=s3)
            with dead_letters_are_no_news():
                sent = await self._requests_are_sent(requests, evidence)
                history = await self._runs_end(sent, requests, evidence)
            one_run = OneRun(history[_run_id(ASKED_FOR_TWICE)], page=page, settings=settings, evidence=evidence)
            manifest = await one_run.is_published()
            await one_run.is_announced(history.keys())
            failures = Failures(page=page, settings=settings, evidence=evidence, sample=self._sample)
            failed = history[_run_id(FAULTY)]
            await failures.dead_letter_is_shown()
            await failures.run_is_explained(failed, like=manifest)
            await failures.run_is_replayed(failed, runs=runs.history, requests=requests)

    async def _data_is_loaded(self) -> None:
        took = _stopwatch()
        tables, self._agencies = await self._sample.load()
        *most, last = (f"{number(table.rows)} {table.name}" for table in tables)
        self._page.say(
            f"A state's records are loaded: {', '.join(most)} and {last} of {len(self._agencies)} agencies, made up "
            f"just now in {took()}."
        )

    async def _requests_are_sent(self, requests: Requests, evidence: Evidence) -> list[Sent]:
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
        others = [record for record in records if not _is_of_submit(record)]
        expect(len(records) - len(others) == len(SUBMITTED), f"{topic} has other messages of submit than these")
        expect(len(others) == 4, f"{topic} has {len(others)} messages of another service")
        one, again = (record for record in others if record.key == str(ASKED_FOR_TWICE).encode())
        expect((one.value, one.headers) == (again.value, again.headers), "two messages differ that should be the same")
        expect([name for name, _ in one.headers] == ["traceparent"], f"{topic} has other headers than were sent")
        page.say(
            f"{len(SUBMITTED)} by `submit`, {len(others)} by another service, bare JSON as any Kafka client can send "
            f"it. The topic {topic} has them at these places (partition:offset):"
        )
        page.table(_MESSAGES, map(_message, records))
        page.say(
            f"For agency {ASKED_FOR_TWICE} the same message came twice, as from a service that got no answer. For "
            f"agency {MALFORMED} there is a text where a number belongs. The bare messages have one header, the trace "
            f"to which they belong. That for agency {ASKED_FOR_TWICE}:"
        )
        page.code("\n".join(f"{name}: {(value or b'').decode()}" for name, value in one.headers))
        return sent

    async def _runs_end(self, sent: Sequence[Sent], requests: Requests, evidence: Evidence) -> Mapping[str, Run]:
        """The history, by run id."""
        page = self._page
        page.chapter("What became of them")
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
            f"All have ended, the last after {_time_taken(history.values())}; up to {at_once} went on at once. Each "
            "read its agency's tables in one snapshot, and streamed them through the job's steps into S3. The history:"
        )
        page.table(_RUNS, map(self._run, history.values()))
        succeeded = sum(run.state is RunState.SUCCEEDED for run in history.values())
        page.say(
            f"{len(history)} runs: the second message for agency {ASKED_FOR_TWICE} made none. {succeeded} succeeded, "
            f"one failed; and the message for agency {MALFORMED} made none, either. We come to both."
        )
        return history

    def _run(self, run: Run) -> tuple[str, ...]:
        return (
            run.run_id,
            self._agencies[run.agency_id],
            run.state,
            number(run.rows_written),
            duration(run.duration_ms),
            run.trace_id or "",
        )


def _run_id(agency_id: int) -> str:
    return f"demo-{agency_id}"


def _is_of_submit(record: Record) -> bool:
    return record.header("ce_source") == SOURCE.encode()


def _message(record: Record) -> tuple[str, ...]:
    who = "submit" if _is_of_submit(record) else "another service"
    return who, f"{record.partition}:{record.offset}", (record.key or b"").decode(), (record.value or b"").decode()


def _time_taken(runs: Collection[Run]) -> str:
    """From the first that was accepted to the last that ended."""
    first = min(run.queued_at for run in runs)
    last = max(run.finished_at or run.queued_at for run in runs)
    return duration((last - first).total_seconds() * 1000)


def _stopwatch() -> Callable[[], str]:
    started = time.monotonic()
    return lambda: duration((time.monotonic() - started) * 1000)
