"""Step `enrich_table`: look up columns by a query that takes all keys of a batch at once."""

from collections.abc import Hashable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Self

from pydantic import Field

from pipeline_processing.errors import InvalidStep, StepFailed
from pipeline_processing.options.parts import SecretName
from pipeline_processing.plugins import Plugin
from pipeline_processing.ports import LookupTable
from pipeline_processing.postgres.query_faults import lookup_faults
from pipeline_processing.rows.columns import Column, Columns
from pipeline_processing.steps import lookup_keys
from pipeline_processing.steps.enriching import Answers, CacheRows, Enriching, LookupOptions, Missing, Name, On
from pipeline_processing.steps.lookup_cache import Found
from pipeline_processing.steps.step import StepContext


class EnrichTableOptions(LookupOptions):
    """A query by key, and what its records add to the rows."""

    query: str = Field(
        min_length=1,
        description="SQL with the one parameter $1, a list of keys, as in `WHERE code = ANY($1)`. It runs outside the "
        "snapshot that the rows are read in.",
    )
    on: On
    key: Name = Field(description="The query's column that equals it, at most one record each.")
    add: dict[Name, Name] = Field(min_length=1, description="New column → the query's column.")
    missing: Missing = None
    dsn: SecretName | None = Field(
        None, description="Name of the secret that holds another database's DSN; null: the source's own server."
    )
    cache_rows: CacheRows = 10_000

    @property
    def secrets(self) -> tuple[str, ...]:
        """Names of the secrets that it needs."""
        return () if self.dsn is None else (self.dsn,)

    @property
    def query_faults(self) -> Iterable[str]:
        """See `Entry`."""
        return lookup_faults(self.query)

    @property
    def needs_source_database(self) -> bool:
        """Whether it uses PIPELINE_SOURCE__DSN."""
        return self.dsn is None


class EnrichTable(Enriching):
    """Adds columns from a query's records. Their types are known once the step is open."""

    def __init__(self, options: EnrichTableOptions, context: StepContext) -> None:
        super().__init__("enrich_table", options, context)
        self._options = options
        self._services = context.services
        self._carry = context.carry
        self._table: LookupTable
        self.columns = self._reaching.plus((Column(name, typed=False) for name in options.add), step=self.name)

    async def __aenter__(self) -> Self:
        """Raises InvalidStep if the query lacks a column or its keys can't be compared, or an error of `lookup`."""
        async with AsyncExitStack() as stack:
            lookup = self._services.lookup(self._options.query, secret=self._options.dsn, carry=self._carry)
            self._table = await stack.enter_async_context(lookup)
            columns = self._table.columns
            self.matching = lookup_keys.of_columns(self.on, self._named(columns, self._options.key), step=self.name)
            added = [
                # The values derive from the looked-up key.
                replace(self._named(columns, of), name=name, origins=self.on.origins, unchanged=False)
                for name, of in self._options.add.items()
            ]
            self.columns = self._reaching.plus(added, step=self.name)
            self._stack = stack.pop_all()
        return self

    async def fetch(self, wanted: Mapping[Hashable, Any]) -> Answers:
        """See `Enriching`. Raises StepFailed if records share a key, or the query's error."""
        of_record, key = self.matching.of_record, self._options.key
        answers: dict[Hashable, Found] = {}
        for record in await self._table.find(list(wanted.values())):
            if record[key] is None or (found := of_record(record[key])) not in wanted:
                continue  # the query may have a join, or fold case
            if found in answers:
                raise StepFailed(
                    f"two records of its query have the same {key!r}, so the result is ambiguous. Make the query "
                    f"return one per key, for example with SELECT DISTINCT ON ({key}) … ORDER BY …"
                )
            answers[found] = tuple(record[name] for name in self._options.add.values())
        return answers

    def _named(self, columns: Columns, name: str) -> Column:
        column = columns.find(name)
        if column is None:
            raise InvalidStep(
                f"Step {self.name!r} reads {name!r}, but its query gives {', '.join(columns.names)}. Correct `key` or "
                "`add`, or the query."
            )
        return column


PLUGIN = Plugin(options=EnrichTableOptions, build=EnrichTable, description="Add columns looked up in a table.")
