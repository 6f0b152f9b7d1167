"""What one run has left: its manifest and objects in S3, and its event on Kafka, all of one trace."""

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Collection

from pipeline_processing.demo.errors import expect
from pipeline_processing.demo.evidence import Evidence
from pipeline_processing.demo.page import Page, abridged
from pipeline_processing.messaging.port import Record
from pipeline_processing.model import Manifest, Run, RunCompletion
from pipeline_processing.settings.settings import Settings
from pipeline_processing.terminal.render import number


class OneRun:
    """Tells of a run that has succeeded."""

    def __init__(self, run: Run, *, page: Page, settings: Settings, evidence: Evidence) -> None:
        self._run = run
        self._page = page
        self._settings = settings
        self._evidence = evidence

    async def is_published(self) -> Manifest:
        """Its manifest, and the objects that this names."""
        page, run = self._page, self._run
        page.chapter(f"What {run.run_id} has published")
        assert run.manifest_url is not None  # a run that has succeeded has one
        [published] = await self._evidence.objects([run.manifest_url])
        manifest = Manifest.model_validate_json(published.body)
        expect(manifest.run_id == run.run_id, f"the manifest of {run.run_id} names run {manifest.run_id}")
        expect(manifest.rows_written == run.rows_written, "manifest and history count different rows")
        expect(manifest.trace_id == run.trace_id, "manifest and history name different traces")
        page.say("The manifest is written last, once. Whoever starts from it sees a whole run, or none:")
        page.code(run.manifest_url)
        page.json(abridged(json.loads(published.body), briefly=["datasets"]))
        await self._objects_are_shown(manifest)
        return manifest

    async def _objects_are_shown(self, manifest: Manifest) -> None:
        permits, payments = manifest.entries[0], manifest.entries[-1]
        objects = await self._evidence.objects([entry.url for entry in manifest.entries])
        for entry, found in zip(manifest.entries, objects, strict=True):
            expect(len(found.body) == entry.meta.content_length, f"{entry.url} has another size than the manifest says")
            expect(hashlib.sha256(found.body).hexdigest() == entry.sha256, f"{entry.url} isn't what the manifest says")
            expect(found.metadata.get("trace-id") == manifest.trace_id, f"{entry.url} has another trace id")
        ndjson = objects[0].body.decode().splitlines()
        expect(len(ndjson) == permits.rows, f"{permits.url} has {number(len(ndjson))} lines")
        text = gzip.decompress(objects[-1].body).decode()
        records = sum(1 for _ in csv.reader(io.StringIO(text))) - 1
        expect(records == payments.rows, f"{payments.url} has {number(records)} rows")
        self._page.say(
            f"All {len(objects)} objects are there, with these sizes and checksums. The permits are NDJSON, the "
            f"payments gzipped CSV, every value exact. The first of {number(permits.rows)} and {number(payments.rows)}:"
        )
        self._page.json(ndjson[0])
        self._page.code("\n".join(text.splitlines()[:2]))

    async def is_announced(self, run_ids: Collection[str]) -> None:
        """Its event, which like all else continues the trace of the request. `run_ids`: of all runs that ended."""
        page, run = self._page, self._run
        topic, requests_topic = self._settings.kafka.completions_topic, self._settings.kafka.requests_topic
        page.chapter("Its event, and one trace through it all")
        records = await self._evidence.records(topic)
        events = {record.header("ce_id"): record for record in records}
        same = all(_content(record) == _content(events[record.header("ce_id")]) for record in records)
        expect(same, f"{topic} has two events of one id that differ")
        announced = sorted(_completion(event).run_id for event in events.values())
        expect(announced == sorted(run_ids), f"{topic} has events of the runs {', '.join(announced)}")
        [event] = [event for event in events.values() if _completion(event).run_id == run.run_id]
        completion = _completion(event)
        expect(completion == RunCompletion.of(run), f"the event of {run.run_id} isn't what the history says")
        again = f" ({len(records) - len(events)} of them again)" if len(records) > len(events) else ""
        page.say(f"{topic} has {len(events)} events, one for each run{again}; headers and value of {run.run_id}'s:")
        page.json(abridged({name: (value or b"").decode() for name, value in event.headers}))
        page.json(abridged(json.loads(event.value or b"")))

        asked = [record for record in await self._evidence.records(requests_topic) if record.key == event.key]
        traces = {completion.trace_id, *map(_trace_id, (event, *asked))}
        expect(traces == {run.trace_id}, f"{run.run_id} has the traces {traces}")
        page.say("Its trace is the request's, as in the history, the manifest and every object's metadata.")


def _completion(event: Record) -> RunCompletion:
    return RunCompletion.model_validate_json(event.value or b"")


def _content(record: Record) -> object:
    return record.key, record.value, record.headers


def _trace_id(record: Record) -> str:
    return (record.header("traceparent") or b"--").decode().split("-")[1]
