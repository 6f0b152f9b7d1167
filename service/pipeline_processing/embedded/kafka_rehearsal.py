"""
Starts Kafka once for practice, so that from then on it starts in less than half the time.

What Java has loaded and linked by then it keeps in an archive (https://openjdk.org/jeps/514), and what Kafka's
format tool writes is the same each time. Both are kept beside the jars. This takes 15 s, so it is for those who
start Kafka often, such as tests.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pipeline_processing.embedded.kafka import ARCHIVE, CHECKPOINT, KafkaServer, rehearsed_folder
from pipeline_processing.embedded.kafka_jars import KafkaJars, lock_for
from pipeline_processing.embedded.process import EmbeddedServerError


def rehearse(*, jars: KafkaJars | None = None) -> None:
    """
    Once: does nothing when it has been done, or when the jars' folder can't be written to.

    Raises EmbeddedServerError.
    """
    jars = jars or KafkaJars()
    folder = rehearsed_folder(jars.paths())
    if not folder.exists() and (lock := lock_for(folder)) is not None:
        with lock:
            if not folder.exists():  # nobody has done it while we waited
                _rehearse_into(folder, jars)


def _rehearse_into(folder: Path, jars: KafkaJars) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of somebody who died here
    partial.mkdir()
    try:
        with _Rehearsal(jars=jars) as server:
            shutil.copyfile(server.directory / CHECKPOINT, partial / CHECKPOINT.name)
            server.stop()
            if not (server.directory / ARCHIVE).exists():
                raise EmbeddedServerError(f"Java has written no archive of Kafka: {server.log.read_text()}")
            shutil.copyfile(server.directory / ARCHIVE, partial / ARCHIVE)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Rehearsal(KafkaServer):
    stop_seconds: ClassVar[float] = 120.0  # Java writes the archive at its end

    def _archive_options(self) -> Sequence[str]:
        return (f"-XX:AOTCacheOutput={self.directory / ARCHIVE}",)
