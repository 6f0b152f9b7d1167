"""A standby that cancels an export: a later attempt may succeed, and the error says what to change."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from pipeline_processing.errors import StandbyConflict
from tests.contract.source.reading import config, postgres_source, read, reading, until
from tests.contract.source.standby import Pair, primary_and_standby

pytestmark = pytest.mark.asyncio(loop_scope="module")

SESSION = "SELECT FROM pg_stat_activity WHERE application_name = 'test' AND datname = 'postgres'"
QUERIES = {
    "while it works": "SELECT id, pg_sleep(CASE WHEN id > 1000 THEN 60 ELSE 0 END)::text AS t FROM big ORDER BY id",
    "between two batches": "SELECT id, repeat('x', 1000) AS wide FROM big, generate_series(1, 100)",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair() -> AsyncIterator[Pair]:
    async with primary_and_standby() as pair:
        yield pair


@pytest.mark.parametrize("commits", [0, 1])
async def test_a_standby_that_lags(commits: int):
    """The snapshot is as old as what it shows, also where the standby has replayed no commit since its start."""
    async with primary_and_standby() as pair, postgres_source(pair.dsn) as source:
        for _ in range(commits):
            await pair.primary.execute("CREATE TABLE seen ()")
        await pair.replayed()
        replayed = await pair.standby.fetchval("SELECT pg_last_xact_replay_timestamp()")
        await pair.standby.execute("SELECT pg_wal_replay_pause()")
        paused_at = await pair.primary.fetchval("SELECT clock_timestamp()")
        await pair.primary.execute("CREATE TABLE later ()")

        async with source.snapshot({"records": config("SELECT to_regclass('later')::text AS later")}) as snapshot:
            async with snapshot.records("records", {}, carry="json") as batches:
                assert [row[0] async for batch in batches for row in batch] == [None]
            assert snapshot.taken_at < paused_at

        assert (replayed is not None) == (commits > 0), "both ways to tell are taken"


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
@pytest.mark.parametrize(("carry", "reader"), [("json", "copy"), ("json", "cursor"), ("text", "copy")])
async def test_a_conflict_with_replay(query: str, carry: str, reader: str, pair: Pair):
    """Rows that the snapshot sees are vacuumed on the primary: the standby ends the session, or its query."""
    await pair.primary.execute("DROP TABLE IF EXISTS big")
    await pair.primary.execute("CREATE TABLE big AS SELECT g AS id FROM generate_series(1, 100000) g")
    await pair.replayed()

    async def read_while_rows_are_vacuumed() -> None:
        async with postgres_source(pair.dsn, reader=reader) as source, reading(source, query, carry=carry) as batches:
            await anext(batches)
            await pair.primary.execute("DELETE FROM big")
            await pair.primary.execute("VACUUM (TRUNCATE off) big")
            if reader == "cursor":  # a COPY notices the conflict only once it can send rows again
                await until(pair.standby, f"NOT EXISTS ({SESSION})")
            async for _ in batches:
                pass

    with pytest.raises(StandbyConflict, match=r"^Dataset 'records', after row [\d,]+: The standby") as raised:
        await read_while_rows_are_vacuumed()

    assert raised.value.retryable
    assert raised.value.exit_code == 75
    assert "hot_standby_feedback" in str(raised.value)
    async with postgres_source(pair.dsn) as source:
        assert await read(source, "SELECT count(*) AS n FROM big", carry=carry)
