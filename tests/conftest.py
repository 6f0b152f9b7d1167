"""What all tests share."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache

import pytest
from botocore.loaders import JSONFileLoader
from hypothesis import settings

from pipeline_processing.embedded.kafka import KafkaServer
from pipeline_processing.embedded.servers import EmbeddedServers, embedded_servers
from tests.pgbouncer import NewPool, PgBouncer, PgBouncerMissing
from tests.properties import QUICK

settings.load_profile(QUICK)
# Each client of S3 reads the same megabytes of service descriptions: most of the time of opening one.
JSONFileLoader.load_file = staticmethod(cache(JSONFileLoader().load_file))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--servers",
        choices=("embedded", "containers"),
        default="embedded",
        help="what the fixtures `servers` and `kafka` are: from pip, or from images by a Docker engine on this machine",
    )


def in_containers(config: pytest.Config) -> bool:
    return bool(config.getoption("servers") == "containers")


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As a shell starts what runs in the background. Tests interrupt their children, and themselves.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if in_containers(config):
        from tests.containers.engine import ContainerError, find_engine

        try:
            find_engine()
        except ContainerError as error:  # said once, here, and not by each test
            raise pytest.UsageError(str(error)) from None


@pytest.fixture(scope="session")
def servers(pytestconfig: pytest.Config) -> Iterator[EmbeddedServers]:
    """
    Real servers for the whole session, started when the first test asks for one; Kafka by `kafka`.

    With `--servers=containers` they have the same methods.
    """
    if in_containers(pytestconfig):
        from tests.containers.servers import container_servers

        running = container_servers(os.environ)
    else:
        running = embedded_servers(kafka=False)
    with running as started:
        yield started


@pytest.fixture(scope="session")
def kafka(servers: EmbeddedServers) -> Iterator[KafkaServer]:
    """The Kafka among them, started when the first test asks for it. From then on the environment names it too."""
    with servers.kafka as running:
        yield running


@pytest.fixture(scope="session")
def pooled(servers: EmbeddedServers) -> Iterator[NewPool]:
    """
    PgBouncer before the Postgres among the servers, by pool mode and size of the pools. Each is started when the first
    test asks for it.
    """
    with ExitStack() as stack:

        @cache
        def started(pool_mode: str, pool_size: int = 20) -> PgBouncer:
            try:
                pool = PgBouncer(dsn=servers.postgres.dsn(), pool_mode=pool_mode, pool_size=pool_size)
            except PgBouncerMissing as missing:
                pytest.skip(str(missing))  # only Debian-like systems have it; in CI a skip fails
            return stack.enter_context(pool)

        yield started


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test fails the run: whatever it needs has to be installed by the project itself."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = [] if reporter is None else reporter.stats.get("skipped", [])
    # What only root can do has nothing to do for anybody else.
    if os.environ.get("CI") and any("only root" not in str(report.longrepr) for report in skipped):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
