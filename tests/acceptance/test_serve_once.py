"""`serve --once` does all that is there, retries included, and ends by itself, whatever the topic looks like."""

from __future__ import annotations

from confluent_kafka import TopicPartition

from pipeline_processing.embedded.kafka import KafkaServer
from tests.acceptance.kafka_side import Messages
from tests.acceptance.service import NOBODY, OTHER, SMALL, Service, one_dataset, published_in

RECORDS = "SELECT id, name FROM records WHERE agency_id = $1 AND 1 / (agency_id - 3) < 2 ORDER BY id"
"""Fails for agency OTHER, whatever is tried."""
assert OTHER == 3


def once(service: Service, **env: str) -> None:
    """A `serve --once`, from its start to its clean end."""
    service.serve("--once", env=env).ended()


def test_all_that_is_there_is_done(service: Service, messages: Messages) -> None:
    """Good and bad requests, a run that fails, one that is tried again: 0 all the same. What isn't due yet is left."""
    config = one_dataset(RECORDS, steps=[{"python": "acceptance_steps:break_off_once"}])
    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(config))
    messages.send(
        {"agency_id": SMALL, "run_id": "retried-1"},
        {"agency_id": OTHER, "run_id": "failed-1"},
        {"agency_id": NOBODY, "run_id": "empty-1"},
        {"agency_id": SMALL, "run_id": "later-1", "not_before": "2999-01-01T00:00:00Z"},
        b"nonsense",
    )

    # One at a time, so that the first one breaks off.
    once(service, PIPELINE_WORKER__CONCURRENCY="1")

    assert service.outcomes("retried-1") == ["retrying", "succeeded"]
    assert (service.state("failed-1"), service.state("later-1")) == ("failed", "queued")
    events = {event.json["run_id"]: event.json["state"] for event in messages.completions()}
    assert events == {"retried-1": "succeeded", "failed-1": "failed", "empty-1": "succeeded"}
    assert [letter.header("dlq_reason") for letter in messages.dead_letters()] == ["invalid_json"]
    assert messages.committed() == messages.ends()
    published_in(service, "retried-1", SMALL)

    once(service)  # nothing is there any more
    assert service.state("later-1") == "queued"
    assert len(messages.completions()) == 3


def test_events_that_waited_are_sent(service: Service, messages: Messages) -> None:
    """What `run` has done without Kafka is announced, though no message asked for it."""
    assert service.run(SMALL, "--run-id", "by-hand-1").returncode == 0
    assert messages.completions() == []

    once(service)

    (event,) = messages.completions()
    assert event.header("ce_id") == "by-hand-1:succeeded"


def test_no_topic_yet(kafka: KafkaServer, service: Service) -> None:
    """It creates the topics, finds nothing, and ends."""
    with Messages(kafka.bootstrap_servers, create=False) as messages:
        service.environment.update(messages.environment)

        once(service)

        assert set(messages.topics) <= set(messages.admin.list_topics().topics)
        assert messages.ends() == {0: 0, 1: 0, 2: 0}


def test_transactions(service: Service, messages: Messages) -> None:
    """Marks at the end of a partition aren't waited for as if they were records; what was rolled back is not done."""
    producer = messages.producer(transactional_id=messages.group)
    producer.init_transactions(20)
    for run_id, finish in (("good-1", producer.commit_transaction), ("bad-1", producer.abort_transaction)):
        producer.begin_transaction()
        for partition in range(3):
            value = f'{{"agency_id": {SMALL}, "run_id": "{run_id}-{partition}"}}'.encode()
            producer.produce(messages.requests_topic, value, partition=partition)
        assert producer.flush(20) == 0  # librdkafka doesn't send what is rolled back before
        finish(20)

    once(service)

    assert {event.json["run_id"] for event in messages.completions()} == {"good-1-0", "good-1-1", "good-1-2"}
    assert service.sql("SELECT count(*) AS runs FROM pipeline.runs") == [{"runs": 3}]
    assert messages.ends() == {0: 4, 1: 4, 2: 4}, "a record and its mark, twice"


def test_records_that_retention_has_removed(service: Service, messages: Messages) -> None:
    """One partition has lost its oldest records and one has lost all: what is left is done."""
    messages.send(*[{"agency_id": SMALL, "run_id": f"trimmed-{number}"} for number in range(9)])
    ends = [TopicPartition(messages.requests_topic, partition, offset) for partition, offset in ((0, 2), (1, 3))]
    for deleted in messages.admin.delete_records(ends).values():
        deleted.result(20)

    once(service)

    left = {f"trimmed-{number}" for number in (6, 2, 5, 8)}
    assert {event.json["run_id"] for event in messages.completions()} == left


def test_an_open_transaction(service: Service, messages: Messages) -> None:
    """Records that are neither committed nor rolled back aren't there yet: they hold nothing up, and come later."""
    messages.send({"agency_id": SMALL, "run_id": "before-1"}, partition=0)
    producer = messages.producer(transactional_id=messages.group)
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(messages.requests_topic, f'{{"agency_id": {SMALL}, "run_id": "within-1"}}'.encode(), partition=0)
    assert producer.flush(20) == 0

    once(service)

    assert [event.json["run_id"] for event in messages.completions()] == ["before-1"]
    producer.commit_transaction(20)
    once(service)
    assert [event.json["run_id"] for event in messages.completions()] == ["before-1", "within-1"]
