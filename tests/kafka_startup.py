"""
Have Java keep what it loads when Kafka starts, beside Kafka's jars: `python -m tests.kafka_startup`.

Every start after that takes half the time, and the tests start Kafka dozens of times. It is done once per machine.
"""

from dataclasses import replace
from typing import ClassVar

from pipeline_processing.embedded.kafka import KafkaServer, startup_cache
from pipeline_processing.embedded.kafka_jars import kafka_jars
from pipeline_processing.embedded.process import Launch
from tests.acceptance.kafka_side import Messages

CACHE = startup_cache(kafka_jars(print))
PARTIAL = CACHE.with_suffix(".partial")


class Observed(KafkaServer):
    """A broker whose Java notes what it loads, and writes it down when it ends."""

    stop_seconds: ClassVar[float] = 120.0

    def _launch(self) -> Launch:
        launch = super()._launch()
        java, *arguments = launch.command
        return replace(launch, command=(java, f"-XX:AOTCacheOutput={PARTIAL}", *arguments))


if __name__ == "__main__" and not CACHE.exists():
    with Observed() as kafka, Messages(kafka.bootstrap_servers) as messages:
        messages.send({"run_id": "r-1"})
    PARTIAL.rename(CACHE)
