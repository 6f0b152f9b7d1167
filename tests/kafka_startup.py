"""
Write Java's class-data archive of Kafka's startup beside its jars: `python -m tests.kafka_startup`.

Done once per machine. It halves the startup time of Kafka, which the tests start dozens of times.
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
    """A broker whose Java writes an archive of the loaded classes when it ends."""

    stop_seconds: ClassVar[float] = 120.0

    def _launch(self) -> Launch:
        launch = super()._launch()
        java, *arguments = launch.command
        return replace(launch, command=(java, f"-XX:AOTCacheOutput={PARTIAL}", *arguments))


if __name__ == "__main__" and not CACHE.exists():
    with Observed() as kafka, Messages(kafka.bootstrap_servers) as messages:
        messages.send({"run_id": "r-1"})
    PARTIAL.rename(CACHE)
