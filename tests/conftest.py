"""Fixtures and options of all tests."""

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import botocore.session
import pytest
import typer.main
from hypothesis import settings

import pipeline_processing.cli.main
from pipeline_processing.destinations.s3.session import loader
from pipeline_processing.embedded.kafka import KafkaServer
from pipeline_processing.embedded.servers import EmbeddedServers, embedded_servers
from tests.pgbouncer import NewPool, PgBouncer
from tests.properties import QUICK

_HERE = Path(__file__).parent

settings.load_profile(QUICK)
# Every S3 client finds and reads the same megabytes of service descriptions, which takes most of the time to open it.
botocore.session.create_loader = lambda paths=None: loader(paths or "")
# Typer inspects all commands and their options at each call.
pipeline_processing.cli.main.program = cache(pipeline_processing.cli.main.program)
typer.main.get_command = cache(typer.main.get_command)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--servers",
        choices=("embedded", "containers"),
        default="embedded",
        help="the servers of the fixtures `servers` and `kafka`: from pip, or images on this machine's Docker engine",
    )


def in_containers(config: pytest.Config) -> bool:
    return bool(config.getoption("servers") == "containers")


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell ignores it in background jobs, but tests interrupt their children and themselves.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if in_containers(config):
        from tests.containers.engine import ContainerError, find_engine

        try:
            find_engine()
        except ContainerError as error:  # report it once, not for each test
            raise pytest.UsageError(str(error)) from None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Measure coverage by unit and contract tests only, which the floor counts, and not by their property tests, which
    take several times as long then.
    """
    for item in items:
        measured = item.path.is_relative_to(_HERE / "unit") or item.path.is_relative_to(_HERE / "contract")
        if not measured or "hypothesis" in item.keywords:
            item.add_marker("no_cover")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Keep the garbage collector from going through thousands of collected tests again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def servers(pytestconfig: pytest.Config) -> Iterator[EmbeddedServers]:
    """
    Real servers for the whole session, started for the first test that uses one; Kafka by `kafka`.

    With `--servers=containers`, they have the same methods.
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
    """Their Kafka, started for the first test that uses it. From then on it is part of the servers' environment."""
    with servers.kafka as running:
        yield running


@pytest.fixture(scope="session")
def pooled(servers: EmbeddedServers) -> Iterator[NewPool]:
    """
    Returns PgBouncers in front of the servers' Postgres, by pool mode and pool size. Each is started for the first test
    that uses it.
    """
    with ExitStack() as stack:

        @cache
        def started(pool_mode: str, pool_size: int = 20) -> PgBouncer:
            pool = PgBouncer(dsn=servers.postgres.dsn(), pool_mode=pool_mode, pool_size=pool_size)
            return stack.enter_context(pool)

        yield started


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test fails the run, because the project must install everything that tests need."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = [] if reporter is None else reporter.stats.get("skipped", [])
    # Tests for root only may be skipped for other users.
    if os.environ.get("CI") and any("only root" not in str(report.longrepr) for report in skipped):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
