"""Drafts of job configs: whatever tables are called, they are valid, and read what they should."""

from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.agency_data_job.loading import load_job_config
from pipeline_processing.app.drafting import NothingToExport, draft
from pipeline_processing.sources.postgres.catalogue import CatalogueTable

RECORDS = CatalogueTable(
    schema="public",
    name="records",
    visible=True,
    rows=12_000,
    columns={"id": "bigint", "agency_id": "integer", "updated_at": "timestamp with time zone"},
    key=("id",),
)
STATUSES = CatalogueTable(schema="lists", name="statuses", visible=False, rows=-1, columns={"code": "text"}, key=())


def loaded(text: str, folder: Any) -> AgencyJobConfig:
    """The config in the text, as the service reads it."""
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return load_job_config(path)


def test_each_table_with_the_column_becomes_a_dataset(tmp_path: Any) -> None:
    """What it reads follows from the catalogue; the rest is told in comments."""
    drafted = draft([STATUSES, RECORDS], agency_column=None)

    [dataset] = loaded(drafted.text, tmp_path).datasets
    assert dataset.name == "records"
    assert dataset.source.options.sql == 'SELECT * FROM "records" WHERE "agency_id" = $1 ORDER BY "id"'
    assert (drafted.datasets, drafted.left_out) == (("records",), ("lists.statuses",))
    assert "# about 12,000 rows" in drafted.text
    assert "# updated_column: updated_at" in drafted.text
    assert "lists.statuses" in drafted.text
    assert drafted.text.startswith("# yaml-language-server: $schema=job-config.schema.json\n")


@pytest.mark.parametrize(
    ("type_name", "kind"),
    [
        ("smallint", "integer"),
        ("bigint", "integer"),
        ("uuid", "uuid"),
        ("text", "text"),
        ("character varying(9)", "text"),
    ],
)
def test_the_kind_of_key_is_that_of_the_column(type_name: str, kind: str, tmp_path: Any) -> None:
    """A table where it differs is left out: one service has one kind of keys."""
    same = replace(RECORDS, columns={"tenant_id": type_name})
    other = replace(RECORDS, name="other", columns={"tenant_id": "numeric"})

    drafted = draft([same, replace(same, name="more"), other], agency_column=None)

    assert loaded(drafted.text, tmp_path).agency_key == kind
    assert drafted.left_out == ("other",)


def test_a_table_is_left_out_for_its_own_reason() -> None:
    """A name with a dot isn't a missing column."""
    drafted = draft([replace(RECORDS, name="Order.Log"), RECORDS, STATUSES], agency_column=None)

    assert drafted.left_out == ("lists.statuses", "Order.Log")
    assert "no column agency_id of type integer: lists.statuses\n" in drafted.text
    assert "no name with a dot; write a `query` instead: Order.Log\n" in drafted.text


def test_without_the_column_the_message_helps() -> None:
    """It names the columns that it could be, or what the role lacks."""
    with pytest.raises(NothingToExport, match=r"agency_id, tenant_id, .* --agency-column\. .* have: code \(1\)\."):
        draft([STATUSES], agency_column=None)
    with pytest.raises(NothingToExport, match="can read no table"):
        draft([], agency_column=None)
    with pytest.raises(NothingToExport, match="column 'updated_at' of type"):
        draft([RECORDS], agency_column="updated_at")


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=15)
TABLES = st.builds(
    CatalogueTable,
    schema=NAMES,
    name=NAMES,
    visible=st.booleans(),
    rows=st.integers(-1, 9),
    columns=st.dictionaries(NAMES, st.sampled_from(["text", "integer[]", "timestamp with time zone"])).map(
        lambda columns: {**columns, "agency_id": "bigint"}
    ),
    key=st.lists(NAMES, max_size=2).map(tuple),
)


@given(st.lists(TABLES, min_size=1, max_size=3, unique_by=lambda table: (table.schema, table.name)))
def test_names_of_any_kind_make_a_valid_config(tables: list[CatalogueTable]) -> None:
    """Names of YAML's own words, with quotes or line ends too: what is loaded has them unchanged."""
    if any("." in table.schema + table.name for table in tables):
        tables = [replace(table, schema="s", name=f"t{n}") for n, table in enumerate(tables)]

    document = yaml.safe_load(draft(tables, agency_column=None).text)
    del document["defaults"]  # merged when a file is loaded

    config = AgencyJobConfig.model_validate(document)

    for table, dataset in zip(tables, config.datasets, strict=True):
        source = dataset.source.options
        assert source.table == (table.name if table.visible else f"{table.schema}.{table.name}")
        assert source.key == table.key
