"""What can't be loaded is refused with its reason, before the run is decided wherever that can be known."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

import pytest

from pipeline_processing.agency_keys import AgencyKey
from pipeline_processing.destinations.tables.destination import PostgresDestination
from pipeline_processing.destinations.tables.errors import TableConflict
from pipeline_processing.destinations.tables.upload import CHUNK_BYTES
from pipeline_processing.embedded.ports import free_ports
from pipeline_processing.errors import (
    AccessDenied,
    DataError,
    DestinationUnavailable,
    JobConfigError,
    PipelineError,
    Throttled,
)
from pipeline_processing.model import FormatName
from tests.contract.postgres_destination.warehouse import (
    KEY,
    LOADED_FORMATS,
    METADATA,
    Started,
    Warehouse,
    client,
    content,
    stage,
)

PRIVATE = "a-private-value"
RECORDS = """
    CREATE TYPE mood AS ENUM ('happy', 'sad');
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE TABLE kinds (name text PRIMARY KEY);
    INSERT INTO kinds VALUES ('known');
    CREATE TABLE records (
        id bigint PRIMARY KEY, agency_id bigint NOT NULL, name varchar(20) NOT NULL DEFAULT 'none',
        amount numeric(6, 2), at timestamptz, mood mood, size positive, kind text REFERENCES kinds, tags int[],
        total numeric GENERATED ALWAYS AS (amount * 2) STORED, number int GENERATED ALWAYS AS IDENTITY,
        loaded_at timestamptz DEFAULT now(), UNIQUE (agency_id, name, kind)
    );
    INSERT INTO records (id, agency_id) VALUES (9, 8);
"""
both_forms = pytest.mark.parametrize("form", LOADED_FORMATS)


async def made(warehouse: Warehouse, **options: Any) -> PostgresDestination:
    await warehouse.execute(RECORDS)
    return warehouse.destination(**{"mode": "replace", "key": ["id"], **options})


def body_of(form: FormatName, *rows: dict[str, str | None]) -> bytes:
    """Rows whose values are JSON as well as CSV; null is None."""
    if form is FormatName.NDJSON:
        lines = [", ".join(f'"{name}": {value or "null"}' for name, value in row.items()) for row in rows]
        return "".join(f"{{{line}}}\n" for line in lines).encode()
    return "".join(",".join(map(str, line)) + "\n" for line in [rows[0], *(_csv(row) for row in rows)]).encode()


def _csv(row: dict[str, str | None]) -> list[str]:
    return [("" if value is None else value) for value in row.values()]


async def loaded(
    destination: PostgresDestination, form: FormatName, *rows: dict[str, str | None], known: bool = True
) -> None:
    """Stage and complete."""
    described = content(tuple(rows[0]) if known else None, form)
    artifact = await stage(destination, body_of(form, *rows), described, rows=len(rows))
    await destination.complete(artifact, metadata=METADATA)


def told(error: BaseException) -> str:
    """The message; what a log would print of the error holds no private value."""
    assert PRIVATE not in "".join(traceback.format_exception(error))
    return str(error)


# -- rows that the table can't take --------------------------------------------------------------


@both_forms
@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("id", f'"{PRIVATE}"', "invalid text representation"),
        ("id", "99999999999999999999", "numeric value out of range"),
        ("id", None, "not null violation"),
        ("amount", f'"{PRIVATE}"', "invalid text representation"),
        ("amount", "123456.78", "numeric value out of range"),
        ("at", f'"{PRIVATE}"', "invalid datetime format"),
        ("at", '"2026-13-01"', "datetime field overflow"),
        ("mood", f'"{PRIVATE}"', "invalid text representation"),
        ("name", f'"{PRIVATE}, and more than twenty"', "string data right truncation"),
        ("name", None, "not null violation"),
        ("size", "-5", "check violation"),
        ("tags", f'"{{{PRIVATE}"', "invalid text representation"),
    ],
)
async def test_a_value_that_does_not_fit_names_its_column(
    warehouse: Warehouse, form: FormatName, column: str, value: str | None, reason: str
) -> None:
    """With Postgres's reason, and never the value."""
    destination = await made(warehouse)
    row: dict[str, str | None] = {"id": "5", column: value}
    with pytest.raises(DataError, match=r"Dataset 'records'.*exports\.records") as raised:
        await loaded(destination, form, {"id": "4", column: "5" if column == "id" else row[column]}, row)
    assert reason in told(raised.value)
    # COPY doesn't tell the column of a value that its domain refuses, but the domain.
    assert repr(column) in str(raised.value) or (form is FormatName.CSV and "'positive'" in str(raised.value))
    assert await warehouse.staging() == []


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (r"\u0000", "untranslatable character"),
        (r"\ud800", "invalid text representation"),
        (r"\udc00", "invalid text representation"),
        (r"\ud800 and more", "invalid text representation"),
        (r"\ud800\ud800", "invalid text representation"),
        (r"\\\ud800", "invalid text representation"),
    ],
)
async def test_a_character_that_postgres_has_not_is_refused(
    warehouse: Warehouse, known: bool, text: str, reason: str
) -> None:
    """Such as half a surrogate, which `json.dumps` writes; the same error whether or not columns are known before."""
    destination = await made(warehouse)
    good: dict[str, str | None] = {"id": "1", "name": r'"\ud83e\udd89 \\ud800"'}
    bad: dict[str, str | None] = {"id": "2", "name": f'"{PRIVATE}{text}"'}
    with pytest.raises(DataError, match=rf"exports\.records at .* can't take a row: {reason}") as raised:
        await loaded(destination, FormatName.NDJSON, good, bad, known=known)
    told(raised.value)
    assert await warehouse.staging() == []
    await loaded(destination, FormatName.NDJSON, good, known=known)
    assert await warehouse.rows("SELECT name FROM records WHERE id = 1") == [("🦉 \\ud800",)]


async def test_writing_notices_a_failure_early(warehouse: Warehouse) -> None:
    """A wrong row ends the export soon after it was sent: not at its end, nor when there is more to be sent."""
    destination = await made(warehouse)

    async def write() -> None:
        async with destination.open(KEY, content(["id"]), metadata=METADATA, on_started=Started()) as upload:
            await upload.write(b'{"id": "wrong"}\n' + b'{"id": 1}\n' * (CHUNK_BYTES // 10))
            async with asyncio.timeout(30):
                while True:  # far less than a chunk
                    await upload.write(b'{"id": 1}\n')
                    await asyncio.sleep(0.01)

    with pytest.raises(DataError, match="invalid text representation"):
        await write()


@both_forms
@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"id": "1"}, {"id": "1"}], "two of its rows are the same in id"),
        (
            [{"id": "1", "name": '"x"', "kind": '"known"'}, {"id": "2", "name": '"x"', "kind": '"known"'}],
            "two of its rows are the same in agency_id, name, kind",
        ),
        ([{"id": "9"}], "as another agency's row"),
    ],
)
@pytest.mark.parametrize("mode", ["replace", "merge"])
async def test_keys_that_can_not_be_are_found_before_the_decision(
    warehouse: Warehouse, form: FormatName, mode: str, rows: list[dict[str, str | None]], reason: str
) -> None:
    """Two rows with one key, and the key of another agency's row: nobody's rows are touched."""
    destination = await made(warehouse, mode=mode)
    before = await warehouse.rows("SELECT * FROM records")
    with pytest.raises(DataError, match=reason):
        await stage(destination, body_of(form, *rows), content(tuple(rows[0]), form), rows=len(rows))
    assert await warehouse.rows("SELECT * FROM records") == before
    assert await warehouse.staging() == []


async def test_nulls_are_never_the_same(warehouse: Warehouse) -> None:
    """A unique index takes many of them, and so does a load; but nothing can be merged by one."""
    await warehouse.execute("CREATE TABLE records (id int UNIQUE, agency_id int)")
    rows: list[dict[str, str | None]] = [{"id": None}, {"id": None}]
    await loaded(warehouse.destination(), FormatName.NDJSON, *rows)
    assert await warehouse.rows("SELECT * FROM records") == [(None, 7), (None, 7)]
    with pytest.raises(DataError, match="null in its key"):
        await loaded(warehouse.destination(mode="merge", key=["id"]), FormatName.NDJSON, *rows)


@both_forms
@pytest.mark.parametrize("known", [True, False])
async def test_rows_of_another_agency_are_refused(warehouse: Warehouse, form: FormatName, known: bool) -> None:
    """If rows carry the agency's id, all of them have to be the run's; a null is nobody's."""
    for number, agency in enumerate(("8", None, f'"{PRIVATE}"')):
        destination = await made(warehouse) if number == 0 else warehouse.destination()
        rows: list[dict[str, str | None]] = [{"id": "1", "agency_id": "7"}, {"id": "2", "agency_id": agency}]
        with pytest.raises(DataError, match=r"'agency_id' isn't the run's agency, 7") as raised:
            await loaded(destination, form, *rows, known=known)
        told(raised.value)
    await loaded(destination, form, {"id": "1", "agency_id": "7"}, known=known)
    assert await warehouse.rows("SELECT id, agency_id FROM records ORDER BY id") == [(1, 7), (9, 8)]


@pytest.mark.parametrize(
    ("mode", "meanwhile", "reason"),
    [
        ("merge", "INSERT INTO records (id, agency_id) VALUES (1, 8)", "took 0 of 1 rows. Either another agency has"),
        ("replace", "INSERT INTO records (id, agency_id) VALUES (1, 8)", "unique violation .*'records_pkey'"),
        ("append", "INSERT INTO records (id, agency_id) VALUES (1, 7)", "unique violation .*'records_pkey'"),
        ("replace", "DELETE FROM kinds", "foreign key violation .*'records_kind_fkey'"),
        ("replace", f"ALTER TABLE records ADD CHECK (kind = '{PRIVATE}')", "check violation .*'records_kind_check'"),
        ("replace", "ALTER TABLE records DROP COLUMN kind", "undefined column"),
        ("replace", "DROP TABLE records", "undefined table"),
        ("append", "CREATE RULE none AS ON INSERT TO records DO INSTEAD NOTHING", "took 0 of 1 rows"),
    ],
)
async def test_what_happens_after_the_decision_fails_the_run(
    warehouse: Warehouse, mode: str, meanwhile: str, reason: str
) -> None:
    """It can't be repeated with success, so it is final; the table and the staged rows stay as they are."""
    destination = await made(warehouse, mode=mode)
    row = b'{"id": 1, "kind": "known"}\n'
    artifact = await stage(destination, row, content(["id", "kind"]), rows=1)
    await warehouse.execute(meanwhile)
    everything = "SELECT (SELECT count(*) FROM pipeline_loads), (SELECT string_agg(r::text, '') FROM records r)"
    with pytest.raises(TableConflict, match=reason) as raised:
        await destination.complete(artifact, metadata=METADATA)
    assert "replay the run" in told(raised.value)
    assert raised.value.kind == "conflicting_objects"
    assert await warehouse.staging() == [artifact.staged.table]
    if "DROP TABLE" not in meanwhile:
        assert [count for count, _ in await warehouse.rows(everything)] == [0]


@both_forms
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        ("amount < 10", '"1"', '"99"'),
        ("amount < agency_id", '"1"', '"99"'),
        ("length(name) > amount", '"1"', '"9"'),  # a default of the table
        ("total < 10", '"1"', '"9"'),  # generated by it
        ("number IS NOT NULL AND amount < 10", '"1"', '"2"'),  # a number that only the load gives
        ("doubled IS NOT NULL", '"1"', '"2"'),  # generated of that
        ("kind IS NULL OR amount > 0", '"1"', None),
    ],
)
async def test_what_a_check_refuses_is_found_before_the_decision(
    warehouse: Warehouse, form: FormatName, known: bool, check: str, good: str, bad: str | None
) -> None:
    """Also where it reads columns that only the table fills in; what it takes is loaded."""
    destination = await made(warehouse)
    await warehouse.execute(
        "ALTER TABLE records ADD COLUMN doubled int GENERATED ALWAYS AS (number * 2) STORED;"
        f'ALTER TABLE records ADD CONSTRAINT "a {{check}}" CHECK ({check}) NOT VALID'
    )
    refused = bad in ('"9"', '"99"')
    described = content(("id", "amount"), form) if known else content(None, form)
    rows: list[dict[str, str | None]] = [{"id": "1", "amount": good}, {"id": "2", "amount": bad}]
    if form is FormatName.CSV:
        rows = [{name: value and value.strip('"') for name, value in row.items()} for row in rows]
    if refused:
        with pytest.raises(DataError, match=r"check violation .* in constraint 'a \{check\}'"):
            await stage(destination, body_of(form, *rows), described, rows=2)
        assert await warehouse.staging() == []
        rows.pop()
    await loaded(destination, form, *rows, known=known)
    assert len(await warehouse.rows("SELECT FROM records WHERE id < 9")) == len(rows)


@both_forms
@pytest.mark.parametrize("collation", ['pg_catalog."C"', 'exports."C"'])
async def test_columns_keep_their_collations(warehouse: Warehouse, form: FormatName, collation: str) -> None:
    """In checks and keys, whether rows have the column or the table fills it in; which one it is, is told by schema."""
    await warehouse.execute(
        "CREATE COLLATION exports.\"C\" (provider = libc, locale = 'C');"
        f'CREATE DOMAIN code AS text COLLATE "C"; CREATE TABLE records (id int, agency_id text COLLATE {collation},'
        f" code text COLLATE {collation} UNIQUE CHECK (lower(code) = code), plain text CHECK (lower(plain) = plain),"
        f" filled text COLLATE {collation} DEFAULT 'É' CHECK (lower(filled) = filled),"
        f" made text COLLATE {collation} GENERATED ALWAYS AS (code || 'É') STORED CHECK (lower(made) = made),"
        ' of_domain code CHECK (lower(of_domain) = of_domain), unlike code COLLATE "default",'
        " CHECK (lower(unlike) = unlike), CHECK (lower(agency_id || 'É') = agency_id || 'É'));"
        "INSERT INTO records (id, agency_id, code) VALUES (9, '8', 'é')"
    )
    destination = warehouse.destination()
    names = ("id", "code", "plain", "of_domain", "unlike")

    def row(**values: str) -> dict[str, str | None]:
        row = {"id": "1", "code": "É", "plain": "é", "of_domain": "É", "unlike": "é", **values}
        return {name: f'"{row[name]}"' if form is FormatName.NDJSON else row[name] for name in names}

    for column in ("plain", "unlike"):
        with pytest.raises(DataError, match=f"in constraint 'records_{column}_check'"):
            await loaded(destination, form, row(**{column: "É"}))
    with pytest.raises(DataError, match="as another agency's row"):
        await loaded(destination, form, row(code="é"))
    await loaded(destination, form, row(), row(id="2", code="Ö"), known=False)
    query = "SELECT code, plain, of_domain, unlike, filled, made FROM records WHERE id = 1"
    assert await warehouse.rows(query) == [("É", "é", "É", "é", "É", "ÉÉ")]


@both_forms
async def test_checks_use_up_no_numbers(warehouse: Warehouse, form: FormatName) -> None:
    """A default that takes one is left to the load, as is a check of it; the table's other checks aren't."""
    await warehouse.execute(
        "CREATE SEQUENCE more; CREATE DOMAIN ticket AS bigint NOT NULL DEFAULT nextval('more');"
        "CREATE TABLE records (id int, agency_id int DEFAULT nextval('more') CHECK (agency_id < 9),"
        " number bigserial CHECK (number < 3), label text DEFAULT 'no ' || nextval('more') CHECK (label <> ''),"
        " ticket ticket CHECK (ticket > 0), doubled bigint GENERATED ALWAYS AS (number * 2) STORED CHECK (doubled > 0),"
        " plain int GENERATED ALWAYS AS (id * 2) STORED CHECK (plain < 10))"
    )
    destination = warehouse.destination()
    with pytest.raises(DataError, match="in constraint 'records_plain_check'"):
        await loaded(destination, form, {"id": "1"}, {"id": "5"})
    rows: list[dict[str, str | None]] = [{"id": "1"}, {"id": "2"}]
    artifact = await stage(destination, body_of(form, *rows), content(("id",), form), rows=2)
    assert await warehouse.rows("SELECT is_called FROM records_number_seq UNION ALL SELECT is_called FROM more") == [
        (False,),
        (False,),
    ]
    await destination.complete(artifact, metadata=METADATA)
    assert await warehouse.rows("SELECT id, number, doubled FROM records ORDER BY id") == [(1, 1, 2), (2, 2, 4)]
    with pytest.raises(DataError, match="in constraint 'records_number_check'"):
        await loaded(destination, form, {"id": "1", "number": "3"})


async def test_checks_that_only_the_table_can_decide_are_left_to_it(warehouse: Warehouse) -> None:
    """Of whole rows and system columns: the run fails after the decision."""
    await warehouse.execute(
        "CREATE TABLE records (id int, agency_id int, CHECK (tableoid <> 0));"
        "ALTER TABLE records ADD CHECK (records IS NOT NULL)"
    )
    await loaded(warehouse.destination(), FormatName.NDJSON, {"id": "1"})
    await warehouse.execute("ALTER TABLE records ADD CHECK (tableoid = 0) NOT VALID")
    destination, again = warehouse.destination(), {**METADATA, "run-id": "r-2"}
    artifact = await stage(destination, b'{"id": 1}\n', content(["id"]), rows=1, metadata=again)
    with pytest.raises(TableConflict, match="check violation"):
        await destination.complete(artifact, metadata=again)


@pytest.mark.parametrize("enabled", [True, False])
async def test_a_trigger_may_mend_rows(warehouse: Warehouse, enabled: bool) -> None:
    """What it would give or change can't be known, so nothing is refused for that; a disabled one does nothing."""
    await warehouse.execute(
        "CREATE TABLE records (id int, agency_id int, name text NOT NULL, CHECK (id > 0));"
        "CREATE FUNCTION mend() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN NEW.name := 'mended'; NEW.id := abs(NEW.id); RETURN NEW; END$$;"
        "CREATE TRIGGER mend BEFORE INSERT ON records FOR EACH ROW EXECUTE FUNCTION mend()"
    )
    destination = warehouse.destination()
    if enabled:
        await destination.check(["records"], columns={"records": ["id"]})
        await loaded(destination, FormatName.NDJSON, {"id": "-1"})
        assert await warehouse.rows("SELECT * FROM records") == [(1, 7, "mended")]
    else:
        await warehouse.execute("ALTER TABLE records DISABLE TRIGGER mend")
        with pytest.raises(JobConfigError, match="no column 'name'"):
            await destination.check(["records"], columns={"records": ["id"]})


# -- columns -------------------------------------------------------------------------------------


@both_forms
async def test_columns_that_only_rows_tell(warehouse: Warehouse, form: FormatName) -> None:
    """All that any row has are loaded; a row without one has null there, and what none has is the default."""
    destination = await made(warehouse)
    ids = [b'{"id": %d}\n' % number for number in range(100, 140_000)]
    body = {
        FormatName.NDJSON: b"".join([*ids, b'{"id": 1, "amount": 1.50}\n', b'{"amount": 2, "id": 2}\n']),
        FormatName.CSV: b"id,amount\n1,1.50\n2,2\n",
    }[form]
    rows = body.count(b"\n") - (form is FormatName.CSV)
    artifact = await stage(destination, body, content(None, form), rows=rows)
    await destination.complete(artifact, metadata=METADATA)
    assert await warehouse.rows("SELECT id, amount::text, name, total::text FROM records WHERE id < 9 ORDER BY id") == [
        (1, "1.50", "none", "3.00"),
        (2, "2.00", "none", "4.00"),
    ]


async def test_a_column_that_comes_late_is_null_in_the_rows_before(warehouse: Warehouse) -> None:
    """Not the table's default; and its CHECK holds for the rows that follow."""
    await warehouse.execute("CREATE TABLE records (id int, agency_id int, size int DEFAULT 5 CHECK (size > 0))")
    early = b"".join(b'{"id": %d}\n' % number for number in range(CHUNK_BYTES // 10))
    rows = early.count(b"\n") + 1
    with pytest.raises(DataError, match="in constraint 'records_size_check'"):
        await stage(warehouse.destination(), early + b'{"id": -1, "size": -3}\n', content(None), rows=rows)
    artifact = await stage(warehouse.destination(), early + b'{"id": -1, "size": 3}\n', content(None), rows=rows)
    await warehouse.destination().complete(artifact, metadata=METADATA)
    sizes = await warehouse.rows("SELECT size, count(*) FROM records GROUP BY 1 ORDER BY 1")
    assert sizes == [(3, 1), (None, rows - 1)]


@both_forms
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ("nmae", "has the column 'nmae', and table exports.records .* has id, agency_id, name"),
        ("total", "'total', whose values .* always generates"),
        ("number", "'number', whose values .* always generates"),
        ("ctid", "has the column 'ctid'"),
    ],
)
async def test_columns_have_to_be_the_tables(
    warehouse: Warehouse, form: FormatName, known: bool, column: str, reason: str
) -> None:
    """Where they are known, before the first row is read."""
    destination, started = await made(warehouse), Started()
    if known:
        with pytest.raises(JobConfigError, match=reason):
            async with destination.open(KEY, content([column], form), metadata=METADATA, on_started=started):
                pytest.fail("opened")
    else:
        with pytest.raises(JobConfigError, match=reason):
            await loaded(destination, form, {column: "1"}, known=False)
    assert await warehouse.staging() == []


@both_forms
@pytest.mark.parametrize("known", [True, False])
async def test_a_key_has_to_be_in_the_rows(warehouse: Warehouse, form: FormatName, known: bool) -> None:
    """Else nothing could be merged by it; the agency's id is filled in."""
    destination = await made(warehouse, mode="merge")
    with pytest.raises(JobConfigError, match="no column 'id', which is needed to merge its rows"):
        await loaded(destination, form, {"name": "1"}, known=known)
    await warehouse.execute("CREATE UNIQUE INDEX ON records (id, agency_id)")
    by_both = warehouse.destination(mode="merge", key=["agency_id", "id"])
    await loaded(by_both, form, {"id": "1"}, known=known)
    again = {**METADATA, "run-id": "r-2"}
    row = body_of(form, {"id": "1"})
    artifact = await stage(by_both, row, content(["id"], form), rows=1, metadata=again)
    await by_both.complete(artifact, metadata=again)
    assert await warehouse.rows("SELECT id, agency_id FROM records ORDER BY id") == [(1, 7), (9, 8)]


@both_forms
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("column", ["extra int NOT NULL", "extra filled"])
async def test_what_no_row_can_be_without_has_to_be_in_the_rows(
    warehouse: Warehouse, form: FormatName, known: bool, column: str
) -> None:
    """Before any is read where their columns are known; a default, an identity or a generated value will do."""
    destination = await made(warehouse)
    await warehouse.execute(
        "CREATE DOMAIN filled AS int NOT NULL; CREATE DOMAIN by_default AS int NOT NULL DEFAULT 5; DELETE FROM records;"
        f"ALTER TABLE records ADD COLUMN {column}, ADD COLUMN a by_default,"
        "ADD COLUMN b int NOT NULL GENERATED BY DEFAULT AS IDENTITY,"
        "ADD COLUMN c int NOT NULL GENERATED ALWAYS AS (1) STORED"
    )
    reason = "no column 'extra', which in table exports.records .* is NOT NULL without a default"
    if known:
        with pytest.raises(JobConfigError, match=reason):
            await destination.check(["records"], columns={"records": ["id"]})
        with pytest.raises(JobConfigError, match=reason):
            async with destination.open(KEY, content(["id"], form), metadata=METADATA, on_started=Started()):
                pytest.fail("opened")
    else:
        with pytest.raises(JobConfigError, match=reason):
            await stage(destination, body_of(form, {"id": "1"}), content(None, form), rows=1)
    assert await warehouse.staging() == []
    await loaded(destination, form, {"id": "1", "extra": "2"}, known=known)
    assert await warehouse.rows("SELECT id, extra, a, b, c FROM records") == [(1, 2, 5, 1, 1)]


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ({"delimiter": ";", "null": "\\N"}, b'id;name\n1;\n2;"a;b"\n'),
        ({"delimiter": "\t", "null": "nil", "header": False}, b'1\t""\n2\t"a;b"\n'),
        ({"delimiter": "|", "null": "x", "header": False}, b"1|\n2|a;b\n"),
        ({"quote": "all", "line_end": "crlf"}, b'"id","name"\r\n"1",""\r\n"2","a;b"\r\n'),
    ],
)
async def test_csv_as_its_options_have_it(warehouse: Warehouse, options: dict[str, Any], body: bytes) -> None:
    """Whatever stands between fields and for null."""
    destination = await made(warehouse)
    artifact = await stage(destination, body, content(["id", "name"], FormatName.CSV, **options), rows=2)
    await destination.complete(artifact, metadata=METADATA)
    assert await warehouse.rows("SELECT id, name FROM records WHERE id < 9 ORDER BY id") == [(1, ""), (2, "a;b")]


async def test_csv_without_any_names_of_columns(warehouse: Warehouse) -> None:
    """Nobody could tell which field is which."""
    destination = await made(warehouse)
    with pytest.raises(JobConfigError, match="CSV without a header"):
        await stage(destination, b"1\n", content(None, FormatName.CSV, header=False), rows=1)


async def test_parquet_that_a_request_chose(warehouse: Warehouse) -> None:
    """The config's check has seen another format."""
    with pytest.raises(JobConfigError, match=r"can't load the dataset 'records' from Parquet"):
        await stage(await made(warehouse), b"PAR1", content(["id"], FormatName.PARQUET), rows=1)


@pytest.mark.parametrize("options", [{"encoding": "latin-1"}, {"bom": True}])
async def test_csv_that_tables_do_not_take(warehouse: Warehouse, options: dict[str, Any]) -> None:
    """A request may choose CSV where the config has another format, so the config's check isn't enough."""
    with pytest.raises(JobConfigError, match=r"can't load the dataset 'records' from CSV with another encoding"):
        await stage(await made(warehouse), b"id\n1\n", content(["id"], FormatName.CSV, **options), rows=1)


async def test_rows_without_columns(warehouse: Warehouse) -> None:
    """There is nothing to load."""
    with pytest.raises(DataError, match="have no columns to load"):
        await stage(await made(warehouse), b"{}\n", content(None), rows=1)


# -- the target ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "options", "reason"),
    [
        ("DROP TABLE records", {}, "no table exports.records at .* for dataset 'records'.*Create it"),
        ("SELECT", {"tables": {"records": "RECORDS"}}, "no table exports.RECORDS"),
        ("SELECT", {"schema": "nowhere"}, "no table nowhere.records"),
        ("ALTER TABLE records RENAME TO r; CREATE VIEW records AS SELECT * FROM r", {}, "isn't a table"),
        ("SELECT", {"agency_column": "agency"}, "no column 'agency' for the agency's id; it has id, agency_id"),
        ("SELECT", {"agency_column": "at"}, "'at' .* type timestamp with time zone and can't be given the ids"),
        ("SELECT", {"agency_column": "number"}, "'number' .* can't be given the ids"),
        (
            "CREATE EXTENSION IF NOT EXISTS citext SCHEMA public; ALTER TABLE records ADD caseless public.citext",
            {"agency_column": "caseless", "agency_key": AgencyKey.TEXT},
            "'caseless' .* type citext and can't be given the ids .*Make it a plain text",
        ),
        ("SELECT", {"mode": "merge", "key": ["nope"]}, "`key` has 'nope'"),
        ("SELECT", {"mode": "merge", "key": ["name"]}, "no unique index on just name"),
        ("SELECT", {"mode": "merge", "key": ["id", "name"]}, "no unique index on just id, name"),
        ("CREATE UNIQUE INDEX ON records (name) WHERE id > 0", {"mode": "merge", "key": ["name"]}, "no unique index"),
        ("CREATE UNIQUE INDEX ON records (lower(name))", {"mode": "merge", "key": ["name"]}, "no unique index"),
        ("ALTER TABLE records ADD UNIQUE (name) DEFERRABLE", {"mode": "merge", "key": ["name"]}, "no unique index"),
        ("SELECT", {"tables": {"other": "records"}}, "`tables` has 'other', and the datasets are records"),
    ],
)
async def test_a_target_that_does_not_fit(warehouse: Warehouse, sql: str, options: dict[str, Any], reason: str) -> None:
    """Is found by a check, and before anything of it is read or written."""
    await made(warehouse)
    await warehouse.execute(sql)
    destination = warehouse.destination(**options)
    with pytest.raises(JobConfigError, match=reason):
        await destination.check(["records"])
    if "`tables`" not in reason:
        with pytest.raises(JobConfigError, match=reason):
            async with destination.open(KEY, content(["id"]), metadata=METADATA, on_started=Started()):
                pytest.fail("opened")


async def test_a_table_that_was_there_is_waited_for(warehouse: Warehouse) -> None:
    """Somebody may be making it anew; before it was there, the job config is wrong."""
    destination = await made(warehouse)
    await stage(destination, b'{"id": 1}\n', content(["id"]), rows=1)
    await warehouse.execute("ALTER TABLE records RENAME TO aside")

    with pytest.raises(DestinationUnavailable, match=r"no table exports\.records at .* existed before"):
        await stage(destination, b'{"id": 1}\n', content(["id"]), rows=1)
    with pytest.raises(JobConfigError, match="Create it"):
        await stage(warehouse.destination(), b'{"id": 1}\n', content(["id"]), rows=1)

    await warehouse.execute("ALTER TABLE aside RENAME TO records")
    await stage(destination, b'{"id": 1}\n', content(["id"]), rows=1)


async def test_a_check_tells_all_faults(warehouse: Warehouse) -> None:
    """Of every dataset; where there is none, it writes nothing."""
    destination = await made(warehouse, mode="merge")
    await destination.check(["records"])
    assert await warehouse.rows("SELECT FROM pg_class WHERE relname LIKE 'pipeline%'") == []
    with pytest.raises(JobConfigError, match=r"exports\.one at(.|\n)*exports\.two at"):
        await destination.check(["records", "one", "two"])


@pytest.mark.parametrize(
    ("mode", "granted", "missing"),
    [
        ("replace", "SELECT, INSERT", "DELETE on that table"),
        ("merge", "SELECT, INSERT", "UPDATE on that table"),
        ("append", "SELECT", "INSERT on that table"),
        ("append", "INSERT", None),
        ("replace", "SELECT, INSERT, DELETE", None),
        ("merge", "SELECT, INSERT, UPDATE", None),
    ],
)
async def test_rights_that_are_missing_are_named(
    warehouse: Warehouse, mode: str, granted: str, missing: str | None
) -> None:
    """With those that each mode needs, and no more, a load is possible."""
    await made(warehouse)
    await warehouse.execute(
        f"CREATE ROLE loader LOGIN; GRANT {granted} ON records TO loader; GRANT USAGE ON SCHEMA exports TO loader;"
        "GRANT SELECT ON kinds TO loader"
    )
    options: dict[str, Any] = {"mode": mode, "key": ["id"]}
    try:
        async with client(warehouse.dsn.replace("pipeline@", "loader@")) as database:
            destination = warehouse.on(database, **options)
            with pytest.raises(AccessDenied, match="USAGE, CREATE on schema exports"):
                await destination.check(["records"])
            await warehouse.execute("GRANT CREATE ON SCHEMA exports TO loader")
            if missing is None:
                await loaded(destination, FormatName.NDJSON, {"id": "5"})
                assert (5,) in await warehouse.rows("SELECT id FROM records")
            else:
                for attempt in (destination.check(["records"]), loaded(destination, FormatName.NDJSON, {"id": "5"})):
                    with pytest.raises(AccessDenied, match=missing):
                        await attempt
    finally:
        await warehouse.execute("DROP OWNED BY loader; DROP ROLE loader")


# -- the server ----------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["57014", "40001", "42501", "55P03", "58030", "25006", "XX000", "P0001"])
@pytest.mark.parametrize("decided", [True, False])
async def test_no_word_of_the_tables_functions_goes_on(warehouse: Warehouse, state: str, decided: bool) -> None:
    """Whatever SQLSTATE they raise with a row's text: neither a message nor a traceback quotes it."""
    await warehouse.execute(
        "CREATE TABLE records (id text, agency_id int);"
        "CREATE FUNCTION refuses(id text) RETURNS boolean LANGUAGE plpgsql AS"
        f" $$BEGIN RAISE EXCEPTION 'no %', id USING ERRCODE = '{state}', HINT = id, DETAIL = id; END$$"
    )
    destination, body = warehouse.destination(), body_of(FormatName.NDJSON, {"id": f'"{PRIVATE}"'})
    check = "ALTER TABLE records ADD CHECK (exports.refuses(id))"
    if decided:
        artifact = await stage(destination, body, content(["id"]), rows=1)
        await warehouse.execute(check)
        with pytest.raises(PipelineError, match=state) as raised:
            await destination.complete(artifact, metadata=METADATA)
    else:
        await warehouse.execute(check)
        with pytest.raises(PipelineError, match=state) as raised:
            await stage(destination, body, content(["id"]), rows=1)
    told(raised.value)


async def every_call(destination: PostgresDestination, error: type[PipelineError], match: str) -> None:
    for attempt in (
        destination.check(["records"]),
        stage(destination, b'{"id": 1}\n', content(["id"]), rows=1),
        anext(aiter(destination.pending_uploads())),
    ):
        with pytest.raises(error, match=match):
            await attempt


async def test_a_server_that_is_down_is_unavailable(warehouse: Warehouse) -> None:
    """Nobody listens: a later attempt may succeed."""
    [port] = free_ports(1)
    async with client(f"postgresql://me:{PRIVATE}@127.0.0.1:{port}/db") as database:
        await every_call(warehouse.on(database), DestinationUnavailable, "can't be reached")


async def test_a_standby_is_unavailable(warehouse: Warehouse) -> None:
    """After a failover the DSN may lead to it for a while."""
    await made(warehouse)
    async with client(warehouse.dsn, transaction_read_only="on") as database:
        with pytest.raises(DestinationUnavailable, match=r"read only sql transaction .*standby"):
            await loaded(warehouse.on(database), FormatName.NDJSON, {"id": "5"})


async def test_a_lock_that_is_held_too_long_is_tried_again(warehouse: Warehouse) -> None:
    """Somebody alters the table: the load gives way, and can be repeated."""
    destination = await made(warehouse)
    artifact = await stage(destination, b'{"id": 1}\n', content(["id"]), rows=1)
    await warehouse.execute("BEGIN; LOCK TABLE records")
    async with client(warehouse.dsn, lock_timeout="50ms") as database:
        with pytest.raises(Throttled, match="Try again later"):
            await warehouse.on(database).complete(artifact, metadata=METADATA)
    await warehouse.execute("ROLLBACK")
    await destination.complete(artifact, metadata=METADATA)
    assert await warehouse.rows("SELECT id FROM records ORDER BY id") == [(1,), (9,)]


@both_forms
async def test_a_connection_that_is_cut_off_while_rows_are_sent(warehouse: Warehouse, form: FormatName) -> None:
    """A later attempt may succeed, and nothing is left of this one."""
    destination = await made(warehouse)

    async def write() -> None:
        batch = {FormatName.NDJSON: b'{"id": 1}\n' * 100_000, FormatName.CSV: b"id\n" + b"1\n" * 500_000}[form]
        async with destination.open(KEY, content(["id"], form), metadata=METADATA, on_started=Started()) as upload:
            async with asyncio.timeout(30):
                while True:
                    await upload.write(batch)
                    batch = batch.removeprefix(b"id\n")
                    await warehouse.rows(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'loading'"
                    )

    with pytest.raises(DestinationUnavailable):
        await write()
    assert await warehouse.staging() == []
