"""All sources of a job as one: each dataset is read from its own, and all of them end with the block."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest

from pipeline_processing.errors import SourceUnavailable
from pipeline_processing.ports import Source
from pipeline_processing.rows.columns import Column, Columns
from pipeline_processing.sources.several import Sources
from tests.unit.virtual_clock import EPOCH, VirtualClock, in_virtual_time


@dataclass(frozen=True)
class Entry:
    """A dataset's `source`, as the job config has it."""

    kind: str
    options: Any


@dataclass
class Told:
    """A source that tells what it is asked, in a list that it shares with others."""

    name: str
    calls: list[str]
    taken_at: datetime = EPOCH
    fails: bool = False
    opened_with: list[Mapping[str, Any]] = field(default_factory=list)

    @asynccontextmanager
    async def snapshot(self, datasets: Mapping[str, Any]) -> AsyncIterator[_Snapshot]:
        self.opened_with.append(datasets)
        if self.fails:
            raise SourceUnavailable(f"{self.name} is down")
        self.calls.append(f"open {self.name}")
        try:
            yield _Snapshot(self)
        finally:
            self.calls.append(f"close {self.name}")


class _Snapshot:
    def __init__(self, source: Told) -> None:
        self._source = source
        self.taken_at = source.taken_at

    def columns(self, dataset: str, *, carry: str) -> Columns:
        return Columns((Column(f"{self._source.name} {dataset} {carry}"),))

    @asynccontextmanager
    async def records(self, dataset: str, arguments: Mapping[str, Any], *, carry: str) -> AsyncIterator[Any]:
        self._source.calls.append(f"read {self._source.name} {dataset} {dict(arguments)} {carry}")
        yield f"rows of {dataset}"


class Two:
    """A database and an API, in the order in which they are opened."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.database = Told("postgres", self.calls, taken_at=EPOCH + timedelta(seconds=7))
        self.api = Told("http", self.calls, taken_at=EPOCH + timedelta(seconds=9))
        by_name: dict[str, Source] = {"postgres": self.database, "http": self.api}
        self.sources = Sources(by_name, clock=VirtualClock())


DATASETS = {"a": Entry("http", {"url": "/a"}), "b": Entry("postgres", "SELECT b"), "c": Entry("http", {"url": "/c"})}


@in_virtual_time
async def test_each_source_gets_the_options_of_its_datasets() -> None:
    """And nothing of the others."""
    two = Two()
    async with two.sources.snapshot(DATASETS):
        pass

    assert two.database.opened_with == [{"b": "SELECT b"}]
    assert two.api.opened_with == [{"a": {"url": "/a"}, "c": {"url": "/c"}}]


@in_virtual_time
async def test_each_dataset_is_read_from_its_source() -> None:
    """Whatever the order of the datasets, with the arguments and the form asked for."""
    two = Two()
    async with two.sources.snapshot(DATASETS) as snapshot:
        for dataset in DATASETS:
            async with snapshot.records(dataset, {"agency_id": 7}, carry="text") as rows:
                assert rows == f"rows of {dataset}"
        assert snapshot.columns("b", carry="json").names == ("postgres b json",)
        assert snapshot.columns("c", carry="text").names == ("http c text",)

    assert two.calls == [
        *("open postgres", "open http"),
        *("read http a {'agency_id': 7} text", "read postgres b {'agency_id': 7} text"),
        "read http c {'agency_id': 7} text",
        *("close http", "close postgres"),
    ]


@in_virtual_time
async def test_the_database_says_what_time_it_is() -> None:
    """Everything else is read after it, so nothing is older than what the manifest says."""
    two = Two()
    async with two.sources.snapshot(DATASETS) as snapshot:
        assert snapshot.taken_at == EPOCH + timedelta(seconds=7)


@in_virtual_time
async def test_a_source_that_is_not_read_is_not_opened() -> None:
    """Nobody waits for a database that no dataset of this run needs."""
    two = Two()
    async with two.sources.snapshot({"a": DATASETS["a"]}) as snapshot:
        assert snapshot.taken_at == EPOCH + timedelta(seconds=9)

    assert two.calls == ["open http", "close http"]
    assert two.database.opened_with == []


@in_virtual_time
async def test_one_that_cannot_be_opened_closes_the_others() -> None:
    """The error is its own."""
    two = Two()
    two.api.fails = True
    with pytest.raises(SourceUnavailable, match="http is down"):
        async with two.sources.snapshot(DATASETS):
            raise AssertionError("nothing can be read")

    assert two.calls == ["open postgres", "close postgres"]


@in_virtual_time
async def test_a_failure_while_reading_closes_all() -> None:
    """In the opposite order."""
    two = Two()
    with pytest.raises(ZeroDivisionError):
        async with two.sources.snapshot(DATASETS):
            raise ZeroDivisionError

    assert two.calls[-2:] == ["close http", "close postgres"]
