"""A set of any number of keys, in a temporary file with a few MiB of cache."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Self

from pipeline_processing.aio.own_thread import OwnThread, StepPlace
from pipeline_processing.temporary_files import temporary_path, translated, unusable

_DIGEST_BYTES = 16
"""The probability that two of n keys collide is n² ÷ 2¹²⁹: 10⁻²¹ for a billion keys."""
_SETTINGS = (
    "page_size=16384",
    "cache_size=-8192",  # KiB
    "temp_store=MEMORY",  # no other files
    "journal_mode=OFF",
    "synchronous=OFF",
    "locking_mode=EXCLUSIVE",
)


_PRIMARY_CODE = 0xFF
_NOT_WRITABLE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)


class SeenKeys:
    """
    Keeps digests of keys in an unnamed SQLite database, which no other process can open and which disappears with the
    block. A key takes less than 30 bytes of disk.

    Opening it and adding keys raise SettingsError if temporary files can't be created, and TransientError if the disk
    is full.
    """

    def __init__(self, name: str) -> None:
        self._thread = OwnThread(StepPlace(name))
        self._database: sqlite3.Connection | None = None

    async def __aenter__(self) -> Self:
        try:
            self._database = await self._thread.run(_opened)
        except BaseException:
            self._thread.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        database, self._database = self._database, None
        try:
            if database is not None:
                await self._thread.run(database.close)
        finally:
            self._thread.close()

    async def add(self, keys: Sequence[bytes]) -> list[bool]:
        """Add keys. Return for each whether it is new."""
        assert self._database is not None, "used outside of its block"
        return await self._thread.run(_add, self._database, keys)


def _opened() -> sqlite3.Connection:
    # Create the file now, so that a run that can't fails before it reads a row.
    with translated(), temporary_path() as path, _sqlite_translated():
        database = sqlite3.connect(path, isolation_level=None)
        for setting in _SETTINGS:
            database.execute(f"PRAGMA {setting}")
        database.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        database.execute("BEGIN")
        return database


def _add(database: sqlite3.Connection, keys: Sequence[bytes]) -> list[bool]:
    digests = [blake2b(key, digest_size=_DIGEST_BYTES).digest() for key in keys]
    new = [False] * len(digests)
    cursor = database.cursor()
    with _sqlite_translated():
        # In the order of the table's pages. The sort is stable, so the first of equal keys is the new one.
        for position in sorted(range(len(digests)), key=digests.__getitem__):
            cursor.execute("INSERT OR IGNORE INTO seen VALUES (?)", (digests[position],))
            new[position] = cursor.rowcount == 1
    return new


@contextmanager
def _sqlite_translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise unusable(
            str(error), writable=getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE not in _NOT_WRITABLE
        ) from error
