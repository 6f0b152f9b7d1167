"""Topics that somebody deletes while `serve` needs them: waited for as in an outage, and nothing is passed over."""

from __future__ import annotations

from confluent_kafka.admin import NewTopic

from tests.acceptance.kafka_side import Messages
from tests.acceptance.service import SMALL, Service, message, one_dataset
from tests.acceptance.serving import Serving
from tests.watching import eventually

RECORDS = "SELECT id, name FROM records WHERE agency_id = $1 ORDER BY id"


def delete(messages: Messages, topic: str) -> None:
    for deleted in messages.admin.delete_topics([topic]).values():
        deleted.result(20)
    messages._readers.pop(topic).close()


def create(messages: Messages, topic: str) -> None:
    for created in messages.admin.create_topics([NewTopic(topic, messages.partitions, 1)]).values():
        created.result(20)


def says_that_it_is_missing(serve: Serving, topic: str, *, times: int) -> None:
    line = serve.wait_until_said("Kafka can't be used", times=times)
    assert topic in line["error"]
    status, answer = serve.ask("/readyz")
    assert status == 503
    assert any(topic in problem for problem in answer["problems"]), answer
    assert serve.is_alive()


def test_topics_that_are_deleted_are_waited_for(service: Service, messages: Messages) -> None:
    """Where `serve` may create none: said once, shown by readiness, and all goes on once they are made anew."""
    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(one_dataset(RECORDS)))
    messages.send(*[{"agency_id": SMALL, "run_id": f"before-{number}"} for number in range(6)])
    serve = service.serve(env={"PIPELINE_KAFKA__CREATE_TOPICS": "false"})
    messages.wait_for_completions(6)
    messages.wait_until_taken()

    delete(messages, messages.completions_topic)
    messages.send({"agency_id": SMALL, "run_id": "unannounced"}, partition=0)
    says_that_it_is_missing(serve, messages.completions_topic, times=1)
    eventually(lambda: service.state("unannounced") == "succeeded")
    create(messages, messages.completions_topic)
    serve.wait_until_said("Kafka is back")
    messages.wait_for_completions(1, run_id="unannounced")

    delete(messages, messages.requests_topic)
    says_that_it_is_missing(serve, messages.requests_topic, times=2)
    create(messages, messages.requests_topic)
    # Less than was committed of the old one.
    messages.send(*[{"agency_id": SMALL, "run_id": f"after-{number}"} for number in range(3)])
    for number in range(3):
        messages.wait_for_completions(1, run_id=f"after-{number}")
    eventually(serve.is_ready)
    serve.stop()

    assert serve.complaints().count("Kafka can't be used; retrying until it can") == 2


def test_a_topic_that_is_missing_at_the_start_is_an_error(service: Service, messages: Messages) -> None:
    """Where `serve` may create none: 78, with what to do."""
    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(one_dataset(RECORDS)))
    for deleted in messages.admin.delete_topics([messages.requests_topic]).values():
        deleted.result(20)

    done = service.cli("serve", env={"PIPELINE_KAFKA__CREATE_TOPICS": "false"})

    assert done.returncode == 78
    assert messages.requests_topic in message(done)


def test_a_topic_that_is_deleted_is_made_anew_where_that_is_allowed(service: Service, messages: Messages) -> None:
    """By default it is, with its partitions; and nobody waits long."""
    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(one_dataset(RECORDS)))
    messages.send({"agency_id": SMALL, "run_id": "before-1"}, partition=0)
    serve = service.serve()
    messages.wait_for_completions(1)
    messages.wait_until_taken()
    delete(messages, messages.requests_topic)
    serve.wait_until_said("topic created")

    messages.send({"agency_id": SMALL, "run_id": "after-1"}, partition=0)

    messages.wait_for_completions(1, run_id="after-1")
    serve.stop()
