"""
Every type of Postgres and of its contrib extensions, with values that are easily got wrong.

For each type there is one table: the type itself, arrays, composites and domains of it, with its values and nulls.
"""

# ruff: noqa: E501 - tables of samples

from collections.abc import Sequence

import asyncpg

EXTENSIONS = (
    "citext",
    "cube",
    "earthdistance",
    "hstore",
    "intarray",
    "isn",
    "lo",
    "ltree",
    "pg_trgm",
    "seg",
    "tablefunc",
    "vector",
)


class Sql(str):
    """An expression, where a literal won't do."""


PSEUDO_TYPES = {
    # Polymorphic placeholders: every use of them is resolved to another type.
    "any", "anyarray", "anycompatible", "anycompatiblearray", "anycompatiblemultirange", "anycompatiblenonarray",
    "anycompatiblerange", "anyelement", "anyenum", "anymultirange", "anynonarray", "anyrange",
    # Kinds of functions, which have no values.
    "event_trigger", "fdw_handler", "index_am_handler", "internal", "language_handler", "pg_ddl_command",
    "table_am_handler", "trigger", "tsm_handler",
    # No table can have them, but a query can return them: see test_results_that_no_table_can_have.
    "_record", "cstring", "record", "unknown", "void",
}  # fmt: skip
"""Types that no table can have as a column."""

NO_INPUT = {
    # Made by indexes and statistics only; Postgres refuses every literal of them.
    "gtsvector", "pg_brin_bloom_summary", "pg_brin_minmax_multi_summary", "ghstore", "gtrgm", "intbig_gkey",
    "ltree_gist",
}  # fmt: skip
"""Types that can be a column, but hold nothing but nulls there."""

TEXTS = (
    "", " ", "  padded  ", "plain", "NULL", "null", r"\N", r"\.", '"', '""', "'", "\\", "\\\\", "a,b", ",", "\n", "\r",
    "\r\n", "a\nb", "a\r\nb\n", "\t", "\x01\x02\x07\b\x0b\f\x0e\x1b\x1f\x7f", "\x85", "\u2028\u2029", "\u200b\ufeff",
    "🦉👩‍👩‍👧", "e\u0301", "é", "ключ", "日本語", "\uffff\U0010ffff", "{}", "{1,2}", "[1]", "(1,)", "true", "%s %", "$1 {x}",
    "</script>", "a" * 3000, "1e400", "\\u0041", "--", ";",
)  # fmt: skip

_FLOATS = (
    "0",
    "-0",
    "NaN",
    "Infinity",
    "-Infinity",
    "0.1",
    "-1.5",
    "1",
    "100",
    "1e-4",
    "1e-5",
    "1e5",
    "1e6",
    "1234567",
)
_DATES = (
    "-infinity", "infinity", "4713-01-01 BC", "0044-03-15 BC", "0001-12-31 BC", "0001-01-01", "0999-12-31", "1970-01-01",
    "2026-01-18", "9999-12-31", "10000-01-01",
)  # fmt: skip
_TIMES = (
    "2026-01-18 10:00:00.5", "2026-01-18 10:00:00.100", "2026-01-18 10:00:00.000001", "2026-01-18 23:59:59.999999",
    "2000-02-29 00:00:00.120000", "9999-12-31 23:59:59.999999", "10000-01-01 00:00:00", "99999-06-01 01:02:03.04",
    "294276-12-31 23:59:59.999999", "4713-01-01 00:00:00.5 BC", "0001-01-01 00:00:00.000001 BC",
)  # fmt: skip
_JSONS = (
    "null", "true", "false", "0", "-0", "5", '""', '"a"', '"null"', "{}", "[]", "[[]]", '[null, true, "x", {"a": []}]',
    '{"a": 1.0, "b": 1.50, "c": 1e5, "d": -0.0, "e": 1E-7}', '{"n": 1234567890123456789012345678901234567890}',
    '{"n": 0.1234567890123456789012345678901234567890, "m": 1e400, "k": 1e-400}', '{"": "", "a b": 1, "ключ": "значение"}',
    r'{"s": "\n\r\t\b\f\u001f\u007f\"\\\/"}', '{"s": "\u2028 🦉 e\u0301"}', r'{"s": "\ud83e\udd89"}', '"a,b"', '"\'"',
)  # fmt: skip

NO_ARRAYS = {
    "pg_brin_bloom_summary", "pg_brin_minmax_multi_summary", "pg_dependencies", "pg_mcv_list", "pg_ndistinct",
    "pg_node_tree",
}  # fmt: skip
"""Types that have no array type; domains over them have one."""

SAMPLES: dict[str, Sequence[str]] = {
    "aclitem": ("pipeline=r/pipeline", "=UC/pipeline", "pipeline=arwdDxtm*/pipeline"),
    "bit": ("0", "1"),
    "bit(5)": ("00000", "10101"),
    "bool": ("t", "f"),
    "box": ("(1,2),(3,4)", "(NaN,-Infinity),(1e300,-0)"),
    "bpchar": TEXTS,
    "bpchar(5)": ("", "a", "abcde", "é"),
    "bytea": ("", r"\x00", "\\x" + bytes(range(256)).hex(), r"\x5c22270a0d2c"),
    '"char"': ("", "a", '"', ",", "\\", r"\200", "\n", r"\377"),
    "cid": ("0", "4294967295"),
    "cidr": ("10.0.0.0/8", "192.168.1.1/32", "::/0", "2001:db8::/32", "::ffff:1.2.3.4/128"),
    "circle": ("<(1,2),3>", "<(-0,1e-300),NaN>"),
    "date": (*_DATES, "5874897-12-31"),
    "float4": (*_FLOATS, "1e-45", "1.1754944e-38", "3.4028235e38", "123456.7", "16777216", "1.17549435e-38", "3.14159"),
    "float8": (
        *_FLOATS, "5e-324", "2.2250738585072014e-308", "1.7976931348623157e308", "1e14", "1e15", "999999999999999", "1e16",
        "1e17", "1e20", "1e22", "1e23", "0.30000000000000004", "9007199254740993", "3.141592653589793", "-1e-300",
    ),
    "gtsvector": (),
    "inet": ("10.1.2.3", "10.1.2.3/8", "::1", "2001:db8::1/64", "::ffff:1.2.3.4", "0.0.0.0/0"),
    "int2": ("0", "-32768", "32767"),
    "int4": ("0", "-2147483648", "2147483647"),
    "int8": ("0", "-9223372036854775808", "9223372036854775807", "9007199254740993"),
    "interval": (
        "0", "1 year -2 months +3 days -04:05:06.789", "-1 mon", "1 day -00:00:00.000001", "178000000 years",
        "-178000000 years", "2 days", "00:00:01.100000", "-00:00:01", "infinity", "-infinity", "99999:59:59",
    ),
    "json": (
        *_JSONS, '{"a": 1, "a": 2, "b": {"c": 1, "c": [1, 2]}}', '{\n\t"a":\r\n [1,\r2]\n}', " 5 ", '\n"x"\r\n', " null ",
        " true", '{"a" : 1e400, "b":1E+2, "c":-0e0}', r'{"nul": "\u0000"}', r'["\ud800", "\udc00\ud800"]',
        "[" * 60 + "]" * 60, '{"b":1,"a":2,"aa":3}', '[1,1.0,1.00,true,"1"]', '{"a":null}', r'"\u0041"', "1e5", "1.50",
        "1" * 5000,
    ),
    "jsonb": (*_JSONS, '{"b":1,"a":2,"aa":3}', "1e400", '[1,1.0,1.00,true,"1"]', "1e5", "1.50", '{"a":null}'),
    "jsonpath": ("$", '$."a b"[*] ? (@.x > 1 && @ like_regex "^a\\"")', "strict $.a"),
    "line": ("{1,2,3}", "{-0,1,NaN}"),
    "lseg": ("[(1,2),(3,4)]",),
    "macaddr": ("08:00:2b:01:02:03",),
    "macaddr8": ("08:00:2b:01:02:03:04:05",),
    "money": ("0", "1234567.89", "-1234567.89", "-92233720368547758.08", "92233720368547758.07", "0.05"),
    "name": tuple(text for text in TEXTS if len(text.encode()) < 64),
    "numeric": (
        "0", "-0", "0.00", "NaN", "Infinity", "-Infinity", "1.50", "-1.500", "1e-30", "1e30", "1e400", "-1e-400",
        "1234567890123456789012345678901234567890", "0.1234567890123456789012345678901234567890", "1e131071",
        "0." + "0" * 16000 + "1", "9007199254740993", "99999999999999999999.000",
    ),
    "numeric(10,3)": ("1", "-0.5", "1234567.891"),
    "oid": ("0", "4294967295"),
    "path": ("[(1,2),(3,4)]", "((1,2),(3,4))"),
    "pg_brin_bloom_summary": (),
    "pg_brin_minmax_multi_summary": (),
    "pg_dependencies": (Sql("(SELECT stxddependencies FROM pg_statistic_ext_data LIMIT 1)"),),
    "pg_lsn": ("0/0", "FFFFFFFF/FFFFFFFF", "16/B374D848"),
    "pg_mcv_list": (Sql("(SELECT stxdmcv FROM pg_statistic_ext_data LIMIT 1)"),),
    "pg_ndistinct": (Sql("(SELECT stxdndistinct FROM pg_statistic_ext_data LIMIT 1)"),),
    "pg_node_tree": (Sql("(SELECT adbin FROM pg_attrdef ORDER BY oid LIMIT 1)"),),
    "pg_snapshot": ("10:20:10,14,15",),
    "point": ("(1,2)", "(-0,NaN)", "(Infinity,1e-320)", "(0.1,1e15)"),
    "polygon": ("((1,2),(3,4),(5,6))",),
    "refcursor": ("a cursor", ""),
    "regclass": ("pg_class", "0", "4000000000", '"statistics of it"'),
    "regcollation": ('"C"', '"POSIX"'),
    "regconfig": ("english",),
    "regdictionary": ("simple",),
    "regnamespace": ("pg_catalog",),
    "regoper": ("||/", "0"),
    "regoperator": ("+(integer,integer)",),
    "regproc": ("now", "0"),
    "regprocedure": ("sum(bigint)",),
    "regrole": ("pipeline",),
    "regtype": ("integer", "timestamp with time zone", '"char"', "text[]"),
    "text": TEXTS,
    "tid": ("(0,1)", "(4294967295,65535)"),
    "time": ("00:00:00", "24:00:00", "23:59:60", "10:00:00.5", "10:00:00.000001", "10:00:00.120"),
    "timestamp": (*_DATES, *_TIMES),
    "timestamp(2)": ("2026-01-18 10:00:00.129", "2026-01-18 10:00:00.5"),
    "timestamptz": (*_DATES, *_TIMES, "2026-01-18 10:00:00+05:30", "2026-01-18 10:00:00.1-12", "0001-01-01 00:00:00+10"),
    "timetz": ("00:00:00+00", "24:00:00+00", "10:00:00.5-03:30", "23:59:59+15:59:59", "12:00:00+01:02:03"),
    "tsquery": ("", "a & b | !c", "'it''s' <-> 'x y':AB*", r"'\\'"),
    "tsvector": ("", "a b:1A,2 'c d':3", "'it''s' 'x\\\\y':65535"),
    "txid_snapshot": ("10:20:10,14,15",),
    "uuid": ("00000000-0000-0000-0000-000000000000", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"),
    "varbit": ("", "0", "101010101010101010101"),
    "varchar": TEXTS,
    "varchar(5)": ("", "ééééé"),
    "xid": ("0", "4294967295"),
    "xid8": ("0", "18446744073709551615"),
    # The wheel's server has no libxml, which reading xml takes, but not printing it.
    "xml": tuple(
        Sql(f"'\\x{text.encode().hex()}'::bytea")
        for text in ("<a>1</a>", '<a b="&quot;,">\n\r\n🦉<c/>\\</a>', "text only", "")
    ),
    # Vectors of the catalogs: arrays in all but name.
    "int2vector": ("", "1 2 3"),
    "oidvector": ("", "1 4294967295"),
    # Ranges
    "datemultirange": ("{}", "{[2026-01-01,2026-02-01),[2027-01-01,infinity)}"),
    "daterange": ("empty", "(,)", "[2026-01-01,2026-02-01)", "[infinity,)", "[4713-01-01 BC,0001-01-01)"),
    "int4multirange": ("{}", "{[1,2),[5,)}"),
    "int4range": ("empty", "(,)", "[1,5]", "(,3)"),
    "int8multirange": ("{(,-9223372036854775807)}",),
    "int8range": ("[9007199254740993,)",),
    "nummultirange": ("{[1.50,1e30],(NaN,)}", "{}"),
    "numrange": ("[1.50,2.00]", "(-Infinity,NaN)", "[1e-30,1e30]"),
    "tsmultirange": ('{["2026-01-01 00:00:00.5","2026-02-01 00:00:00"]}',),
    "tsrange": ('["0100-01-01","2026-01-01 00:00:00.1"]', "[,infinity]"),
    "tstzmultirange": ('{["2026-01-01 00:00:00+05","2026-02-01 00:00:00+00"]}', "{}"),
    "tstzrange": ('["4713-01-01 00:00:00+00 BC","294276-12-31 00:00:00+00")', "empty", "(,)"),
    # Extensions
    "citext": TEXTS,
    "cube": ("(1,2),(3,4)", "(0.1)", "()"),
    "ean13": ("978-0-393-04002-9",),
    "earth": (Sql("ll_to_earth(52.5, 13.4)"),),
    "ghstore": (),
    "gtrgm": (),
    "halfvec": ("[1,0.1,-65504]",),
    "hstore": (
        "", '"a"=>NULL', '"a"=>"NULL", "b"=>"", ""=>"x"', '"a b"=>"1.50", "q\\"k"=>"\\\\", "ключ"=>"🦉\n,"', "t=>true, n=>1e5",
    ),
    "intbig_gkey": (),
    "isbn": ("0-393-04002-X",),
    "isbn13": ("978-0-393-04002-9",),
    "ismn": ("M-060-11561-5",),
    "ismn13": ("979-0-060-11561-5",),
    "issn": ("1436-4522",),
    "issn13": (Sql("issn13('1436-4522'::issn)"),),
    "lo": ("0", "4294967295"),
    "lquery": ("a.*{1,2}.b|c@",),
    "ltree": ("", "a.b_c.d1"),
    "ltree_gist": (),
    "ltxtquery": ("a & b*@ | !c",),
    "query_int": ("1&(2|!3)",),
    "seg": ("1.50", "<1", "0.1 .. 2.00", "~5", "1 .. "),
    "sparsevec": ("{1:0.5,3:1e-7}/5",),
    "upc": ("220356483481",),
    "vector": ("[1,0.1,1e-7,3.4028235e38]",),
    # The user's own: see _USER_TYPES
    "mood": ("happy", "it's", "a b", 'q"uote', "comma,", "ключ 🦉", "back\\slash", "NULL", "{}"),
    "mood_as_json": ("low", "high"),
    "celsius": (Sql("ROW(1.50)::celsius"), Sql("ROW(NULL)::celsius")),
    "celsius_domain": (Sql("ROW(2)::celsius"),),
    "text_domain": TEXTS[:12],
    "text_domain_domain": ("a", "", '"'),
    "numeric_domain": ("1.50", "NaN", "1e40"),
    "float_domain": ("1e15", "-0"),
    "json_domain": ('{"a": 1, "a": 2}', "\n[1]\n", "null", '"x"'),
    "jsonb_domain": ('{"a": 1.50}', "null"),
    "timestamptz_domain": ("2026-01-18 10:00:00.5+02", "infinity"),
    "array_domain": ("{}", "{1,NULL,3}", "[0:1]={1,2}", "{{1,2},{3,4}}"),
    "composite_domain": (Sql("ROW(1, 'x', NULL, ROW(2, NULL))::nested"),),
    "mood_domain": ("happy", "a b"),
    "mood_range": ('[happy,"a b"]', "empty"),
    "float_range": ("[-0,1e15]", "(-Infinity,NaN)"),
    "mood_multirange": ("{}", '{[happy,"a b"]}'),
    "nested": (
        Sql("ROW(1, 'a', ARRAY['x', NULL, ''], ROW(2, '{\"a\": 1.50}'))::nested"),
        Sql("ROW(NULL, NULL, NULL, NULL)::nested"),
        Sql("ROW(NULL, '', '{}', ROW(NULL, NULL))::nested"),
        Sql("ROW(0, E'q\",()\\\\\\n', '[0:1]={a,b}', NULL)::nested"),
    ),
    "empty_composite": (Sql("ROW()::empty_composite"),),
    "pg_class": (Sql("(SELECT c FROM pg_class c WHERE relname = 'pg_proc')"),),
    "pg_attrdef": (Sql("(SELECT d FROM pg_attrdef d ORDER BY oid LIMIT 1)"),),
    "other.numeric": (Sql("ROW(1, 2)::other.numeric"),),
    "other.json": ("a b", "{}"),
}  # fmt: skip
"""Type → literals of it, or expressions."""

_USER_TYPES = r"""
CREATE TYPE mood AS ENUM ('happy', 'it''s', 'a b', 'q"uote', 'comma,', 'ключ 🦉', 'back\slash', 'NULL', '{}');
CREATE TYPE mood_as_json AS ENUM ('low', 'high');
CREATE FUNCTION to_level(mood_as_json) RETURNS json LANGUAGE sql IMMUTABLE
    AS $$ SELECT json_build_object('level', CASE $1 WHEN 'low' THEN 1 ELSE 2 END) $$;
CREATE CAST (mood_as_json AS json) WITH FUNCTION to_level(mood_as_json);
CREATE TYPE celsius AS (degrees numeric);
CREATE FUNCTION to_degrees(celsius) RETURNS json LANGUAGE sql IMMUTABLE
    AS $$ SELECT json_build_object('celsius', $1.degrees, 'unit', E'°C\n') $$;
CREATE CAST (celsius AS json) WITH FUNCTION to_degrees(celsius);
CREATE DOMAIN celsius_domain AS celsius;
CREATE DOMAIN text_domain AS text;
CREATE DOMAIN text_domain_domain AS text_domain CHECK (length(VALUE) < 100);
CREATE DOMAIN numeric_domain AS numeric;
CREATE DOMAIN float_domain AS float8;
CREATE DOMAIN json_domain AS json;
CREATE DOMAIN jsonb_domain AS jsonb;
CREATE DOMAIN timestamptz_domain AS timestamptz;
CREATE DOMAIN array_domain AS int[];
CREATE DOMAIN mood_domain AS mood;
CREATE TYPE inner_type AS (a int, "b c" jsonb);
CREATE TYPE nested AS (a int, "b ""c" text, "list, ключ" text[], d inner_type);
CREATE DOMAIN composite_domain AS nested;
CREATE TYPE empty_composite AS ();
CREATE TYPE mood_range AS RANGE (subtype = mood);
CREATE TYPE float_range AS RANGE (subtype = float8);
CREATE CAST (bytea AS xml) WITHOUT FUNCTION;
-- Types named like those that are carried, and nothing like them.
CREATE SCHEMA other;
CREATE TYPE other.numeric AS (x int, y int);
CREATE TYPE other.json AS ENUM ('a b', '{}');
"""

_STATISTICS = """
CREATE TABLE "statistics of it" (a int DEFAULT 1 + 1, b int);
INSERT INTO "statistics of it" SELECT i % 5, i % 5 FROM generate_series(1, 100) i;
CREATE STATISTICS of_a_and_b ON a, b FROM "statistics of it";
ANALYZE "statistics of it";
"""


def table(type_name: str) -> str:
    """The name of a type's table, quoted."""
    return '"torture ' + type_name.replace('"', '""') + '"'


async def create(connection: asyncpg.Connection) -> None:
    """All tables of the torture."""
    for extension in EXTENSIONS:
        await connection.execute(f"CREATE EXTENSION {extension}")
    await connection.execute(_USER_TYPES)
    await connection.execute(_STATISTICS)
    for number, (type_name, samples) in enumerate(SAMPLES.items()):
        await connection.execute(_table_of(type_name, samples, number))


def _table_of(type_name: str, samples: Sequence[str], number: int) -> str:
    """
    For every value: itself; in arrays of one and two dimensions with nulls and a lower bound that isn't 1; in a
    composite with quoted names; in an array of those; in a domain. Then rows of nulls, and of empty things.
    """
    pair, domain = f"pair_{number}", f"domain_{number}"
    element = domain if type_name in NO_ARRAYS else type_name
    values = [f"CAST({sample if isinstance(sample, Sql) else _literal(sample)} AS {type_name})" for sample in samples]
    rows = [
        f"({i}, {value}, ARRAY[{value}, NULL, {values[i - 1]}]::{element}[], "
        f"ARRAY[[{value}, NULL], [NULL, {value}]]::{element}[], "
        f"ROW({value}, array_fill({value}::{element}, ARRAY[2], ARRAY[-1]))::{pair}, "
        f"ARRAY[ROW(NULL, ARRAY[{value}]::{element}[])::{pair}, NULL], {value})"
        for i, value in enumerate(values)
    ]
    empty = (
        f"'{{}}', array_fill(NULL::{element}, ARRAY[3], ARRAY[0]), ROW(NULL, NULL)::{pair}, "
        f"ARRAY[ROW(NULL, '{{}}')::{pair}], NULL"
    )
    rows += [f"({len(rows)}, NULL, NULL, NULL, NULL, NULL, NULL)", f"({len(rows) + 1}, NULL, {empty})"]
    return f"""
        CREATE DOMAIN {domain} AS {type_name};
        CREATE TYPE {pair} AS ("one ""a"" b" {type_name}, "two, 2" {element}[]);
        CREATE TABLE {table(type_name)} (id int, value {type_name}, list {element}[], "grid" {element}[],
            "a pair" {pair}, "pairs" {pair}[], "Domain" {domain});
        INSERT INTO {table(type_name)} VALUES {", ".join(rows)};
    """


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
