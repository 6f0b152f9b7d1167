"""
The native reader writes values as Postgres does, to the byte.

Values are random bits of the types' binary form, which Postgres itself reads in. test_values.py has whole exports.
"""

import struct
from collections.abc import Callable
from io import BytesIO
from random import Random

import asyncpg
import pytest

from pipeline_processing.model import CsvOptions
from pipeline_processing.ports import Template
from tests.contract.source.reading import postgres
from tests.unit.sources.postgres.copied import DONE, HEADER, TRAILER, CopyStream, message, numeric, row

JSON = Template(((0, b""),), b"\n")
CSV = Template(((0, b""),), b"\n", CsvOptions())

FIRST_DAY, DAYS = -2_451_545, 2_147_483_494
DAY = 86_400_000_000


def float8(random: Random) -> bytes:
    match random.randrange(4):
        case 0:
            return struct.pack("!d", beside_a_middle(random, bits=53))
        case 1:
            return struct.pack(
                "!d", random.randrange(10 ** random.randrange(1, 18)) / 10.0 ** random.randrange(-20, 24)
            )
        case _:
            return random.randbytes(8)


def float4(random: Random) -> bytes:
    match random.randrange(4):
        case 0:
            return struct.pack("!f", beside_a_middle(random, bits=24))
        case 1:
            return struct.pack("!f", random.randrange(10 ** random.randrange(1, 9)) / 10.0 ** random.randrange(-20, 20))
        case _:
            return random.randbytes(4)


def beside_a_middle(random: Random, *, bits: int) -> float:
    """A float next to a decimal of few digits that lies exactly in the middle between two floats."""
    power = random.randrange(int(bits / 2.3))
    middle = 5**power * (random.randrange(2**bits // 5**power, 2 ** (bits + 1) // 5**power) | 1)
    return float((middle + random.choice([-1, 1])) * 2 ** (power + random.randrange(12)))


def any_numeric(random: Random) -> bytes:
    sign = random.choice([0, 0, 0, 0, 0x4000, 0x4000, 0x4000, 0xC000, 0xD000, 0xF000])
    if sign > 0x4000:
        return numeric([], 0, 0, sign)
    digits = [random.choice([0, 1, 10, 9999, random.randrange(10_000)]) for _ in range(random.randrange(10))]
    largest = random.choice([3, 10, 100])
    return numeric(digits, random.randrange(-largest, largest), random.randrange(4 * largest), sign)


def day(random: Random) -> bytes:
    days = random.choice([random.randrange(FIRST_DAY, DAYS + FIRST_DAY), random.randrange(-800_000, 3_000_000)])
    return struct.pack("!i", random.choice([days] * 50 + [2**31 - 1, -(2**31)]))


def moment(random: Random) -> bytes:
    near = random.randrange(-800_000 * DAY, 3_000_000 * DAY)
    moments = [
        random.randrange(-211_813_488_000_000_000, 9_223_371_331_200_000_000),
        near,
        near // 10**5 * 10**5,
        near // DAY * DAY,
    ]
    return struct.pack("!q", random.choice(moments * 20 + [2**63 - 1, -(2**63)]))


def text(random: Random) -> bytes:
    characters = random.choice(['",;\\\r\n\t', "abc", "\x01\x1f\x7f\x80é\u2028🦉", "a\\."])
    return "".join(random.choices(characters + "x" * random.randrange(40), k=random.randrange(60))).encode()


VALUES: dict[str, Callable[[Random], bytes]] = {
    "bool": lambda random: random.choice([b"\0", b"\1"]),
    "int2": lambda random: random.randbytes(2),
    "int4": lambda random: random.randbytes(4),
    "int8": lambda random: random.randbytes(8),
    "float4": float4,
    "float8": float8,
    "numeric": any_numeric,
    "uuid": lambda random: random.randbytes(16),
    "date": day,
    "timestamp": moment,
    "timestamptz": moment,
    "text": text,
}


MANY = ("float4", "float8", "numeric", "date", "timestamp", "timestamptz")


@pytest.mark.parametrize(
    ("type_name", "count"),
    [
        *((type_name, 2_000) for type_name in VALUES),
        *(pytest.param(type_name, 1_000_000, marks=pytest.mark.long) for type_name in MANY),
    ],
)
async def test_values_are_written_as_postgres_writes_them(dsn: str, type_name: str, count: int):
    """As JSON and in CSV."""
    random = Random(count)
    values = b"".join(row(VALUES[type_name](random)) for _ in range(count))
    async with postgres(dsn) as connection:
        await connection.execute(f"CREATE TEMPORARY TABLE sample (v {type_name})")
        await connection.copy_to_table("sample", source=BytesIO(HEADER + values + TRAILER), format="binary")

        binary = await copied(connection, "SELECT v FROM sample", "binary")
        csv = await copied(connection, "SELECT v FROM sample", "csv")
        # as text, COPY doubles backslashes
        json = await copied(connection, "SELECT string_agg(to_json(v)::text, E'\\n') || E'\\n' FROM sample", "binary")

    assert lines(type_name, JSON, binary) == json[len(row(b"")) + len(HEADER) : -len(TRAILER)].splitlines()
    assert lines(type_name, CSV, binary) == csv.splitlines()


async def copied(connection: asyncpg.Connection, query: str, format: str) -> bytes:  # noqa: A002 - COPY's word
    """What COPY writes."""
    written = BytesIO()
    await connection.copy_from_query(query, output=written, format=format)
    return written.getvalue()


def lines(type_name: str, line: Template, binary: bytes) -> list[bytes]:
    """What the native reader makes of what COPY has written."""
    stream = CopyStream([type_name], line, carry="text" if line.csv else "json")
    assert stream.feed(message(b"d", binary) + DONE) == DONE
    return bytes(stream.take()).splitlines()
