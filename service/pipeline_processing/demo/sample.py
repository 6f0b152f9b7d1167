"""The demo's data: a dozen agencies with three tables, loaded by the SQL files beside this module."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, NamedTuple

from pipeline_processing.settings.settings import Settings
from pipeline_processing.sources.postgres.source import source_database

DATABASE = "agencies"
BUCKET = "exports"
PREFIX = "state"

SUBMITTED = (103, 104, 107, 111)
"""The agencies whose data `submit` requests: large and small ones."""
ASKED_FOR_TWICE, ASKED_FOR_BY_ANOTHER = 101, 109
"""The agencies whose data another service requests."""
FAULTY = 111
"""The agency with a payment whose amount isn't a number."""
MALFORMED = 102
"""The agency whose request isn't valid."""
UPDATED = 106
"""The agency of which an upstream service tells."""


class Table(NamedTuple):
    name: str
    rows: int


class Payment(NamedTuple):
    """A payment, with its values as text."""

    id: str
    payee: str
    amount: str
    paid_on: str


def job_config_text() -> str:
    """Return the demo's job config as YAML."""
    return resource("job_config.yaml")


def statement(name: str) -> str:
    """Return the statement of an SQL file, without the comment above it."""
    _, _, sql = resource(f"{name}.sql").partition("\n")
    return sql.strip()


class SampleData:
    """The sample in the source database."""

    def __init__(self, *, settings: Settings) -> None:
        self._settings = settings

    async def load(self) -> tuple[list[Table], Mapping[int, str]]:
        """Create and fill the tables. Returns them, and the agencies' names by id."""
        async with self._connection() as connection:
            await connection.execute(resource("sample.sql"))
            tables = [Table(*row) for row in await connection.fetch(statement("tables"))]
            agencies = dict(await connection.fetch(statement("agencies")))
        return tables, agencies

    async def unreadable_amounts(self) -> list[Payment]:
        """Return the faulty agency's payments whose amount isn't a number."""
        async with self._connection() as connection:
            rows = await connection.fetch(statement("unreadable_amounts"))
        return [Payment(*map(str, row)) for row in rows]

    async def repair(self) -> None:
        """Correct those amounts."""
        async with self._connection() as connection:
            await connection.execute(statement("repair"))

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        dsn = self._settings.require_source_dsn()
        async with source_database(dsn, connections=1) as database, database.connection() as connection:
            yield connection


def resource(name: str) -> str:
    """Return the text of a file of the demo."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
