"""The roles of `deploy/sql` can do their work, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.acceptance.kafka_side import Messages
from tests.acceptance.service import PREFIX, SMALL, Service, one_dataset
from tests.acceptance.test_board import board
from tests.watching import eventually

GRANTS = Path(__file__).parents[2] / "deploy" / "sql"
ROLES = {"source": "pipeline_source", "history": "pipeline_history", "board": "pipeline_board",
         "tables": "pipeline_tables", "owner": "pipeline_owner"}  # fmt: skip


@pytest.fixture
def dsns(service: Service) -> Iterator[dict[str, str]]:
    """The DSN of each role, by file. Everything is run in the order of the README, by the role that it names."""

    def run(*names: str, role: str = "NONE") -> None:
        files = "".join((GRANTS / f"{name}.sql").read_text() for name in names)
        service.sql(f"SET ROLE {role}; {files} RESET ROLE;")

    service.sql("CREATE SCHEMA exports; CREATE TABLE exports.records (id bigint PRIMARY KEY, agency_id bigint);")
    service.sql("DROP SCHEMA pipeline CASCADE")
    usual = service.environment["PIPELINE_SOURCE__DSN"]
    user = f"//{service.servers.postgres.user}@"
    found = {name: usual.replace(user, f"//{role}@") for name, role in ROLES.items()}
    run("roles")
    try:
        migrated = service.cli("migrate", env={"PIPELINE_HISTORY__DSN": found["owner"]})
        assert migrated.returncode == 0, migrated.stderr
        run("history", "board", role=ROLES["owner"])
        run("source", "tables")
        yield found
    finally:
        for role in ROLES.values():
            service.sql(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role};")


def test_each_role_does_its_work(service: Service, messages: Messages, dsns: dict[str, str]) -> None:
    """A run by `serve` into objects and a table, the commands, and the board."""
    job = one_dataset("SELECT id, agency_id FROM records WHERE agency_id = $1")
    job["destinations"] = [
        {"s3": {"bucket": service.bucket, "prefix": PREFIX}},
        {"postgres": {"dsn": "warehouse_dsn", "schema": "exports", "mode": "replace"}},
    ]
    service.environment |= {
        "PIPELINE_SOURCE__DSN": dsns["source"],
        "PIPELINE_HISTORY__DSN": dsns["history"],
        "PIPELINE_SECRETS__WAREHOUSE_DSN": dsns["tables"],
        "PIPELINE_JOB_CONFIG_FILE": str(service.job_config(job)),
    }
    for number in (1, 2):
        messages.send({"agency_id": SMALL, "run_id": f"r-{number}"})
    messages.send("no JSON")
    done = service.cli("serve", "--once")

    assert (done.returncode, service.state("r-1"), service.state("r-2")) == (0, "succeeded", "succeeded"), done.stderr
    assert service.sql("SELECT count(*) FROM exports.records") == [{"count": 12}]
    commands: list[list[Any]] = [
        ["config", "check", "--connect"],
        ["gc"],
        ["history", "prune", "--before", "0s"],
        ["history", "export"],
        ["webhooks", "redeliver", "--failed"],
    ]
    for command in commands:
        done = service.cli(*command)
        assert done.returncode == 0, (command, done.stderr)
    assert (service.state("r-1"), service.state("r-2")) == (None, "succeeded")
    with board(service, {"PIPELINE_HISTORY__DSN": dsns["board"]}) as page:
        status, found = page.ask("/api/v1/runs")
        assert (status, [run["run_id"] for run in found["runs"]]) == (200, ["r-2"])
        assert eventually(lambda: page.ask("/api/v1/runs/r-2")[0] == 200)


def test_no_role_can_do_more(service: Service, dsns: dict[str, str]) -> None:
    """Not the others' work, nor change what it only reads."""
    beyond = [
        ("source", "INSERT INTO payments VALUES (1, 1, 'x', 1)"),
        ("source", "SELECT FROM pipeline.runs"),
        ("history", "CREATE TABLE pipeline.mine ()"),
        ("history", "UPDATE pipeline.installation SET installation_id = gen_random_uuid()"),
        ("history", "SELECT FROM records"),
        ("board", "UPDATE pipeline.runs SET priority = 1"),
        ("tables", "SELECT FROM records"),
    ]
    for role, statement in beyond:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            service.sql(f"SET ROLE {ROLES[role]}; {statement};")


def test_later_tables_are_granted(service: Service, dsns: dict[str, str]) -> None:
    """To those who may use the history, when the owner migrates."""
    service.sql("SET ROLE pipeline_owner; CREATE TABLE pipeline.later (id bigserial); RESET ROLE;")
    service.sql("SET ROLE pipeline_history; INSERT INTO pipeline.later DEFAULT VALUES; RESET ROLE;")
    service.sql("SET ROLE pipeline_board; SELECT FROM pipeline.later; RESET ROLE;")
