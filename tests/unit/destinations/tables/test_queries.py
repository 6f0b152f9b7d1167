"""The SQL of loading: every query is used, and names go into it as names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline_processing.destinations import tables
from pipeline_processing.destinations.tables.queries import (
    QUERIES,
    column_list,
    statement,
    table_name,
)
from pipeline_processing.postgres.identifiers import literal

FOLDER = Path(tables.__file__).parent


def test_every_query_is_used() -> None:
    """And every one that is used is there."""
    code = "".join(path.read_text("utf-8") for path in FOLDER.glob("*.py"))
    named = set(re.findall(r'(?:\bstatement|_any)\(\s*(?:connection, )?"(\w+)"', code))
    assert named == set(QUERIES)


def test_names_are_placed_once() -> None:
    """What looks like a part or a parameter in a name stays the name's."""
    name = table_name("a {b} $1", ":run_id {agency}")
    sql, *arguments = statement(
        "delete_agency", target=name, agency_column=column_list(["{target}"]), agency=literal("7")
    )
    assert sql == """DELETE FROM "a {b} $1".":run_id {agency}" WHERE "{target}" = '7';"""
    assert arguments == []


def test_values_are_bound() -> None:
    """In the order of the query's numbers."""
    sql, *arguments = statement("noted_load", {"dataset": "d", "run_id": "r"}, schema='"s"')
    assert arguments == ["r", "d"]
    assert "run_id = $1 AND dataset = $2" in sql


def test_a_part_that_is_missing_is_an_error() -> None:
    """Before anything is sent."""
    with pytest.raises(KeyError):
        statement("drop_staging")
