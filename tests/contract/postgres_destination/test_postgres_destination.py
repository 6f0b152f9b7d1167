"""What the Postgres destination promises of every load: all of it, once, or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from pipeline_processing.destinations.tables import destination as tables_destination
from pipeline_processing.destinations.tables.destination import PostgresDestination
from pipeline_processing.destinations.tables.errors import TableConflict, session
from pipeline_processing.errors import (
    ConflictingObjects,
    DestinationUnavailable,
    ForeignPrefix,
    SettingsError,
    UploadMissing,
)
from pipeline_processing.model import FormatName
from pipeline_processing.plan import Artifact, InlineContent, StagedTable, UploadRef
from pipeline_processing.ports import ManifestStore
from tests.contract.postgres_destination.warehouse import (
    KEY,
    LOADED_FORMATS,
    METADATA,
    OTHER_RUN,
    TAKEN_AT,
    Started,
    Warehouse,
    client,
    content,
    stage,
)

LATER = TAKEN_AT + timedelta(seconds=1)
MODES = ("replace", "merge", "append")
RECORDS = """
    CREATE TABLE records (
        id int PRIMARY KEY, agency_id bigint NOT NULL, name text, note text NOT NULL DEFAULT 'new', at timestamptz
    );
    INSERT INTO records VALUES (1, 7, 'one', 'old', NULL), (2, 7, 'two', 'old', NULL), (9, 8, 'theirs', 'old', NULL);
"""
NEW = {FormatName.NDJSON: b'{"id":2,"name":"TWO"}\n{"id":3,"name":null}\n', FormatName.CSV: b"id,name\n2,TWO\n3,\n"}
OLD = [(1, 7, "one", "old"), (2, 7, "two", "old"), (9, 8, "theirs", "old")]
LOADED = {
    "replace": [(2, 7, "TWO", "new"), (3, 7, None, "new"), (9, 8, "theirs", "old")],
    "merge": [(1, 7, "one", "old"), (2, 7, "TWO", "old"), (3, 7, None, "new"), (9, 8, "theirs", "old")],
    "append": [(2, 7, "TWO", "new"), (3, 7, None, "new"), *OLD],
}
"""The table after a load, by mode. What rows don't have is as it was, or the column's default."""

both_forms = pytest.mark.parametrize("form", LOADED_FORMATS)
all_modes = pytest.mark.parametrize("mode", MODES)


class Boom(Exception):
    pass


async def table(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return await warehouse.rows("SELECT id, agency_id, name, note FROM records ORDER BY note, id")


def sorted_rows(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(rows, key=lambda row: (row[3], row[0]))


async def made(warehouse: Warehouse, mode: str = "replace") -> PostgresDestination:
    """A destination, and the table in it with some rows."""
    await warehouse.execute(RECORDS)
    if mode == "append":  # which doesn't look for what is there
        await warehouse.execute("ALTER TABLE records DROP CONSTRAINT records_pkey")
    return warehouse.destination(mode=mode, key=["id"])


async def staged(
    destination: PostgresDestination,
    form: FormatName = FormatName.NDJSON,
    *,
    body: bytes | None = None,
    rows: int = 2,
    columns: tuple[str, ...] | None = ("id", "name"),
    started: Started | None = None,
    metadata: dict[str, str] = METADATA,
    snapshot_at: datetime = TAKEN_AT,
) -> Artifact:
    holds = content(columns, form, snapshot_at=snapshot_at)
    return await stage(destination, body or NEW[form], holds, rows=rows, started=started, metadata=metadata)


# -- loading -------------------------------------------------------------------------------------


@both_forms
@all_modes
async def test_rows_appear_only_when_they_are_completed(warehouse: Warehouse, mode: str, form: FormatName) -> None:
    """Nothing is changed before; then the table has the new rows by its mode, and other agencies' are as they were."""
    destination = await made(warehouse, mode)
    artifact = await staged(destination, form)
    assert await table(warehouse) == sorted_rows(OLD)

    await destination.complete(artifact, metadata=METADATA)

    assert await table(warehouse) == sorted_rows(LOADED[mode])
    assert await warehouse.staging() == []
    [load] = await warehouse.rows("SELECT run_id, dataset, agency_id, attempt, target, state, rows FROM pipeline_loads")
    assert load == ("r-1", "records", 7, 1, "records", "loaded", 2)
    assert artifact.size == len(NEW[form])


@all_modes
async def test_completing_again_is_harmless(warehouse: Warehouse, mode: str) -> None:
    """The same worker may repeat it, and so may another one."""
    destination = await made(warehouse, mode)
    artifact = await staged(destination)
    for each in (destination, destination, warehouse.destination(mode=mode, key=["id"])):
        await each.complete(artifact, metadata=METADATA)
    assert await table(warehouse) == sorted_rows(LOADED[mode])


@all_modes
async def test_two_workers_complete_at_once(warehouse: Warehouse, mode: str) -> None:
    """A paused worker and its successor may meet here; both find it done, and it is done once."""
    destination = await made(warehouse, mode)
    artifact = await staged(destination)
    await asyncio.gather(
        *(warehouse.destination(mode=mode, key=["id"]).complete(artifact, metadata=METADATA) for _ in range(6))
    )
    assert await table(warehouse) == sorted_rows(LOADED[mode])


async def test_two_runs_of_an_agency_are_loaded_one_after_the_other(warehouse: Warehouse) -> None:
    """They never wait for each other in a circle: the table has the rows of one of them, and those only."""
    destination = await made(warehouse)
    bodies = [
        "".join(f'{{"id": {number}, "name": "{run}"}}\n' for number in ids).encode()
        for run, ids in enumerate((range(10, 2000), range(1999, 9, -1)))
    ]
    artifacts = []
    for run, body in enumerate(bodies):
        metadata = {**METADATA, "run-id": f"r-{run}"}
        artifacts.append((await staged(destination, body=body, rows=1990, metadata=metadata), metadata))
    await asyncio.gather(*(destination.complete(each, metadata=metadata) for each, metadata in artifacts))

    names = await warehouse.rows("SELECT name, count(*) FROM records WHERE agency_id = 7 GROUP BY name")
    assert [count for _, count in names] == [1990]


async def test_a_lost_reply_is_harmless(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever doesn't hear that it was committed completes again, and finds it done."""
    destination = await made(warehouse, "append")
    artifact = await staged(destination)

    @asynccontextmanager
    async def losing_the_reply(database: Any) -> AsyncIterator[asyncpg.Connection]:
        async with session(database) as connection:
            yield connection
        raise DestinationUnavailable("broke off")

    with monkeypatch.context() as patched:
        patched.setattr(tables_destination, "session", losing_the_reply)
        with pytest.raises(DestinationUnavailable):
            await destination.complete(artifact, metadata=METADATA)
    await destination.complete(artifact, metadata=METADATA)

    assert await table(warehouse) == sorted_rows(LOADED["append"])


@all_modes
async def test_a_load_that_breaks_off_changes_nothing(warehouse: Warehouse, mode: str) -> None:
    """Killed in the middle of its transaction, it leaves the table and the staged rows as they were."""
    destination = await made(warehouse, mode)
    artifact = await staged(destination)
    await warehouse.execute("BEGIN; LOCK TABLE records IN SHARE MODE")
    completing = asyncio.create_task(destination.complete(artifact, metadata=METADATA))
    waiting = "pg_stat_activity WHERE application_name = 'loading' AND wait_event_type = 'Lock'"
    await warehouse.until(f"EXISTS (SELECT FROM {waiting})")
    await warehouse.rows(f"SELECT pg_terminate_backend(pid) FROM {waiting}")
    with pytest.raises(DestinationUnavailable):
        await completing
    await warehouse.execute("COMMIT")
    assert await table(warehouse) == sorted_rows(OLD)
    assert await warehouse.staging() == [artifact.staged.table]

    await destination.complete(artifact, metadata=METADATA)
    assert await table(warehouse) == sorted_rows(LOADED[mode])


async def test_a_plan_does_what_was_decided(warehouse: Warehouse) -> None:
    """Whatever the job config has become since: another mode, another table, another key."""
    destination = await made(warehouse, "merge")
    artifact = await staged(destination)
    changed = warehouse.destination(mode="replace", tables={"records": "elsewhere"}, agency_column="other")

    await changed.complete(artifact, metadata=METADATA)

    assert await table(warehouse) == sorted_rows(LOADED["merge"])


async def test_no_rows_at_all_replace_those_of_the_agency(warehouse: Warehouse) -> None:
    """It has none any more, whether the columns are known or not; others keep theirs."""
    destination = await made(warehouse)
    for number, columns in enumerate((("id", "name"), None)):
        for form, body in ((FormatName.NDJSON, b""), (FormatName.CSV, b"id,name\n"), (FormatName.CSV, b"\n")):
            metadata = {**METADATA, "run-id": f"r-{number}{len(body)}"}
            artifact = await stage(destination, body, content(columns, form), rows=0, metadata=metadata)
            await destination.complete(artifact, metadata=metadata)
            assert await table(warehouse) == [(9, 8, "theirs", "old")]
            await warehouse.execute("INSERT INTO records VALUES (1, 7, 'one', 'old', NULL)")


@pytest.mark.parametrize("staged_first", ["older", "newer"])
@pytest.mark.parametrize("first", ["older", "newer"])
async def test_a_run_never_replaces_newer_rows(warehouse: Warehouse, first: str, staged_first: str) -> None:
    """Whichever came to the dataset first, the late one is noted as superseded, and succeeds."""
    destination = await made(warehouse)

    async def stage_newer() -> Artifact:
        body = b'{"id":5,"name":"new"}\n'
        return await staged(destination, body=body, rows=1, metadata=OTHER_RUN, snapshot_at=LATER)

    if staged_first == "newer":
        newer, older = (await stage_newer(), OTHER_RUN), (await staged(destination), METADATA)
    else:
        older, newer = (await staged(destination), METADATA), (await stage_newer(), OTHER_RUN)
    with capture_logs() as logs:
        for artifact, metadata in (older, newer, older) if first == "older" else (newer, older, older):
            await destination.complete(artifact, metadata=metadata)

    assert await table(warehouse) == [(5, 7, "new", "new"), (9, 8, "theirs", "old")]
    assert await warehouse.staging() == []
    states = await warehouse.rows("SELECT run_id, state, mode FROM pipeline_loads ORDER BY run_id")
    was = "loaded" if first == "older" else "superseded"
    assert states == [("r-1", was, "replace"), ("r-2", "loaded", "replace")]
    told = [(each["event"], each["run_id"], each["by_run_id"]) for each in logs]
    assert told == ([] if first == "older" else [("load_superseded", "r-1", "r-2")])


async def test_a_run_is_superseded_only_by_its_own_agencys_in_its_table(warehouse: Warehouse) -> None:
    """Neither another agency's run, nor one into another table, nor one that was given up has newer rows for it."""
    destination = await made(warehouse)
    artifact = await staged(destination)
    await warehouse.execute("CREATE TABLE others (LIKE records INCLUDING ALL)")
    for number, options in enumerate(({"agency-id": "6"}, {}, {})):
        metadata = {**OTHER_RUN, "run-id": f"later-{number}", **options}
        to = warehouse.destination(tables={"records": "others"}) if number == 1 else destination
        body = b'{"id":5%d}\n' % number
        later = await staged(to, body=body, rows=1, columns=("id",), metadata=metadata, snapshot_at=LATER)
        await (to.delete if number == 2 else to.complete)(later, metadata=metadata)
    await destination.complete(artifact, metadata=METADATA)
    assert (2, 7, "TWO", "new") in await table(warehouse)


@pytest.mark.parametrize("mode", ["merge", "append"])
async def test_of_rows_that_are_added_those_published_last_win(warehouse: Warehouse, mode: str) -> None:
    """No run takes the place of another whole one, so none is superseded."""
    destination = await made(warehouse, mode)
    older = await staged(destination)
    newer = await staged(destination, body=b'{"id":2,"name":"newer"}\n', rows=1, metadata=OTHER_RUN, snapshot_at=LATER)
    await destination.complete(newer, metadata=OTHER_RUN)
    await destination.complete(older, metadata=METADATA)
    names = [name for id_, _, name, _ in await table(warehouse) if id_ == 2]
    assert sorted(names) == {"merge": ["TWO"], "append": ["TWO", "newer", "two"]}[mode]


async def test_a_staging_table_outlives_a_crash_of_the_server(warehouse: Warehouse) -> None:
    """A stored plan relies on it: it is logged, committed at once, and of the target's types."""
    destination = await made(warehouse)
    artifact = await staged(destination)
    [kind] = await warehouse.rows(
        f"SELECT relpersistence::text FROM pg_class WHERE relname = '{artifact.staged.table}'"
    )
    assert kind == ("p",)
    async with warehouse.database.connection() as connection:
        assert await connection.fetchval("SHOW synchronous_commit") == "on"


@both_forms
async def test_many_chunks_are_one_load(warehouse: Warehouse, form: FormatName) -> None:
    """However rows are cut on their way, also where texts have quotes and line ends."""
    destination = await made(warehouse)
    await warehouse.execute(
        "CREATE TABLE many AS"
        " SELECT g AS id, repeat(E'a \"q\",\\n', g % 40) || g AS name FROM generate_series(10, 40009) g"
    )
    body = await warehouse.written("SELECT * FROM many ORDER BY id", form)
    assert len(body) > 5 * 1024 * 1024
    artifact = await staged(destination, form, body=body, rows=40000)
    await destination.complete(artifact, metadata=METADATA)

    query = "SELECT id, name FROM {} ORDER BY id"
    loaded = await warehouse.rows(query.format("(SELECT * FROM records WHERE agency_id = 7) AS r"))
    assert loaded == await warehouse.rows(query.format("many"))


# -- what others have done meanwhile -------------------------------------------------------------


async def test_rows_that_are_gone_are_missed(warehouse: Warehouse) -> None:
    """Neither the staging table nor a note of its load is there: the core decides what that means."""
    destination = await made(warehouse)
    artifact = await staged(destination)
    await destination.abort(UploadRef(key=KEY, upload_id=artifact.staged.table))
    for _ in range(2):
        with pytest.raises(UploadMissing):
            await destination.complete(artifact, metadata=METADATA)
    assert await table(warehouse) == sorted_rows(OLD)
    assert await warehouse.rows("SELECT FROM pipeline_loads") == []


async def test_another_attempt_is_never_loaded_too(warehouse: Warehouse) -> None:
    """One run is loaded once, and whoever comes with another attempt of it is told."""
    destination = await made(warehouse, "append")
    second = {**METADATA, "attempt": "2"}
    artifacts = await staged(destination), await staged(destination, metadata=second)
    await destination.complete(artifacts[0], metadata=METADATA)
    with pytest.raises(ConflictingObjects, match="attempt 1 of run 'r-1' was loaded"):
        await destination.complete(artifacts[1], metadata=second)
    assert await table(warehouse) == sorted_rows(LOADED["append"])


@pytest.mark.parametrize("table_of_other", ["others", "records"])
async def test_two_destinations_that_are_one_schema(warehouse: Warehouse, table_of_other: str) -> None:
    """By two names of a server: rows for a second table aren't taken for loaded; those for the same one are."""
    destination = await made(warehouse)
    await warehouse.execute("CREATE TABLE others (LIKE records INCLUDING ALL)")
    async with client(warehouse.dsn.replace("127.0.0.1", "localhost")) as database:
        second = warehouse.on(database, tables={"records": table_of_other})
        assert second.url != destination.url
        artifacts = await staged(destination), await staged(second)
        await destination.complete(artifacts[0], metadata=METADATA)
        for _ in range(2):
            if table_of_other == "records":
                await second.complete(artifacts[1], metadata=METADATA)
            else:
                with pytest.raises(TableConflict, match="second load in this schema, after that of 'records'"):
                    await second.complete(artifacts[1], metadata=METADATA)
        await destination.complete(artifacts[0], metadata=METADATA)
    assert await warehouse.staging() == ([] if table_of_other == "records" else [artifacts[1].staged.table])
    assert await warehouse.rows("SELECT FROM others") == []


async def test_a_run_that_was_given_up_is_never_loaded(warehouse: Warehouse) -> None:
    """A worker that was paused meanwhile finds the note, and changes nothing."""
    destination = await made(warehouse)
    artifact = await staged(destination)
    for _ in range(2):
        await destination.delete(artifact, metadata=METADATA)
    assert await warehouse.staging() == []
    with pytest.raises(TableConflict, match="given up"):
        await destination.complete(artifact, metadata=METADATA)
    assert await table(warehouse) == sorted_rows(OLD)


async def test_a_run_is_loaded_or_given_up(warehouse: Warehouse) -> None:
    """When both are tried at once, one of them wins, and the table is as that one says."""
    destination = await made(warehouse, "append")
    for number in range(10):
        metadata = {**METADATA, "run-id": f"r-{number}"}
        await warehouse.execute("TRUNCATE records")
        artifact = await staged(destination, metadata=metadata)
        results = await asyncio.gather(
            destination.complete(artifact, metadata=metadata),
            destination.delete(artifact, metadata=metadata),
            return_exceptions=True,
        )
        [(state,)] = await warehouse.rows(f"SELECT state FROM pipeline_loads WHERE run_id = 'r-{number}'")
        assert len(await table(warehouse)) == (2 if state == "loaded" else 0)
        assert [type(each) for each in results] == [type(None) if state == "loaded" else TableConflict, type(None)]
        assert await warehouse.staging() == []


async def test_rows_that_were_loaded_stay(warehouse: Warehouse) -> None:
    """Of a run that fails afterwards: nothing can undo a merge. The log says so."""
    destination = await made(warehouse, "merge")
    artifact = await staged(destination)
    await destination.complete(artifact, metadata=METADATA)
    with capture_logs() as logs:
        await destination.delete(artifact, metadata=METADATA)
    assert [entry["event"] for entry in logs] == ["rows_of_a_failed_run_stay"]
    assert await table(warehouse) == sorted_rows(LOADED["merge"])


async def test_a_plan_for_objects_is_not_for_tables(warehouse: Warehouse) -> None:
    """The service's settings were changed while a run was decided."""
    destination = await made(warehouse)
    artifact = (await staged(destination)).model_copy(update={"staged": InlineContent(content="")})
    with pytest.raises(SettingsError, match="made for objects"):
        await destination.complete(artifact, metadata=METADATA)
    await destination.delete(artifact, metadata=METADATA)
    assert len(await warehouse.staging()) == 1


async def test_it_stores_manifests(warehouse: Warehouse) -> None:
    """Each once, as it was published first, also if several workers create the table for the first one."""
    destinations = [warehouse.destination() for _ in range(4)]
    assert all(each.holds_tables and isinstance(each, ManifestStore) for each in destinations)
    key = "agency_id=7/run_id=r-1/_manifest.json"
    assert not await destinations[0].exists(key)

    outcomes = await asyncio.gather(
        *(each.publish(key, b'{"n": %d}' % n, metadata=METADATA) for n, each in enumerate(destinations)),
        return_exceptions=True,
    )

    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, ConflictingObjects) for outcome in outcomes) == 3
    first = outcomes.index(None)
    assert await warehouse.rows("SELECT key, run_id, manifest FROM pipeline_manifests") == [
        (key, "r-1", f'{{"n": {first}}}')
    ]
    await destinations[first].publish(key, b'{"n": %d}' % first, metadata=METADATA)
    assert await destinations[first].exists(key)
    assert not await destinations[first].exists("another")


# -- uploads -------------------------------------------------------------------------------------


async def test_an_upload_is_reported_before_it_is_made(warehouse: Warehouse) -> None:
    """If the report fails, there is nothing to clean up."""
    destination = await made(warehouse)
    reported: list[UploadRef] = []

    async def fail(upload: UploadRef) -> None:
        reported.append(upload)
        assert await warehouse.staging() == []
        raise Boom

    with pytest.raises(Boom):
        await stage(destination, NEW[FormatName.NDJSON], content(["id"]), rows=2, started=fail)
    assert reported[0].key == KEY
    assert await warehouse.staging() == []


@pytest.mark.parametrize("sealed", [False, True])
async def test_an_exception_aborts_the_upload(warehouse: Warehouse, sealed: bool) -> None:
    """Whether it comes before or after seal(), nothing is left."""
    destination = await made(warehouse)

    async def write() -> None:
        async with destination.open(KEY, content(["id"]), metadata=METADATA, on_started=Started()) as upload:
            await upload.write(b'{"id":5}\n')
            if sealed:
                await upload.seal()
            assert len(await warehouse.staging()) == 1
            raise Boom

    with pytest.raises(Boom):
        await write()
    assert await warehouse.staging() == []


async def test_leaving_without_seal_aborts_the_upload(warehouse: Warehouse) -> None:
    """There is no plan that could ever complete it."""
    destination = await made(warehouse)
    async with destination.open(KEY, content(["id"]), metadata=METADATA, on_started=Started()) as upload:
        await upload.write(b'{"id":5}\n')
    assert await warehouse.staging() == []


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 20, 80, 200])
async def test_cancelling_aborts_the_upload(warehouse: Warehouse, turns: int) -> None:
    """Wherever the cancellation strikes, no staging table is left behind."""
    destination = await made(warehouse)

    async def write() -> None:
        async with destination.open(KEY, content(["id"]), metadata=METADATA, on_started=Started()) as upload:
            while True:
                await upload.write(b'{"id":5}\n' * 100_000)

    writing = asyncio.create_task(write())
    for _ in range(turns):
        await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await warehouse.staging() == []


async def test_pending_uploads_are_found_by_whoever_looks(warehouse: Warehouse) -> None:
    """Sealed or still being written, by the handles that were recorded, until they are completed or aborted."""
    destination, started = await made(warehouse), Started()
    artifact = await staged(destination, started=started)
    async with destination.open(
        "agency_id=7/run_id=r-2/other", content(["id"]), metadata=OTHER_RUN, on_started=started
    ):
        await warehouse.execute("CREATE TABLE _pp_not_ours (a int)")
        found = [each async for each in warehouse.destination().pending_uploads()]
        assert sorted(found, key=str) == sorted(started, key=str)
        assert {each.key for each in found} == {KEY, "agency_id=7/run_id=r-2/other"}
    await destination.complete(artifact, metadata=METADATA)
    assert [each async for each in destination.pending_uploads()] == []
    assert await warehouse.staging() == ["_pp_not_ours"]


async def test_aborting_again_is_harmless(warehouse: Warehouse) -> None:
    """And nothing but staging tables is ever dropped."""
    destination, started = await made(warehouse), Started()
    await staged(destination, started=started)
    for _ in range(2):
        await warehouse.destination().abort(started[0])
        assert await warehouse.staging() == []
    with pytest.raises(ValueError, match="isn't a staging table"):
        await destination.abort(UploadRef(key=KEY, upload_id="records"))


@both_forms
async def test_an_upload_that_is_aborted_meanwhile_fails(warehouse: Warehouse, form: FormatName) -> None:
    """Someone removes the staging table while it is written: a later attempt exports again."""
    destination, started = await made(warehouse), Started()

    async def write() -> None:
        async with destination.open(KEY, content(["id"], form), metadata=METADATA, on_started=started) as upload:
            await destination.abort(started[0])
            await upload.write({FormatName.NDJSON: b'{"id":5}\n', FormatName.CSV: b"id\n5\n"}[form])
            await upload.seal()

    with pytest.raises(DestinationUnavailable, match="dropped from outside"):
        await write()


# -- whose schema it is --------------------------------------------------------------------------


async def test_a_schema_belongs_to_one_installation(warehouse: Warehouse) -> None:
    """Checking writes nothing; the first mark stays."""
    ours, theirs, destination = uuid4(), uuid4(), warehouse.destination()
    await destination.verify_installation(ours)
    assert await warehouse.rows("SELECT FROM pg_class WHERE relname LIKE 'pipeline%'") == []
    for _ in range(2):
        await destination.mark_installation(ours)
        await destination.verify_installation(ours)
    for check in (warehouse.destination().verify_installation, warehouse.destination().mark_installation):
        with pytest.raises(ForeignPrefix, match=str(ours)):
            await check(theirs)


async def test_a_schema_is_marked_by_several_at_once(warehouse: Warehouse) -> None:
    """Its tables are made once, and one installation has it."""
    installations = [uuid4() for _ in range(6)]
    outcomes = await asyncio.gather(
        *(warehouse.destination().mark_installation(each) for each in installations), return_exceptions=True
    )
    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, ForeignPrefix) for outcome in outcomes) == 5


async def test_its_url_has_no_credentials(warehouse: Warehouse) -> None:
    """It is the same however the DSN is written, as stored plans name it."""
    dsn = warehouse.dsn.replace("pipeline@", "pipeline:hush-hush@")
    async with client(dsn) as database, client(f"{dsn}?sslmode=disable") as again:
        assert warehouse.on(database).url == warehouse.on(again).url == warehouse.destination().url
        assert warehouse.on(database).url == f"postgresql://{database.where}/exports"
        assert "hush" not in warehouse.on(database).url


async def test_a_staged_table_is_named_in_the_plan(warehouse: Warehouse) -> None:
    """By the handle that was recorded when it was begun, with the table that it will be loaded into."""
    destination, started = await made(warehouse), Started()
    artifact = await staged(destination, started=started)
    assert artifact.staged == StagedTable(table=started[0].upload_id, target="records")
