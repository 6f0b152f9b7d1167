"""What all tests share."""

import os
from collections.abc import Iterator

import pytest

from pipeline_processing.embedded.kafka import KafkaServer
from pipeline_processing.embedded.kafka_rehearsal import rehearse
from pipeline_processing.embedded.servers import EmbeddedServers, embedded_servers


@pytest.fixture(scope="session")
def servers() -> Iterator[EmbeddedServers]:
    """Real servers for the whole session, started when the first test asks for one; Kafka by `kafka`."""
    with embedded_servers(kafka=False) as running:
        yield running


@pytest.fixture(scope="session")
def rehearsed_kafka() -> None:
    """For tests that start a Kafka: it starts in less than half the time."""
    rehearse()


@pytest.fixture(scope="session")
def kafka(servers: EmbeddedServers, rehearsed_kafka: None) -> Iterator[KafkaServer]:
    """The Kafka among them, started when the first test asks for it. From then on the environment names it too."""
    with servers.kafka as running:
        yield running


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test fails the run: whatever it needs has to be installed by the project itself."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = [] if reporter is None else reporter.stats.get("skipped", [])
    # What only root can do has nothing to do for anybody else.
    if os.environ.get("CI") and any("only root" not in str(report.longrepr) for report in skipped):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
