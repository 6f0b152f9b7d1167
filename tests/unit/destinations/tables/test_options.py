"""`postgres` among the destinations of a job config."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline_processing.destinations.tables.options import LoadMode, PostgresDestinationConfig, check_format
from pipeline_processing.model import CsvOptions, FormatName


def config(**options: Any) -> PostgresDestinationConfig:
    return PostgresDestinationConfig.model_validate({"dsn": "warehouse_dsn", **options})


def test_only_the_secret_is_required() -> None:
    """Datasets go to tables of their own names, which have the agency's id; its rows are replaced."""
    made = config()
    assert (made.schema_name, made.mode, made.agency_column) == ("public", LoadMode.REPLACE, "agency_id")
    assert made.table_of("records") == "records"
    assert made.secrets == ("warehouse_dsn",)


def test_all_options() -> None:
    """As the contract shows them."""
    made = config(schema="x", tables={"records": "copy"}, mode="merge", key=["id"], agency_column="agency")
    assert (made.schema_name, made.mode, made.key, made.agency_column) == ("x", LoadMode.MERGE, ("id",), "agency")
    assert (made.table_of("records"), made.table_of("other")) == ("copy", "other")


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"dsn": "postgresql://me:hush-hush@host/db"}, "must be the name of a secret"),
        ({"dsn": ""}, "must be the name of a secret"),
        ({"dsn": "WAREHOUSE_DSN"}, "lower-case letters"),
        ({"mode": "merge"}, "needs `key`"),
        ({"mode": "truncate"}, "'replace', 'merge' or 'append'"),
        ({"key": ["id", "id"]}, "names a column twice"),
        ({"schema": ""}, "1 to 63 bytes"),
        ({"tables": {"records": "я" * 32}}, "1 to 63 bytes"),
        ({"agency_column": "a\0b"}, "1 to 63 bytes"),
        ({"schema_name": "x"}, "schema_name"),
        ({"table": "x"}, "Extra inputs are not permitted"),
    ],
)
def test_what_is_wrong_is_told(options: dict[str, Any], fault: str) -> None:
    """And a DSN that was written in place of a secret's name isn't repeated."""
    with pytest.raises(ValidationError, match=fault) as raised:
        config(**options)
    assert "hush-hush" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"tables": {"recrods": "x"}}, "`tables` has 'recrods', and the datasets are records, other"),
        ({"tables": {"records": "other"}}, "'records' and 'other' go to the same table, 'other'"),
        ({"tables": {"records": "x", "other": "x"}}, "give each a table of its own"),
    ],
)
def test_it_has_to_fit_the_datasets(options: dict[str, Any], fault: str) -> None:
    """Each load of a table that is replaced would delete the other's rows."""
    with pytest.raises(ValueError, match=fault):
        config(**options).check_datasets(["records", "other"])


def test_datasets_may_share_a_table_that_is_not_replaced() -> None:
    """What one of them has added stays."""
    config(tables={"records": "other"}, mode="append").check_datasets(["records", "other"])
    config(tables={"records": "other"}, mode="merge", key=["id"]).check_datasets(["records", "other"])
    config().check_datasets(["records", "other"])


def test_csv_that_tables_do_not_take() -> None:
    """Postgres would read it as UTF-8."""
    for options in ({"encoding": "latin-1"}, {"bom": True}):
        with pytest.raises(ValueError, match="can't load the dataset 'records' from CSV"):
            check_format("records", FormatName.CSV, CsvOptions.model_validate(options))
        check_format("records", FormatName.NDJSON, CsvOptions.model_validate(options))
