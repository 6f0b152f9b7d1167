"""The run store of the version before the newest migration: today's adapters, with the queries of that time."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pipeline_processing import history
from pipeline_processing.history import postgres
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.postgres.queries import Query, load_queries, parse_queries
from pipeline_processing.runs.store import RunStore

(FOLDER,) = (each for each in (Path(__file__).parent / "previous").iterdir() if each.is_dir())
VERSION = int(FOLDER.name)
"""Version of the schema that these queries were written for."""


class PreviousQuery(Query):
    """A query that is given values which only today's has, and leaves them out."""

    def __call__(self, **values: Any) -> tuple[Any, ...]:
        return super().__call__(**{name: values[name] for name in self.parameters})


def previous_queries(package: str, name: str) -> Mapping[str, Query]:
    """
    Load a file's queries as of the previous version, and those that only today's adapters have. Stands in for
    `load_queries`.
    """
    queries = parse_queries((FOLDER / name).read_text(encoding="utf-8"))
    return dict(load_queries(package, name)) | {
        each: PreviousQuery(query.name, query.description, query.sql, query.parameters)
        for each, query in queries.items()
    }


def previous_run_store(client: DatabaseClient, *, schema: str) -> RunStore:
    """Return the ports of the run table as the previous version has them."""
    store: RunStore = _previous_adapters().postgres_run_store(client, schema=schema)
    return store


@cache
def _previous_adapters() -> Any:
    """Import the adapters a second time, with the previous queries."""
    with _forgotten(postgres.__name__), patch("pipeline_processing.postgres.queries.load_queries", previous_queries):
        return import_module(f"{postgres.__name__}.store")


@contextmanager
def _forgotten(package: str) -> Iterator[None]:
    """Have a package and its modules imported again inside the block, and used as before after it."""

    def imported() -> list[str]:
        return [name for name in sys.modules if name == package or name.startswith(f"{package}.")]

    before = {name: sys.modules.pop(name) for name in imported()}
    try:
        yield
    finally:
        for name in imported():
            del sys.modules[name]
        sys.modules.update(before)
        vars(history)["postgres"] = postgres


class _InTurns:
    """A port whose calls go to the next of several stores."""

    def __init__(self, stores: Iterator[RunStore], port: str) -> None:
        self._stores = stores
        self._port = port

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(next(self._stores), self._port), name)


def in_turns(*stores: RunStore) -> RunStore:
    """Return a run store whose calls go to these in turns, whichever port they are for."""
    turns = cycle(stores)
    return RunStore(**{port.name: _InTurns(turns, port.name) for port in fields(RunStore)})
