"""A run that ends its worker, again and again, beside runs that are as they should be."""

from __future__ import annotations

from tests.acceptance.kafka_side import Messages
from tests.acceptance.service import Service, eventually, one_dataset, published_in

POISON = 666
GOOD = (101, 102, 103)
QUERY = (
    "SELECT 1 AS id, $1::bigint AS agency_id, pg_sleep(CASE WHEN $1::bigint = 666 THEN 0.5 ELSE 3 END)::text AS pause"
)
"""The poison comes to its step while the others are still reading."""
LEASE = {"PIPELINE_WORKER__LEASE_SECONDS": "3", "PIPELINE_WORKER__MAX_ATTEMPTS": "3"}


def test_a_poison_run_takes_no_innocent_down(service: Service, messages: Messages) -> None:
    """
    It ends one worker, with all that is in it. From then on it ends only processes of its own, until its tries are
    used up; the others, which lost an attempt by it, succeed, and the second worker serves on.
    """
    job = one_dataset(QUERY, steps=[{"python": "faulty_steps:ends_the_process"}])
    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(job))
    first = service.serve(env=LEASE)
    messages.wait_for_members(1)
    messages.send(*[{"agency_id": agency, "run_id": f"run-{agency}"} for agency in (*GOOD, POISON)])
    _, stderr = first.process.communicate(timeout=60)
    assert first.process.returncode == 7, stderr
    lost = [f"run-{agency}" for agency in (*GOOD, POISON) if service.state(f"run-{agency}") == "running"]
    assert f"run-{POISON}" in lost
    assert len(lost) > 1, "nothing was beside it"

    second = service.serve(env=LEASE)
    failed = messages.wait_for_completions(1, run_id=f"run-{POISON}", seconds=120)[0].json
    for agency in GOOD:
        messages.wait_for_completions(1, run_id=f"run-{agency}", seconds=60)

    assert service.outcomes(f"run-{POISON}") == ["lost", "retrying", "retrying", "failed"]
    assert (failed["error"]["kind"], failed["error"]["exit_code"]) == ("attempts_exhausted", 75)
    assert "ended with exit code 7" in failed["error"]["message"]
    for agency in GOOD:
        run_id = f"run-{agency}"
        assert service.outcomes(run_id) == (["lost", "succeeded"] if run_id in lost else ["succeeded"])
        published_in(service, run_id, agency)
    # The second worker is none the worse for it.
    messages.send({"agency_id": GOOD[0], "run_id": "afterwards"})
    messages.wait_for_completions(1, run_id="afterwards")
    assert service.outcomes("afterwards") == ["succeeded"]
    eventually(second.is_alive)
    second.stop()


def test_a_worker_hands_back_what_it_does_apart(service: Service, messages: Messages) -> None:
    """A run in a process of its own follows its worker: it is handed back when that one stops, at once or killed."""
    job = one_dataset("SELECT 1 AS id, $1::bigint AS agency_id, pg_sleep(600)::text AS pause")
    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(job))
    first = service.serve(env=LEASE)
    messages.wait_for_members(1)
    messages.send({"agency_id": 101, "run_id": "long"})
    eventually(lambda: service.state("long") == "running")
    first.kill()

    second = service.serve(env=LEASE | {"PIPELINE_WORKER__DRAIN_SECONDS": "0"})
    reading = "SELECT FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()"
    second.wait_until_said("it gets its own process")
    eventually(lambda: service.sql(reading) and service.outcomes("long") == ["lost", "running"], 60)
    second.stop()
    assert service.outcomes("long") == ["lost", "handed_back"]
    eventually(lambda: not service.sql(reading), 60)  # or the next one seems to read already

    third = service.serve(env=LEASE)
    third.wait_until_said("it gets its own process")
    eventually(lambda: service.sql(reading) and service.outcomes("long")[-1] == "running", 60)
    third.kill()
    eventually(lambda: service.outcomes("long") == ["lost", "handed_back", "handed_back"], 60)
    eventually(lambda: not service.sql(reading))
