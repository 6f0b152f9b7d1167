"""Which keys have been seen, however many: in a temporary file, of which a few MiB are held in memory."""

import sqlite3
from collections.abc import Sequence
from hashlib import blake2b
from types import TracebackType
from typing import Self

from pipeline_processing.errors import StepFailed
from pipeline_processing.steps.own_thread import OwnThread

_DIGEST_BYTES = 16
"""Two of n keys have the same digest with a probability of n² ÷ 2¹²⁹: of a billion keys, 10⁻²¹."""
_SETTINGS = (
    "page_size=16384",
    "cache_size=-8192",  # KiB
    "temp_store=FILE",
    "journal_mode=OFF",
    "synchronous=OFF",
    "locking_mode=EXCLUSIVE",
)


class SeenKeys:
    """
    A set of keys, of which only digests are kept, in a nameless SQLite database that nobody else can open and that is
    gone when its block ends. About 20 bytes of disk a key, in SQLite's folder for temporary files.
    """

    def __init__(self, name: str) -> None:
        self._thread = OwnThread(name)
        self._database: sqlite3.Connection | None = None

    async def __aenter__(self) -> Self:
        self._database = await self._thread.run(_opened)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        database, self._database = self._database, None
        try:
            if database is not None:
                await self._thread.run(database.close)
        finally:
            self._thread.close()

    async def add(self, keys: Sequence[bytes]) -> list[bool]:
        """For each key whether it is new, then not any more. Raises StepFailed where there is no room for it."""
        assert self._database is not None, "used outside of its block"
        return await self._thread.run(_add, self._database, keys)


def _opened() -> sqlite3.Connection:
    database = sqlite3.connect("", isolation_level=None)
    for setting in _SETTINGS:
        database.execute(f"PRAGMA {setting}")
    database.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID")
    database.execute("BEGIN")
    return database


def _add(database: sqlite3.Connection, keys: Sequence[bytes]) -> list[bool]:
    digests = [blake2b(key, digest_size=_DIGEST_BYTES).digest() for key in keys]
    new = [False] * len(digests)
    cursor = database.cursor()
    try:
        # In the order of the table's pages; equal ones stay in the order of the rows.
        for position in sorted(range(len(digests)), key=digests.__getitem__):
            cursor.execute("INSERT OR IGNORE INTO seen VALUES (?)", (digests[position],))
            new[position] = cursor.rowcount == 1
    except sqlite3.Error as error:
        raise StepFailed(
            f"The keys seen so far are kept in a temporary file, and it can't be written: {error}. Make room where "
            "temporary files go (about 20 bytes a row), or name another folder with SQLITE_TMPDIR."
        ) from error
    return new
