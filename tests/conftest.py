"""What all tests share."""

import os
from collections.abc import Iterator

import pytest

from pipeline_processing.embedded.servers import EmbeddedServers, embedded_servers


@pytest.fixture(scope="session")
def servers() -> Iterator[EmbeddedServers]:
    """Real servers for the whole session, started when the first test asks for one."""
    with embedded_servers() as running:
        yield running


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test fails the run: whatever it needs has to be installed by the project itself."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = [] if reporter is None else reporter.stats.get("skipped", [])
    # What only root can do has nothing to do for anybody else.
    if os.environ.get("CI") and any("only root" not in str(report.longrepr) for report in skipped):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
