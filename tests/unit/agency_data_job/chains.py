"""Chains under test: a dataset's steps as the job config writes them, and steps of a test's own behind them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pipeline_processing.agency_data_job import links
from pipeline_processing.agency_data_job.chain import Chain
from pipeline_processing.agency_data_job.tally import Tally
from pipeline_processing.ports import Records, Rows, Services
from pipeline_processing.rows.columns import Columns
from pipeline_processing.steps.step import Step, StepContext
from tests.unit.in_memory import NoServices, job

Make = Callable[[StepContext], Step]


@asynccontextmanager
async def open_chain(
    *steps: Mapping[str, Any],
    columns: Columns,
    behind: Sequence[Make] = (),
    services: Services | None = None,
    **options: Any,
) -> AsyncIterator[Chain]:
    """The chain of dataset `records` with these steps and options."""
    dataset = job("records", steps=list(steps), **options).datasets[0]
    makers = [*links._makers(dataset), *((make, None) for make in behind)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(links, "_makers", lambda dataset: makers)
        opening = Chain.open(
            dataset,
            columns,
            arguments={"run_id": "r-1"},
            services=services or NoServices(),
            tally=Tally("records"),
        )
        async with opening as chain:
            yield chain


async def run(chain: Chain, records: Records) -> Rows:
    """One batch of the source through all steps."""
    return [row for piece in chain.pieces(records) for row in (await chain(piece)).rows]
