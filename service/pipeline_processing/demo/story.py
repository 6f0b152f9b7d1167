"""The demo's story, chapter by chapter. Whatever it says about the runs is checked first."""

import csv
import gzip
import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping

from opentelemetry.trace import Tracer

from pipeline_processing import app
from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.cli.render import NOTHING, Column, duration, moment, number
from pipeline_processing.demo.errors import expect
from pipeline_processing.demo.exports import Exports
from pipeline_processing.demo.page import Page, abridged
from pipeline_processing.demo.sample import EXPORTED, FAULTY, SampleData, statement
from pipeline_processing.errors import QueryFailed
from pipeline_processing.model import JobRequest, Manifest, Run, RunState
from pipeline_processing.settings import Settings

_FAILED_RUN, _MENDED_RUN = f"demo-{FAULTY}", f"demo-{FAULTY}-mended"
_SHOWN_LINES = 2

_OUTCOMES = (
    Column("RUN ID"),
    Column("AGENCY"),
    Column("STATE"),
    Column("ROWS", right=True),
    Column("BYTES", right=True),
    Column("TOOK", right=True),
    Column("ERROR"),
)
_HISTORY = (Column("RUN ID"), Column("STATE"), Column("QUEUED (UTC)"), Column("TRACE ID"))


class Story:
    """What happens once the servers are up, and how it is told."""

    def __init__(self, *, page: Page, settings: Settings, config: AgencyJobConfig, tracer: Tracer) -> None:
        self._page = page
        self._settings = settings
        self._sample = SampleData(settings=settings)
        self._exports = Exports(settings=settings, config=config, tracer=tracer)
        self._agencies: Mapping[int, str] = {}

    async def tell(self) -> None:
        """Raises StoryUntrue where things go otherwise, and what a command may raise whose servers fail."""
        await self._history_is_set_up()
        await self._data_is_loaded()
        runs = await self._agencies_are_exported()
        succeeded, failed = runs[0], runs[-1]
        manifest = await self._manifest_is_shown(succeeded)
        await self._objects_are_shown(manifest)
        await self._history_is_shown(runs)
        await self._failure_is_explained(failed, manifest)
        await self._cause_is_mended(failed)

    async def _history_is_set_up(self) -> None:
        applied = await app.migrate(self._settings)
        expect(bool(applied), "the new database had a run history already")
        self._page.say(f"The tables of the run history are set up ({', '.join(applied)}).")

    async def _data_is_loaded(self) -> None:
        page = self._page
        page.chapter("A state's records are loaded")
        took = _stopwatch()
        tables, self._agencies = await self._sample.load()
        *most, last = (f"{number(table.rows)} {table.name}" for table in tables)
        page.say(
            f"{len(self._agencies)} agencies have {', '.join(most)} and {last}, made up just now in {took()}: exact "
            "amounts, instants, JSON, names in many scripts, nulls."
        )

    async def _agencies_are_exported(self) -> list[Run]:
        page = self._page
        page.chapter("Agencies are exported, side by side")
        page.say(
            f"{len(EXPORTED)} agencies, {len(EXPORTED)} runs, all at once. Each reads its agency's three tables in one "
            "snapshot, and streams them through the job's steps into S3."
        )
        took = _stopwatch()
        runs = await self._exports.run([JobRequest(agency_id=id_, run_id=f"demo-{id_}") for id_ in EXPORTED])
        for run in runs:
            failed = run.agency_id == FAULTY
            state = RunState.FAILED if failed else RunState.SUCCEEDED
            why = f" ({run.error.kind}: {run.error.message})" if run.error else ""
            expect(run.state is state, f"run {run.run_id} ended {run.state}{why}, not {state}")
        page.say(f"After {took()} all have ended. One has failed, and we come to that.")
        page.table(_OUTCOMES, map(self._outcome, runs))
        return runs

    async def _manifest_is_shown(self, run: Run) -> Manifest:
        page = self._page
        page.chapter(f"What {run.run_id} has published")
        assert run.manifest_url is not None  # a run that has succeeded has one
        [published] = await self._exports.objects([run.manifest_url])
        manifest = Manifest.model_validate_json(published.body)
        expect(manifest.run_id == run.run_id, f"the manifest of {run.run_id} names run {manifest.run_id}")
        expect(manifest.rows_written == run.rows_written, "manifest and history count different rows")
        expect(manifest.trace_id == run.trace_id, "manifest and history name different traces")
        page.say("The manifest is written last, once. Whoever starts from it sees a whole run, or none:")
        page.code(run.manifest_url)
        page.json(abridged(json.loads(published.body)))
        return manifest

    async def _objects_are_shown(self, manifest: Manifest) -> None:
        page = self._page
        permits, payments = manifest.entries[0], manifest.entries[-1]
        objects = await self._exports.objects([entry.url for entry in manifest.entries])
        for entry, found in zip(manifest.entries, objects, strict=True):
            expect(len(found.body) == entry.meta.content_length, f"{entry.url} has another size than the manifest says")
            expect(hashlib.sha256(found.body).hexdigest() == entry.sha256, f"{entry.url} isn't what the manifest says")
            expect(found.metadata.get("trace-id") == manifest.trace_id, f"{entry.url} has another trace id")
        page.say(
            f"All {len(objects)} objects are there, with the sizes and checksums that it gives. The permits are NDJSON "
            f"with every value exact. The first {_SHOWN_LINES} of {number(permits.rows)}:"
        )
        lines = objects[0].body.decode().splitlines()
        expect(len(lines) == permits.rows, f"{permits.url} has {number(len(lines))} lines")
        page.json("\n".join(lines[:_SHOWN_LINES]))
        text = gzip.decompress(objects[-1].body).decode()
        records = sum(1 for _ in csv.reader(io.StringIO(text))) - 1
        expect(records == payments.rows, f"{payments.url} has {number(records)} rows")
        page.say('The payments are CSV, gzipped; "" is an empty note, and nothing at all is none:')
        page.code("\n".join(text.splitlines()[: _SHOWN_LINES + 1]))

    async def _history_is_shown(self, runs: list[Run]) -> None:
        page = self._page
        page.chapter("The history keeps every run, and its trace")
        kept = await self._exports.history()
        expect({run.run_id for run in kept} == {run.run_id for run in runs}, "the history has other runs than these")
        page.table(_HISTORY, [(run.run_id, run.state, moment(run.queued_at), run.trace_id or NOTHING) for run in kept])
        page.say("A run's trace id stands in its manifest as well, and on every object of it.")

    async def _failure_is_explained(self, failed: Run, manifest: Manifest) -> None:
        page = self._page
        page.chapter(f"Why {failed.run_id} failed")
        error = failed.error
        expect(error is not None and error.kind == QueryFailed.kind, f"{failed.run_id} failed for another reason")
        assert error is not None
        page.facts({"kind": error.kind, "message": error.message, "exit code": str(error.exit_code)})
        expect(not error.retryable and failed.attempt == 1, f"{failed.run_id} was tried again")
        there = await self._exports.existing(_keys_of(failed, like=manifest))
        expect(not there, f"{failed.run_id} has left {', '.join(there)}")
        read = number(self._exports.rows_seen.get(failed.run_id, 0))
        page.say(
            f"No second attempt was made, as none could help. {read} rows had been read by then, and S3 shows "
            "nothing of them: a run is published whole or not at all. Amounts are text in this table. "
            "Which one isn't a number?"
        )
        page.code(statement("unreadable_amounts"))
        payments = await self._sample.unreadable_amounts()
        expect([payment.amount for payment in payments] == ["n/a"], "there isn't exactly one such amount")
        page.table((Column("ID"), Column("PAYEE"), Column("AMOUNT"), Column("PAID ON")), payments)

    async def _cause_is_mended(self, failed: Run) -> None:
        page = self._page
        page.chapter("The cause is mended, and the agency exported again")
        page.code(statement("mend"))
        await self._sample.mend()
        page.say("What has finished stays as it is, so this is a new run, which says what it repeats:")
        again = JobRequest(agency_id=failed.agency_id, run_id=_MENDED_RUN, replay_of=failed.run_id)
        [run] = await self._exports.run([again])
        expect(run.state is RunState.SUCCEEDED, f"{run.run_id} ended {run.state}")
        page.table(_OUTCOMES, [self._outcome(run)])

    def _outcome(self, run: Run) -> tuple[str, ...]:
        return (
            run.run_id,
            self._agencies[run.agency_id],
            run.state,
            number(run.rows_written),
            number(run.bytes_written),
            duration(run.duration_ms),
            run.error.kind if run.error else NOTHING,
        )


def _keys_of(run: Run, *, like: Manifest) -> list[str]:
    """Where a run's objects would stand, judged by those of another run."""
    folder = f"agency_id={run.agency_id}/run_id={run.run_id}"
    names = ["/".join(entry.url.rsplit("/", 2)[1:]) for entry in like.entries]
    return [f"{folder}/{name}" for name in (*names, "_manifest.json")]


def _stopwatch() -> Callable[[], str]:
    started = time.monotonic()
    return lambda: duration((time.monotonic() - started) * 1000)
