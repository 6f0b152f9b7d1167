"""
Store what Kafka's startup computes each time beside its jars: `python -m tests.kafka_startup`.

These are Java's class-data archive, and formatted data. Done once per machine. Together they cut the startup time of
Kafka, which the tests start dozens of times, to a third.
"""

import shutil
from dataclasses import replace
from typing import ClassVar

from pipeline_processing.embedded.kafka import KafkaServer, formatted_data, startup_cache
from pipeline_processing.embedded.kafka_jars import kafka_jars
from pipeline_processing.embedded.process import Launch
from tests.acceptance.kafka_side import Messages

JARS = kafka_jars(print)
CACHE, FORMATTED = startup_cache(JARS), formatted_data(JARS)
PARTIAL, PARTLY_FORMATTED = CACHE.with_suffix(".partial"), FORMATTED.with_suffix(".partial")


class Observed(KafkaServer):
    """A broker whose data is kept as formatted, and whose Java writes an archive of the loaded classes when it ends."""

    stop_seconds: ClassVar[float] = 120.0

    def _prepare(self) -> None:
        super()._prepare()
        shutil.rmtree(PARTLY_FORMATTED, ignore_errors=True)
        shutil.copytree(self.directory / "data", PARTLY_FORMATTED)

    def _launch(self) -> Launch:
        launch = super()._launch()
        java, *arguments = launch.command
        return replace(launch, command=(java, f"-XX:AOTCacheOutput={PARTIAL}", *arguments))


if __name__ == "__main__" and not (CACHE.exists() and FORMATTED.exists()):
    CACHE.unlink(missing_ok=True)  # Java can't read one and write another
    with Observed() as kafka, Messages(kafka.bootstrap_servers) as messages:
        messages.send({"run_id": "r-1"})
    PARTIAL.rename(CACHE)
    if not FORMATTED.exists():
        PARTLY_FORMATTED.rename(FORMATTED)
