"""An upstream service says that an agency has changed. Its events make one run."""

import json
import time
from datetime import UTC, datetime

from pipeline_processing.aio.clock import SystemClock
from pipeline_processing.demo.evidence import Evidence, StoryUntrue, expect
from pipeline_processing.demo.page import Page
from pipeline_processing.demo.requests import Requests
from pipeline_processing.demo.sample import UPDATED, resource
from pipeline_processing.model import JobRequest, RunState
from pipeline_processing.requests.submission import Sent
from pipeline_processing.terminal.render import duration, number

UPSTREAM_TOPIC = "agencies.events"
_CHANGES = ("address", "licence", "contacts")
_WAIT_SECONDS = 30.0
_POLL_SECONDS = 0.2


def triggers_text() -> str:
    """Return the demo's triggers file as YAML."""
    return resource("triggers.yaml")


async def show_trigger(*, page: Page, evidence: Evidence, requests: Requests) -> None:
    """Send three events about one agency, and show the run that they cause."""
    page.chapter("Upstream events ask for a run")
    page.say(
        f"A service need not know of jobs: it says on its own topic, {UPSTREAM_TOPIC}, what has happened. "
        "`pipeline-processing triggers` runs beside `serve`, with this file:"
    )
    page.code(triggers_text().rstrip())
    headers = {"ce_specversion": "1.0", "ce_type": "agency.updated", "ce_source": "/registry"}
    values = [json.dumps({"agency_id": UPDATED, "changed": change}) for change in _CHANGES]
    started = time.monotonic()
    for number_, value in enumerate(values, 1):
        about = {**headers, "ce_id": f"registry-{number_}", "ce_time": datetime.now(UTC).isoformat()}
        await requests.send_event(value, topic=UPSTREAM_TOPIC, headers=about)
    page.say(f"{len(values)} events of agency {UPDATED} arrive in quick succession, the first with this value:")
    page.json(values[0])
    sent = await _request(evidence)
    after = duration((time.monotonic() - started) * 1000)
    page.say(f"After {after}, the last of them quiet, they have become one request:")
    page.json(sent.request.model_dump_json(exclude_defaults=True))
    await requests.followed([sent])
    ours = [run for run in (await evidence.history()).values() if run.agency_id == UPDATED]
    expect([run.run_id for run in ours] == [sent.run_id], f"agency {UPDATED} has {len(ours)} runs")
    [run] = ours
    expect(run.state is RunState.SUCCEEDED, f"{run.run_id} ended {run.state}")
    expect(run.labels == sent.request.labels, f"{run.run_id} has other labels than its request")
    page.say(
        f"Its run has succeeded: {number(run.rows_written)} rows in {duration(run.duration_ms)}. The history has no "
        f"other run of agency {UPDATED}."
    )


async def _request(evidence: Evidence) -> Sent:
    """Wait for the request that the events make."""
    clock, topic = SystemClock(), evidence.kafka.requests_topic
    deadline = clock.monotonic() + _WAIT_SECONDS
    while clock.monotonic() < deadline:
        for record in await evidence.records(topic):
            if record.key == str(UPDATED).encode():
                request = JobRequest.model_validate_json(record.value or b"")
                traceparent = (record.header("traceparent") or b"").decode()
                return Sent(request=request, run_id=request.run_id or "", traceparent=traceparent)
        await clock.sleep(_POLL_SECONDS)
    raise StoryUntrue(f"the events of agency {UPDATED} made no request within {_WAIT_SECONDS:g} s")
