"""Draft a job config from what is in a database. Part of the composition root."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import yaml

from pipeline_processing.agency_keys import AgencyKey
from pipeline_processing.errors import JobConfigError
from pipeline_processing.settings.settings import Settings
from pipeline_processing.sources.postgres.catalogue import CatalogueTable, readable_tables
from pipeline_processing.sources.postgres.source import source_database

_USUAL = ("agency_id", "tenant_id", "organization_id", "organisation_id", "account_id", "customer_id", "company_id")
"""Usual names of the column, the likeliest first."""
_CHANGED = ("updated_at", "modified_at", "last_modified", "last_update", "last_updated", "changed_at")
_KEYS = {
    "smallint": AgencyKey.INTEGER, "integer": AgencyKey.INTEGER, "bigint": AgencyKey.INTEGER,
    "uuid": AgencyKey.UUID, "text": AgencyKey.TEXT,
}  # fmt: skip
_TIMES = ("timestamp with time zone", "timestamp without time zone")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_WIDTH = 110
_MOST_NAMED = 20


class NothingToExport(JobConfigError):
    """No table has the column with the agency's id."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A job config that exports each table with the agency's column."""

    text: str
    datasets: tuple[str, ...]
    left_out: tuple[str, ...]
    """Tables without the column, or with names that `table` can't have."""


async def draft_of_database(settings: Settings, *, agency_column: str | None) -> Draft:
    """Look at the source database. Raises NothingToExport, AccessDenied or a TransientError."""
    async with source_database(settings.require_source_dsn(), connections=1) as database:
        tables = await readable_tables(database)
    return draft(tables, agency_column=agency_column)


def draft(tables: Sequence[CatalogueTable], *, agency_column: str | None) -> Draft:
    """
    Return a commented job config for these tables. Without `agency_column`, takes the column with a usual name that
    most of them have.

    Raises NothingToExport.
    """
    column = agency_column or _likeliest(tables)
    kinds = Counter(_kind(each.columns[column]) for each in tables if column in each.columns)
    kinds.pop(None, None)
    if not kinds:
        raise NothingToExport(_no_table(tables, column if agency_column else None))
    kind = kinds.most_common(1)[0][0]
    having = [each for each in tables if _kind(each.columns.get(column, "")) is kind]
    exported = [each for each in having if _usable(each)]
    others = tuple(_name(each) for each in tables if each not in having)
    dotted = tuple(_name(each) for each in having if not _usable(each))
    names = _dataset_names(exported)
    lines = [
        "# yaml-language-server: $schema=job-config.schema.json",
        "# Drafted by `pipeline-processing init`. Delete what you don't export, then run",
        "# `pipeline-processing config check --connect`.",
        "job: agency_data_job",
    ]
    if kind is not AgencyKey.INTEGER:
        lines.append(f"agency_key: {kind}")
    lines += ["defaults:", "  format: ndjson  # or csv, parquet", "  compression: none  # or gzip, zstd", "datasets:"]
    for number, (name, table) in enumerate(zip(names, exported, strict=True)):
        lines += _dataset(name, table, column, first=number == 0)
    if others:
        lines.append("")
        lines += _commented(f"Left out, because they have no column {column} of type {kind}:", others)
        lines.append(
            "# A list that every agency gets whole needs `shared: true` instead of `agency_column`. Where another"
        )
        lines.append("# table says whose rows they are, write a `query` with a join.")
    if dotted:
        lines.append("")
        lines += _commented("Left out, because `table` takes no name with a dot; write a `query` instead:", dotted)
    lines += ["", "# Without this, PIPELINE_DESTINATION says where artifacts go.", "# destinations:"]
    lines.append("#   - s3: {bucket: exports, prefix: agencies}")
    return Draft("\n".join(lines) + "\n", tuple(names), others + dotted)


def _dataset(name: str, table: CatalogueTable, column: str, *, first: bool) -> Iterator[str]:
    changed = next((each for each in _CHANGED if table.columns.get(each, "").startswith(_TIMES)), None)
    if not first:
        yield ""
    yield f"  - name: {_scalar(name)}"
    yield "    source:"
    yield "      postgres:"
    yield f"        table: {_scalar(_name(table))}{f'  # about {table.rows:,} rows' if table.rows > 0 else ''}"
    yield f"        agency_column: {_scalar(column)}"
    if table.key:
        yield f"        key: [{', '.join(map(_scalar, table.key))}]"
    else:
        yield "        # key: []  # no primary key: rows come in any order"
    if changed is not None:
        yield f"        # updated_column: {_scalar(changed)}"
        yield "    # since: last_success  # with `updated_column`, only rows that changed since the last run"
    yield from _commented("Columns:", (f"{each} {kind}" for each, kind in table.columns.items()), indent="    ")
    if first:
        yield "    # steps:"
        yield f"    #   - drop: [{_scalar(next(iter(table.columns)))}]"


def _commented(title: str, items: Iterable[str], *, indent: str = "") -> Iterator[str]:
    """Yield comment lines with the items, wrapped."""
    line = f"{indent}# {title}"
    items = ["".join(each if each.isprintable() else "?" for each in item) for item in items]  # a comment has one line
    for number, item in enumerate(items, start=1):
        piece = f" {item}{',' if number < len(items) else ''}"
        if len(line) + len(piece) > _WIDTH:
            yield line
            line = f"{indent}#  "
        line += piece
    yield line


def _likeliest(tables: Sequence[CatalogueTable]) -> str:
    counts = {name: sum(name in each.columns for each in tables) for name in _USUAL}
    return max(_USUAL, key=lambda name: counts[name])  # the first of equals


def _no_table(tables: Sequence[CatalogueTable], column: str | None) -> str:
    if not tables:
        return "This role can read no table. Grant it SELECT, as deploy/sql/source.sql does, or connect as another."
    if column is not None:
        why = f"No table that this role can read has a column {column!r} of type integer, bigint, uuid or text."
    else:
        why = f"No table that this role can read has a column {', '.join(_USUAL[:-1])} or {_USUAL[-1]}."
    shared = Counter(name for each in tables for name, kind in each.columns.items() if _kind(kind) is not None)
    often = ", ".join(f"{name} ({count})" for name, count in shared.most_common(_MOST_NAMED))
    return (
        f"{why} Name the column that says whose row it is with --agency-column. The columns most tables have: {often}."
    )


def _kind(type_name: str) -> AgencyKey | None:
    return AgencyKey.TEXT if type_name.startswith("character varying") else _KEYS.get(type_name)


def _usable(table: CatalogueTable) -> bool:
    """Whether `table` can name it: there, a dot separates the schema."""
    return "." not in table.schema + table.name


def _name(table: CatalogueTable) -> str:
    return table.name if table.visible else f"{table.schema}.{table.name}"


def _dataset_names(tables: Iterable[CatalogueTable]) -> list[str]:
    """Return a name for each, which is that of the table where it can be one."""
    names: list[str] = []
    for table in tables:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", _name(table)).lstrip("_-")[:55] or "table"
        taken = sum(each == plain or each.startswith(f"{plain}-") for each in names)
        names.append(f"{plain}-{taken + 1}" if plain in names else plain)
    return names


def _scalar(text: str) -> str:
    """Return text as YAML, in quotes where it needs them."""
    if _PLAIN.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf).strip()
