"""User code that computes for minutes without waiting: nobody loses a lease by it, and the log names the step."""

from __future__ import annotations

from tests.acceptance.blocking_steps import BLOCKS_IN_FUNCTION, BLOCKS_IN_MODEL
from tests.acceptance.kafka_side import Messages
from tests.acceptance.service import LARGE, SMALL, Service, one_dataset
from tests.watching import eventually

QUERY = "SELECT id, name FROM records WHERE agency_id = $1 ORDER BY id"
STEPS = [{"validate": {"model": "blocking_steps:Model"}}, {"python": "blocking_steps:function"}]
RUNS = {"good-1": SMALL, "good-2": LARGE, "function-1": BLOCKS_IN_FUNCTION, "model-1": BLOCKS_IN_MODEL}


def held(service: Service) -> set[str]:
    """Runs whose lease hasn't ended, by the database's clock."""
    rows = service.sql("SELECT run_id FROM pipeline.runs WHERE state = 'running' AND lease_expires_at > now()")
    return {row["run_id"] for row in rows}


def test_user_code_that_blocks_an_event_loop(service: Service, messages: Messages) -> None:
    """
    An async function blocks only itself. A model's validator blocks the process's own loop: leases are renewed all the
    same, and `/livez` answers.
    """
    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(one_dataset(QUERY, steps=STEPS)))
    serve = service.serve(env={"PIPELINE_WORKER__LEASE_SECONDS": "2", "PIPELINE_WORKER__CONCURRENCY": "4"})
    serve.wait_until_taking()
    *first, last = RUNS
    messages.send(*[{"agency_id": RUNS[run_id], "run_id": run_id} for run_id in first])
    eventually(lambda: held(service) == set(first))
    messages.send({"agency_id": RUNS[last], "run_id": last})

    blocked = serve.wait_until_said("the event loop is blocked")
    own = serve.wait_until_said("an async function blocks its own event loop")
    assert serve.is_alive()
    assert held(service) == set(RUNS), "after twice the length of a lease and more"
    (service.folder / "go-on").touch()
    done = {event.json["run_id"]: event.json for event in messages.wait_for_completions(4)}
    serve.stop()

    assert (blocked["run_id"], blocked["dataset"]) == ("model-1", "records")
    assert "step 1 (validate)" in blocked["step"]
    assert (own["run_id"], own["step"]) == ("function-1", "python: blocking_steps:function")
    for line in (blocked, own):
        assert any("blocking_steps.py" in frame for frame in line["stack"])
    assert {run_id: (each["state"], each["attempt"]) for run_id, each in done.items()} == dict.fromkeys(
        RUNS, ("succeeded", 1)
    )
