"""`init` writes a job config that `config check --connect` accepts and a run can use."""

from __future__ import annotations

import json
import re

from tests.acceptance.service import SMALL, Service


def test_a_draft_is_ready_to_run(service: Service) -> None:
    """Each table with the agency's column becomes a dataset, but for any run history's; nothing is overwritten."""
    service.sql(
        'CREATE TABLE public.statuses (code text PRIMARY KEY); CREATE SCHEMA "Odd"; '
        'CREATE VIEW "Odd"."No: yes" AS SELECT * FROM records; '
        "CREATE TABLE public.parts (agency_id bigint, day date) PARTITION BY RANGE (day); "
        "CREATE TABLE public.parts_1 PARTITION OF public.parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');"
    )
    file = service.folder / "drafted.yaml"

    done = service.cli("init", file, env={"PIPELINE_HISTORY__SCHEMA": "another"})

    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{file}\n"
    assert json.loads(file.with_name("job-config.schema.json").read_text())["title"]
    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(file)
    checked = service.cli("config", "check", "--connect")
    assert checked.returncode == 0, checked.stderr
    [named] = re.findall(r"^job config .*: (.*)$", checked.stdout, re.MULTILINE)
    assert {"Odd_No_yes", "documents", "parts", "payments", "records"} <= set(named.split(", "))
    assert not {"statuses", "parts_1", "runs"} & set(named.split(", "))
    shown = service.cli("preview", "agency_data_job", "--agency-id", SMALL, "--dataset", "payments", "-o", "json")
    assert [json.loads(line)["id"] for line in shown.stdout.splitlines()] == [1001, 1002, 1003, 1004]

    drafted = file.read_text()
    again = service.cli("init", file)
    assert (again.returncode, file.read_text()) == (64, drafted)
    assert "drafted.yaml exists" in again.stderr


def test_without_a_column_of_agencies_nothing_is_written(service: Service) -> None:
    """The message names the columns that it could be."""
    file = service.folder / "drafted.yaml"

    done = service.cli("init", file, "--agency-column", "tenant")

    assert done.returncode == 65
    assert "--agency-column" in done.stderr
    assert not file.exists()
