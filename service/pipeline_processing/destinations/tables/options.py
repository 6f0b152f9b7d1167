"""Destination `postgres`: tables that datasets are loaded into."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any, ClassVar, Protocol

from pydantic import ConfigDict, Field, model_validator

from pipeline_processing.agency_keys import AgencyKey
from pipeline_processing.model import CsvOptions, FormatName
from pipeline_processing.options.parts import Part, SecretName
from pipeline_processing.plugins import Plugin
from pipeline_processing.ports import BuildContext, Destination
from pipeline_processing.postgres.identifiers import Identifier


class LoadMode(StrEnum):
    """What becomes of the rows that a table has already."""

    REPLACE = "replace"
    """Delete the agency's rows first."""
    MERGE = "merge"
    """Update rows that have the key of a new row."""
    APPEND = "append"
    """Keep them."""


def check_format(dataset: str, form: FormatName, csv: CsvOptions) -> None:
    """Raise ValueError if tables can't be loaded from artifacts of this kind."""
    if form is FormatName.PARQUET:
        raise ValueError(
            f"the postgres destination can't load the dataset {dataset!r} from Parquet: choose ndjson or csv, or "
            "export it by two datasets"
        )
    if form is FormatName.CSV and (csv.bom or csv.encoding != "utf-8"):
        raise ValueError(
            f"the postgres destination can't load the dataset {dataset!r} from CSV with another encoding than utf-8 or "
            "with a BOM: leave out `csv.encoding` and `csv.bom`, or export it by two datasets"
        )


class PostgresDestinationConfig(Part):
    """Tables of one schema, which must exist. Each dataset goes to one of them, all of a run's rows at once."""

    model_config = ConfigDict(hide_input_in_errors=True)

    holds_tables: ClassVar[bool] = True
    guarantee: ClassVar[str] = (
        "exactly once: one transaction a table, keyed by run; visible before the manifest, and not undone if that "
        "can't be published"
    )

    dsn: SecretName = Field(description="Name of the secret that holds the DSN.")
    # Not called `schema`, which is a method of every pydantic model.
    schema_name: Identifier = Field("public", alias="schema", description="Schema of the tables.")
    tables: dict[str, Identifier] = Field(
        default_factory=dict, description="Dataset → its table; of a dataset without one, that of its own name."
    )
    mode: LoadMode = Field(
        LoadMode.REPLACE,
        description="replace: the agency's rows are deleted first; merge: rows with the key of a new one are updated; "
        "append: rows are only added.",
    )
    key: tuple[Identifier, ...] = Field(
        (), description="For merge: columns that tell rows apart, with a unique index on just them."
    )
    agency_column: Identifier = Field(
        "agency_id", description="Column with the agency's id. It is filled in where the rows don't have it."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "PostgresDestinationConfig":
        if self.mode is LoadMode.MERGE and not self.key:
            raise ValueError("`mode: merge` needs `key`: the columns that tell rows apart")
        if len(set(self.key)) < len(self.key):
            raise ValueError("`key` names a column twice")
        return self

    @property
    def secrets(self) -> tuple[str, ...]:
        """Names of the secrets that the destination needs."""
        return (self.dsn,)

    def table_of(self, dataset: str) -> str:
        """Return the name of the table that a dataset goes to, unquoted."""
        return self.tables.get(dataset, dataset)

    @property
    def place(self) -> str:
        """See `DestinationEntry`."""
        return f"schema {self.schema_name} of {self.dsn}"

    def check(self, datasets: Sequence[Any]) -> None:
        """See `DestinationEntry`."""
        self.check_datasets([each.name for each in datasets])
        for each in datasets:
            check_format(each.name, each.format, each.csv)
        partial = [each.name for each in datasets if each.since is not None]
        if partial and self.mode is LoadMode.REPLACE:
            raise ValueError(
                f"the dataset {partial[0]!r} has `since: last_success`, and `mode: replace` of the postgres "
                "destination would leave nothing but the last increment in its table: use `mode: merge`"
            )

    def check_datasets(self, datasets: Sequence[str]) -> None:
        """Raise ValueError unless the options fit datasets with these names."""
        if unknown := [name for name in self.tables if name not in datasets]:
            raise ValueError(
                f"`tables` has {', '.join(map(repr, unknown))}, and the datasets are {', '.join(datasets)}: "
                "use their names"
            )
        by_table: dict[str, str] = {}
        for dataset in datasets:
            other = by_table.setdefault(self.table_of(dataset), dataset)
            if other != dataset and self.mode is LoadMode.REPLACE:
                raise ValueError(
                    f"the datasets {other!r} and {dataset!r} go to the same table, {self.table_of(dataset)!r}, and "
                    "with `mode: replace` each would delete the other's rows: give each a table of its own"
                )


class _TablesContext(BuildContext, Protocol):
    agency_key: AgencyKey


@asynccontextmanager
async def _opened(options: PostgresDestinationConfig, *, context: _TablesContext) -> AsyncIterator[Destination]:
    from pipeline_processing.destinations.tables.destination import PostgresDestination, target_database

    # Each run uses two: one to load a table, one to read the target's definition.
    async with target_database(context.dsn(options.dsn), connections=2 * context.limits.runs) as database:
        yield PostgresDestination(database=database, config=options, agency_key=context.agency_key)


PLUGIN = Plugin(options=PostgresDestinationConfig, build=_opened)
