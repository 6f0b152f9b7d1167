"""Rows that convert a value when it is read, compiled and as they are written."""

import csv
import io
import itertools
import json
import operator
import pickle
import re
from collections import ChainMap, OrderedDict
from collections.abc import Callable, MutableMapping
from copy import copy, deepcopy
from decimal import Decimal
from functools import partial
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from pydantic import BaseModel, TypeAdapter

from pipeline_processing.rows import lazy_row as installed
from pipeline_processing.rows.loops import decimal_of, document_of, float_of
from tests.unit.rows.as_written import as_written

NATURALS: dict[str, Any] = {"amount": decimal_of, "rate": float_of, "doc": document_of}
CARRIED = {
    "id": 1,
    "amount": Raw(b"1.50"),
    "rate": Raw(b"1e23"),
    "name": "x",
    "doc": Raw(b'{"a": 1.0, "tags": ["n", {}]}'),
    "none": None,
}
NATURAL = {
    "id": 1, "amount": Decimal("1.50"), "rate": 1e23, "name": "x", "doc": {"a": Decimal("1.0"), "tags": ["n", {}]},
    "none": None,
}  # fmt: skip

Change = Callable[[Any], Any]


@pytest.fixture(params=[installed, as_written(installed)], ids=["installed", "as written"])
def lazy_row(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def row(lazy_row: Any) -> Any:
    [made] = lazy_row.lazy_rows([CARRIED], NATURALS)
    return made


def matched(row: Any) -> Any:
    match row:
        case {"amount": Decimal() as amount, "none": None, **rest}:
            return amount, rest
    return None


def written(row: Any) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(row))
    writer.writerow(row)
    return out.getvalue()


def arguments(**values: Any) -> dict[str, Any]:
    return values


def raised(change: Change, row: Any) -> Any:
    """What it returns, or the type and arguments of what it raises."""
    try:
        return change(row)
    except Exception as error:
        return type(error), error.args


class Model(BaseModel):
    """Some columns."""

    id: int
    amount: Decimal
    doc: dict[str, Any]


# -- a dict --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        lambda row: row["amount"],
        lambda row: row["no"],
        lambda row: row[[]],
        lambda row: (row.get("rate"), row.get("no"), row.get("no", 5), row.get("none", 5), row.get("id")),
        lambda row: ("rate" in row, "no" in row, len(row), bool(row)),
        list,
        lambda row: list(reversed(row)),
        lambda row: list(row.keys()),
        lambda row: list(row.values()),
        lambda row: list(row.items()),
        lambda row: list(reversed(row.items())),
        lambda row: ("amount", Decimal("1.50")) in row.items(),
        lambda row: row.keys() & {"id", "rate"},
        lambda row: [row.pop("rate"), row.pop("rate", 5), row.pop("id")],
        lambda row: row.pop("no"),
        lambda row: [row.popitem() for _ in range(3)],
        lambda row: [row.setdefault("rate", 5), row.setdefault("new", 5), row.setdefault("none", 5)],
        lambda row: row.update({"rate": 5}, amount=6),
        lambda row: row.update([("rate", 5)]),
        lambda row: row.clear(),
        lambda row: operator.setitem(row, "rate", None),
        lambda row: [row.pop("rate"), operator.setitem(row, "rate", 7)],
        lambda row: operator.delitem(row, "rate"),
        lambda row: operator.delitem(row, "no"),
        lambda row: operator.setitem(row, "moved", row.pop("doc")),
        lambda row: row["doc"]["tags"].append(1),
        lambda row: row | {"rate": 5, "new": 6},
        lambda row: {"rate": 5, "new": 6} | row,
        lambda row: row | [("rate", 5)],
        lambda row: operator.ior(row, {"rate": 5, "new": 6}) and None,
        lambda row: operator.ior({"rate": 5, "new": 6}, row),
        dict,
        lambda row: {**row, "rate": 5},
        lambda row: arguments(**row),
        lambda row: dict(row, rate=5),
        dict.copy,
        lambda row: row.copy(),
        copy,
        deepcopy,
        lambda row: deepcopy([row, row]),
        lambda row: pickle.loads(pickle.dumps(row)),
        lambda row: row.fromkeys(["a"], 1),
        lambda row: type(row)(row, new=1),
        lambda row: type(row)().copy(),
        OrderedDict,
        lambda row: dict(ChainMap({}, row)),
        lambda row: (row == NATURAL, row != NATURAL, row == NATURAL, row == {}, row == 5, row != {}, row == row.copy()),
        repr,
        str,
        hash,
        matched,
        written,
        lambda row: json.dumps(row, default=str),
        lambda row: json.dumps([row], default=str, indent=1, sort_keys=True),
        lambda row: "{rate} {name}".format(**row),
        lambda row: "{rate} {name}".format_map(row),
        lambda row: "%(rate)s %(name)s" % row,  # noqa: UP031  # as functions of users do
        lambda row: operator.itemgetter("rate", "amount")(row),
        lambda row: sorted([row, {"rate": 1.0}], key=lambda each: each["rate"])[0],
        lambda row: [list(group) for _, group in itertools.groupby([row, row], operator.itemgetter("amount"))],
        lambda row: Model(**row),
        Model.model_validate,
        TypeAdapter(dict[str, Any]).validate_python,
        lambda row: eval("rate + 1", {}, row),  # as rules of users do
        lambda row: (isinstance(row, dict), isinstance(row, MutableMapping)),
    ],
)
def test_it_behaves_like_the_dict_of_natural_values(row: Any, use: Change):
    """In what is returned, raised, and left in it, with its order."""
    plain = deepcopy(NATURAL)

    expected, found = raised(use, plain), raised(use, row)

    assert re.sub(r"(pipeline_processing\.rows\.lazy_row\.)?LazyRow", "dict", repr(found)) == repr(expected)
    assert repr(list(row.items())) == repr(list(plain.items()))


def test_a_value_is_converted_once_and_only_when_it_is_read(lazy_row: Any):
    asked: list[Any] = []
    [row] = lazy_row.lazy_rows([{"a": 1, "b": 2, "c": None}], dict.fromkeys("abc", lambda value: [asked.append(value)]))

    document = row["a"]
    assert row.get("a") is row.pop("a") is document
    row["b"] = 5
    assert (row["b"], row["c"], asked) == (5, None, [1])


@pytest.mark.parametrize("change", [lambda row: operator.setitem(row, "a", 5), lambda row: row.clear()])
def test_what_another_thread_does_while_a_value_is_converted_stays(lazy_row: Any, change: Change):
    """It may set the value, or remove it."""

    def convert(value: int) -> int:
        change(row)
        return value

    [row] = lazy_row.lazy_rows([{"a": 1}], {"a": convert})
    plain = {"a": 1}
    change(plain)

    assert row["a"] == 1
    assert dict(row) == plain


def test_a_copy_is_lazy_and_has_its_own_values(row: Any):
    """As of a dict, documents are shared; those of a deep copy aren't."""
    shallow, deep, joined = row.copy(), deepcopy(row), row | {"new": 1}

    row["amount"] = 5
    assert shallow["amount"] == deep["amount"] == joined["amount"] == Decimal("1.50")
    assert shallow["doc"] is joined["doc"] is row["doc"]
    assert deep["doc"] is not row["doc"]


@pytest.mark.parametrize(
    "read",
    [
        orjson.dumps,
        partial(orjson.dumps, default=str),
        partial(orjson.dumps, default=repr),
        msgspec.json.encode,
        partial(msgspec.json.encode, enc_hook=str),
        partial(msgspec.json.encode, enc_hook=repr),
        lambda row: next(iter(set(dict.values(row)))),
        lambda row: pickle.dumps(list(dict.values(row))),
        lambda row: any(value == 5 for value in dict.values(row)),
        lambda row: [f"{value}" for value in dict.values(row)],
        lambda row: [value or None for value in dict.values(row)],
    ],
)
def test_code_that_reads_it_past_its_methods_fails(row: Any, read: Change):
    """It never takes a carried value for a natural one. What is read already is there, and a copy has everything."""
    with pytest.raises(TypeError):
        read(row)

    assert "ValueNotRead" in [type(value).__name__ for value in dict.values(row)]
    assert orjson.loads(orjson.dumps(dict(row), default=str))["amount"] == "1.50"


# -- what is written -----------------------------------------------------------------------------


def left(lazy_row: Any, change: Change, *, dicts: bool = False) -> Any:
    """The row that is written after a function has changed what it got."""
    carried = dict(CARRIED)
    rows = lazy_row.lazy_rows([carried], NATURALS)
    [got] = lazy_row.plain_rows(rows) if dicts else rows
    returned = change(got)
    [row] = lazy_row.carried_rows(rows, [got if returned is None else returned], NATURALS)
    assert carried == CARRIED
    return row


@pytest.mark.parametrize("dicts", [False, True])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda row: None, CARRIED),
        (lambda row: list(row.values()) and None, CARRIED),
        (lambda row: row.copy(), CARRIED),
        (dict, CARRIED),
        (OrderedDict, CARRIED),
        (deepcopy, CARRIED),
        (lambda row: row | {"name": "y"}, CARRIED | {"name": "y"}),
        (lambda row: {**row, "new": 5}, CARRIED | {"new": 5}),
        (lambda row: row.update(amount=None, none=[2], rate=2.5), CARRIED | {"amount": None, "none": [2], "rate": 2.5}),
        (lambda row: row.update(amount=Decimal("1.50")), CARRIED | {"amount": Decimal("1.50")}),
        (lambda row: row.update(doc=deepcopy(row["doc"])), CARRIED),
        (lambda row: row.update(doc=deepcopy(NATURAL["doc"])), CARRIED),
        (lambda row: row.update(new=deepcopy(row["doc"]), none={}), CARRIED | {"new": CARRIED["doc"], "none": {}}),
        (lambda row: row.update(none=row["doc"]), CARRIED | {"none": CARRIED["doc"]}),
        (lambda row: row.update(id=row["rate"]), CARRIED | {"id": Raw(b"1e23")}),
        (lambda row: dict(row.copy(), b=row.copy()["rate"]), CARRIED | {"b": Raw(b"1e23")}),
        (lambda row: dict(deepcopy(row), b=row["rate"]), CARRIED | {"b": Raw(b"1e23")}),
        (lambda row: (row.copy(), row["doc"].clear())[0], CARRIED | {"doc": {}}),
        (lambda row: (row | {"new": 1}, row["doc"].clear())[0], CARRIED | {"doc": {}, "new": 1}),
        (lambda row: row.update(doc=[]), CARRIED | {"doc": []}),
        (lambda row: row.update(doc=5), CARRIED | {"doc": 5}),
        (lambda row: row["doc"].pop("a") and None, CARRIED | {"doc": {"tags": ["n", {}]}}),
        (lambda row: row["doc"]["tags"].append(1), CARRIED | {"doc": {"a": Decimal("1.0"), "tags": ["n", {}, 1]}}),
        (lambda row: row["doc"].update(a=1), CARRIED | {"doc": {"a": 1, "tags": ["n", {}]}}),
        (lambda row: {"amount": row["amount"], "b": row["rate"]}, {"amount": Raw(b"1.50"), "b": Raw(b"1e23")}),
        (lambda row: operator.setitem(row, "amount", row.pop("amount")), None),
        (lambda row: dict(reversed(row.items())), None),
        (lambda row: type(row)(row), CARRIED),
        (lambda row: {}, {}),
    ],
)  # fmt: skip
def test_what_is_left_alone_is_written_as_it_was_read(lazy_row: Any, change: Change, expected: Any, dicts: bool):
    """Also if it was read, moved or, of documents, copied. The row that came isn't changed."""
    row = left(lazy_row, change, dicts=dicts)

    assert type(row) is dict
    if expected is None:  # another order
        [got] = lazy_row.plain_rows(lazy_row.lazy_rows([CARRIED], NATURALS))
        assert row == CARRIED
        assert list(row) == list(change(got) or got) != list(CARRIED)
    else:
        assert row == expected
        assert list(row) == list(expected)
        assert all(row[name] is CARRIED[name] for name in row if row[name] == CARRIED.get(name, 0))


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("ab\ud800"),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text("ab", max_size=1), some, max_size=3),
)


@given(DOCUMENTS, st.sampled_from([(",", ":"), (", ", ": ")]), st.booleans())
def test_untouched_documents_stay_carried(document: Any, separators: Any, is_read: bool):
    text = json.dumps(document, separators=separators)
    for lazy_row in (installed, as_written(installed)):
        for carried, natural in ((Raw(text.encode()), document_of), (text, json.loads)):
            naturals = {"doc": natural}
            given_rows = lazy_row.lazy_rows([{"doc": carried}], naturals)
            if is_read:
                got = given_rows[0]["doc"]
            assert lazy_row.carried_rows(given_rows, given_rows, naturals) == [{"doc": carried}]
            if is_read and isinstance(got, dict | list):
                (got.append if isinstance(got, list) else partial(got.__setitem__, "new"))(None)
                assert lazy_row.carried_rows(given_rows, given_rows, naturals)[0]["doc"] is got


def test_rows_may_be_kept_moved_and_returned_later(lazy_row: Any):
    """Each knows its own values, whatever place it is returned at."""
    first, other = (lazy_row.lazy_rows([CARRIED | {"id": number}], NATURALS) for number in (1, 2))
    first[0]["name"] = "y"
    again = first[0].copy()

    assert lazy_row.carried_rows(other, first, NATURALS) == [CARRIED | {"name": "y"}]
    again["amount"] = 5
    assert lazy_row.carried_rows(other, [again], NATURALS) == [CARRIED | {"name": "y", "amount": 5}]
    assert first[0]["amount"] == Decimal("1.50")


def test_null_in_json_is_not_null(lazy_row: Any):
    """Read or not, it is written as it came, and so passes a check for nulls."""
    naturals = {"doc": document_of, "set": document_of}
    rows = lazy_row.lazy_rows([{"doc": Raw(b"null"), "other": Raw(b"null"), "set": Raw(b"[]")}], naturals)
    rows[0]["set"] = rows[0]["doc"]

    for returned in (rows, [dict(rows[0])], [rows[0] | {"new": 1}]):
        [row] = lazy_row.carried_rows(rows, returned, naturals)
        assert (row["doc"], row["other"], row["set"]) == (Raw(b"null"), Raw(b"null"), None)


def test_where_it_is_unknown_what_rows_were_made_of(lazy_row: Any):
    """Lazy ones know it themselves, of others the values are written."""
    rows = lazy_row.lazy_rows([CARRIED, CARRIED], NATURALS)

    assert lazy_row.carried_rows(None, [rows[1].copy(), dict(rows[0])], NATURALS) == [CARRIED, NATURAL]


@pytest.mark.parametrize("where", [None, [{}], [CARRIED | {"amount": Raw(b"2"), "doc": None}]])
def test_a_row_of_another_dataset_has_natural_values(lazy_row: Any, where: Any):
    """A function may keep it. The other dataset's format may carry values in another form."""
    [kept] = lazy_row.lazy_rows([CARRIED], dict(NATURALS))
    given_rows = where and lazy_row.lazy_rows(where, NATURALS)

    assert lazy_row.carried_rows(given_rows, [kept], NATURALS) == [NATURAL]


def test_values_taken_past_the_methods_are_refused(lazy_row: Any):
    for names in (list(CARRIED), ["doc"]):
        with pytest.raises(lazy_row.ReadPastMethods, match="give it `dict"):
            left(lazy_row, lambda row, names=names: {name: dict.get(row, name) for name in names})
