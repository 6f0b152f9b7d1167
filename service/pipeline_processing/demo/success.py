"""Shows the results of a run that succeeded: manifest and objects in S3, and its event on Kafka, all of one trace."""

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Collection

from pipeline_processing.demo.evidence import Evidence, expect
from pipeline_processing.demo.page import Page, abridged
from pipeline_processing.messaging.port import Record
from pipeline_processing.model import Run
from pipeline_processing.runs.completions import RunCompletion
from pipeline_processing.runs.manifest import Manifest
from pipeline_processing.terminal.render import number


async def show_publication(run: Run, *, page: Page, evidence: Evidence) -> Manifest:
    """Show and check the run's manifest, and the objects that it lists. Returns the manifest."""
    page.chapter(f"What {run.run_id} has published")
    assert run.manifest_url is not None  # a run that succeeded has one
    [published] = await evidence.objects([run.manifest_url])
    manifest = Manifest.model_validate_json(published.body)
    same = (manifest.run_id, manifest.rows_written, manifest.trace_id) == (run.run_id, run.rows_written, run.trace_id)
    expect(same, f"manifest and history differ on {run.run_id}")
    page.say(
        "The manifest is written once, after everything else. A reader that starts from it sees a whole run or none:"
    )
    page.code(run.manifest_url)
    page.json(abridged(json.loads(published.body), briefly=["datasets"]))

    objects = await evidence.objects([entry.url for entry in manifest.entries])
    for entry, found in zip(manifest.entries, objects, strict=True):
        expect(len(found.body) == entry.meta.content_length, f"{entry.url} doesn't have the size in the manifest")
        expect(
            hashlib.sha256(found.body).hexdigest() == entry.sha256,
            f"{entry.url} doesn't have the checksum in the manifest",
        )
        expect(found.metadata.get("trace-id") == manifest.trace_id, f"{entry.url} has another trace id")
    permits, payments = manifest.entries[0], manifest.entries[-1]
    ndjson = objects[0].body.decode().splitlines()
    expect(len(ndjson) == permits.rows, f"{permits.url} has {number(len(ndjson))} lines")
    text = gzip.decompress(objects[-1].body).decode()
    rows = sum(1 for _ in csv.reader(io.StringIO(text))) - 1
    expect(rows == payments.rows, f"{payments.url} has {number(rows)} rows")
    page.say(
        f"All {len(objects)} objects are there, with these sizes and checksums. The permits are NDJSON, the payments "
        f"gzipped CSV, every value exact. The first of {number(permits.rows)} and {number(payments.rows)}:"
    )
    page.json(ndjson[0])
    page.code("\n".join(text.splitlines()[:2]))
    return manifest


async def show_event(run: Run, *, run_ids: Collection[str], page: Page, evidence: Evidence) -> None:
    """Show and check the run's event, which continues the request's trace. `run_ids` are those of all finished runs."""
    page.chapter("Its event, and one trace through everything")
    topic = evidence.kafka.completions_topic
    records = await evidence.records(topic)
    events = {record.header("ce_id"): record for record in records}
    same = all(_content(record) == _content(events[record.header("ce_id")]) for record in records)
    expect(same, f"{topic} has two different events with the same id")
    by_run = {
        completion.run_id: (event, completion) for event in events.values() for completion in [_completion(event)]
    }
    expect(by_run.keys() == set(run_ids), f"{topic} has events of the runs {', '.join(sorted(by_run))}")
    event, completion = by_run[run.run_id]
    expect(completion == RunCompletion.of(run), f"the event of {run.run_id} differs from the history")
    again = f" ({len(records) - len(events)} of them twice)" if len(records) > len(events) else ""
    page.say(f"{topic} has {len(events)} events, one for each run{again}; headers and value of {run.run_id}'s:")
    page.json(abridged({name: (value or b"").decode() for name, value in event.headers}))
    page.json(abridged(json.loads(event.value or b"")))

    asked = [record for record in await evidence.records(evidence.kafka.requests_topic) if record.key == event.key]
    traces = {completion.trace_id, *map(_trace_id, (event, *asked))}
    expect(traces == {run.trace_id}, f"the traces of {run.run_id} are {', '.join(map(str, traces))}")
    page.say("Its trace is the request's, as in the history, the manifest and every object's metadata.")


def _completion(event: Record) -> RunCompletion:
    return RunCompletion.model_validate_json(event.value or b"")


def _content(record: Record) -> object:
    return record.key, record.value, record.headers


def _trace_id(record: Record) -> str:
    return (record.header("traceparent") or b"--").decode().split("-")[1]
