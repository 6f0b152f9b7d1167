"""Arguments of a query: bound by name, fitted to what it takes, and never read as SQL."""

# ruff: noqa: E501 - tables of samples

from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from pipeline_processing.agency_keys import AgencyKey
from pipeline_processing.errors import QueryInvalid
from pipeline_processing.sources.postgres.options import PostgresSourceConfig
from pipeline_processing.sources.postgres.source import PostgresSource
from tests.contract.source.helpers import export, parsed_csv, parsed_ndjson

pytestmark = pytest.mark.asyncio(loop_scope="module")

both_formats = pytest.mark.parametrize("form", ["ndjson", "csv"])


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def tables(connection: asyncpg.Connection) -> None:
    await connection.execute("""
        CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL);
        INSERT INTO accounts VALUES (1, 100);
    """)


INJECTIONS = [
    "'; DROP TABLE accounts; --", "1); DELETE FROM accounts; --", "$1", "$$; DROP TABLE accounts; $$", "\\'; --", "%s{0}",
    '"', "/*", "\n", "🦉", "", "null", "NaN", "'", "{agency_id}",
]  # fmt: skip


@both_formats
@pytest.mark.parametrize("text", INJECTIONS)
async def test_arguments_arrive_as_data(text: str, form: str, source: PostgresSource, connection: asyncpg.Connection):
    """Whatever a param holds, it is compared and returned, never read as SQL; inside '…' $1 stays $1."""
    written = await export(
        source,
        "SELECT $1::text AS a, $1 || 'x' AS b, '$1' AS c, ARRAY[$1::text] AS d, $2::int AS e",
        form,
        args=["x", "agency_id"],
        request={"params": {"x": text}, "agency_id": 7},
    )

    if form == "csv":
        [_, row] = parsed_csv(written)
        assert row[:3] == [text, text + "x", "$1"]
        assert row[4] == "7"
    else:
        [line] = parsed_ndjson(written)
        assert (line["a"], line["b"], line["c"], line["d"]) == (text, text + "x", "$1", [text])
    assert await connection.fetchval("SELECT count(*) > 0 FROM accounts")


FITTING: dict[str, tuple[Any, str, str | None]] = {
    # param, expression, the value as text
    "an integer": (5, "$1::int", "5"),
    "an integer as a bigint": (2**62, "$1::bigint", str(2**62)),
    "text for an integer": ("5", "$1::int", "5"),
    "an integer for text": (5, "$1::text", "5"),
    "a float": (1.5, "$1::float8", "1.5"),
    "a float for a numeric": (1.5, "$1::numeric", "1.5"),
    "text for a numeric": ("1234567890123456789012345678901234567890.50", "$1::numeric", "1234567890123456789012345678901234567890.50"),
    "an integer for a float": (5, "$1::float8", "5"),
    "a float for text": (1.5, "$1::text", "1.5"),
    "true": (True, "$1::bool", "true"),
    "false": (False, "$1::bool", "false"),
    "text for a boolean": ("no", "$1::bool", "false"),
    "a boolean for text": (True, "$1::text", "true"),
    "null for an integer": (None, "$1::int", None),
    "null for text": (None, "$1::text", None),
    "null for a time": (None, "$1::timestamptz", None),
    "text for a date": ("2026-01-18", "$1::date", "2026-01-18"),
    "text for a time": ("2026-01-18T10:00:00+02:00", "($1::timestamptz)", "2026-01-18 08:00:00+00"),
    "text for a uuid": ("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "$1::uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    "text for json": ('{"a": [1, null]}', "($1::jsonb -> 'a' ->> 0)", "1"),
    "a boolean for json": (True, "($1::jsonb)::text", "true"),
    "text for an array, by a cast": ("{a,b}", "(($1::text)::text[])[2]", "b"),
    "text for an interval, by a cast": ("1 hour", "extract(epoch FROM ($1::text)::interval)::int", "3600"),
}  # fmt: skip


@both_formats
@pytest.mark.parametrize(("param", "expression", "expected"), FITTING.values(), ids=FITTING)
async def test_params_of_all_kinds(
    param: Any, expression: str, expected: str | None, form: str, source: PostgresSource
):
    """Params come as JSON or from a command line; they are fitted to what the query takes, alike for all formats."""
    written = await export(
        source, f"SELECT ({expression})::text AS a, ARRAY[1] AS l", form, args=["x"], request={"params": {"x": param}}
    )

    value = parsed_csv(written)[1][0] if form == "csv" else parsed_ndjson(written)[0]["a"]
    assert value == expected


UNFITTING: dict[str, tuple[Any, str]] = {
    "text for an integer": ("abc", "$1::int"),
    "an injection for an integer": ("1; DROP TABLE accounts", "$1::int"),
    "too large an integer": (2**40, "$1::int"),
    "a fraction for an integer": (1.5, "$1::int"),
    "text of a fraction for an integer": ("1.5", "$1::int"),
    "a boolean for an integer": (True, "$1::int"),
    "empty text for an integer": ("", "$1::int"),
    "text for a boolean": ("perhaps", "$1::bool"),
    "an integer for a boolean": (2, "$1::bool"),
    "text for a float": ("abc", "$1::float8"),
    "text for a numeric": ("abc", "$1::numeric"),
    "a boolean for a numeric": (True, "$1::numeric"),
    "text for a time": ("yesterdayish", "$1::timestamptz"),
    "a number for a time": (5, "$1::timestamptz"),
    "text for a date": ("2026-02-30", "$1::date"),
    "text for a uuid": ("abc", "$1::uuid"),
    "text for json": ("{", "$1::jsonb"),
    "text with a zero byte": ("a\0b", "$1::text"),
    "text for an array": ("{1,2}", "$1::int[]"),
    "text for an interval": ("1 hour", "$1::interval"),
    "a number for bytes": (5, "$1::bytea"),
}  # fmt: skip


@both_formats
@pytest.mark.parametrize(("param", "expression"), UNFITTING.values(), ids=UNFITTING)
async def test_params_that_do_not_fit(param: Any, expression: str, form: str, source: PostgresSource):
    """A param of the wrong type is the request's fault: QueryInvalid, which names dataset and remedy."""
    with pytest.raises(QueryInvalid, match="'records'") as raised:
        await export(source, f"SELECT {expression} AS a", form, args=["x"], request={"params": {"x": param}})

    assert raised.value.exit_code == 65
    assert not raised.value.retryable


@both_formats
async def test_built_in_arguments(form: str, source: PostgresSource):
    """agency_id, run_id, since and until can be named, in any order and more than once."""
    written = await export(
        source,
        "SELECT $2::bigint AS agency, $1::text AS run, $3::timestamptz AS since, $4::timestamptz = 'infinity' AS no_end, $5::int AS again",
        form,
        args=["run_id", "agency_id", "since", "until", "agency_id"],
        request={
            "agency_id": 2**31 - 1,
            "since": "2026-01-18T12:00:00.5+02:00",
        },
    )

    if form == "csv":
        assert parsed_csv(written)[1] == ["2147483647", "run-1", "2026-01-18 10:00:00.5+00", "t", "2147483647"]
    else:
        [line] = parsed_ndjson(written)
        assert line["run"] == "run-1"
        assert line["since"] == "2026-01-18T10:00:00.5+00:00"
        assert [line["agency"].value, line["again"].value, line["no_end"]] == [2147483647, 2147483647, True]


@both_formats
@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date", "text"])
async def test_times_for_every_type_of_parameter(kind: str, form: str, source: PostgresSource):
    """since and until can be compared with any type of time, in UTC."""
    written = await export(
        source,
        f"SELECT to_char($1::{kind}::timestamp, 'YYYY-MM-DD') AS day",
        form,
        args=["until"],
        request={"until": "2026-01-18T23:30:00+00:00"},
    )

    assert (parsed_csv(written)[1][0] if form == "csv" else parsed_ndjson(written)[0]["day"]) == "2026-01-18"


@both_formats
@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date", "text"])
async def test_a_request_without_times_leaves_out_no_row(kind: str, form: str, source: PostgresSource):
    """What is compared with since and until is between them, also without a guard against null."""
    times = "('4000-01-01 BC'::timestamp), ('2026-01-18'), ('9999-12-31')"
    written = await export(
        source,
        f"SELECT 1 AS one FROM (VALUES {times}) AS t (at) WHERE at >= ($1::{kind})::timestamp AND at < ($2::{kind})::timestamp",
        form,
        args=["since", "until"],
        request={},
    )

    assert len(parsed_csv(written)[1:] if form == "csv" else parsed_ndjson(written)) == 3


@both_formats
@pytest.mark.parametrize(
    ("query", "args", "message"),
    [
        ("SELECT $1::int AS a", ["nonsense"], "nonsense.*agency_id, run_id, since, until"),
        ("SELECT $1::int AS a", [], "1 parameters.*names 0"),
        ("SELECT $1::int AS a, $2::int AS b", ["agency_id"], "2 parameters.*names 1"),
        ("SELECT 1 AS a", ["agency_id"], "0 parameters.*names 1"),
        ("SELECT $2::int AS a", ["agency_id"], "parameter"),
    ],
)
async def test_args_that_do_not_match_the_query(
    query: str, args: Sequence[str], message: str, form: str, source: PostgresSource
):
    """Unknown names, and too few or too many, are told with what there is."""
    with pytest.raises(QueryInvalid, match=message):
        await export(source, query, form, args=args)


KEYS: dict[str, tuple[AgencyKey, str, str | None]] = {
    # kind of key, type of the parameter, the remedy
    "an integer for a bigint": (AgencyKey.INTEGER, "bigint", None),
    "an integer for text": (AgencyKey.INTEGER, "varchar", None),
    "an integer for a uuid": (AgencyKey.INTEGER, "uuid", "Set `agency_key: uuid`, or correct the query"),
    "an integer for a time": (AgencyKey.INTEGER, "timestamptz", "Correct the query"),
    "a uuid for a uuid": (AgencyKey.UUID, "uuid", None),
    "a uuid for text": (AgencyKey.UUID, "text", None),
    "a uuid for an integer": (AgencyKey.UUID, "int", "Set `agency_key: integer`, or correct the query"),
    "a uuid for a numeric": (AgencyKey.UUID, "numeric", "Set `agency_key: integer`, or correct the query"),
    "text for text": (AgencyKey.TEXT, "text", None),
    "text for an integer, which holds digits": (AgencyKey.TEXT, "bigint", None),
    "text for a date": (AgencyKey.TEXT, "date", "Correct the query"),
}


@pytest.mark.parametrize(("key", "type_name", "remedy"), KEYS.values(), ids=KEYS)
async def test_keys_that_no_parameter_can_hold(
    key: AgencyKey, type_name: str, remedy: str | None, source: PostgresSource
):
    """Found before a run, by the type that Postgres gives the parameter."""
    config = PostgresSourceConfig(query=f"SELECT $1::int AS a, $2::{type_name} AS b", args=("count", "agency_id"))
    async with source.snapshot({"records": config}) as snapshot:
        if remedy is None:
            snapshot.check_agency_key("records", key)
            return
        with pytest.raises(QueryInvalid, match=rf"^Dataset 'records': `agency_id` is \$2 .* {key}\. {remedy}"):
            snapshot.check_agency_key("records", key)
