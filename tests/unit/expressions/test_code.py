"""The functions that expressions become."""

from __future__ import annotations

import pytest

from pipeline_processing.expressions.code import Bind, Code, Field, Given, Local, Part, evaluated, function_of
from pipeline_processing.expressions.expression import expression
from pipeline_processing.expressions.integers import integer_of
from pipeline_processing.expressions.types import RowFault
from pipeline_processing.kinds import column_of_kind
from pipeline_processing.rows.columns import Columns, Kind

HOSTILE = "row\"]'\n    raise SystemExit #{0}"
COLUMNS = Columns((column_of_kind(HOSTILE, Kind.TEXT, "json"), column_of_kind("i", Kind.INTEGER, "json")))


def test_names_and_constants_are_values_and_never_code():
    """Whatever characters they have."""
    quoted = HOSTILE.replace('"', '""')
    text = f"""'{HOSTILE.replace("'", "''")}' || "{quoted}" """

    run = expression(text, COLUMNS, carry="json", step="derive", column="x").run

    assert run([{HOSTILE: "!"}]) == ([f"{HOSTILE}!"], {})


def test_each_row_that_cannot_be_computed_is_named_and_the_others_are_computed():
    """By position, with the reason."""
    run = function_of(Code("{0}({1})", (Given(integer_of), Field("t"))))

    assert run([{"t": "1"}, {"t": "x"}, {"t": "3"}, {"t": ""}]) == (
        [1, None, 3, None],
        {1: "the text isn't an integer", 3: "the text isn't an integer"},
    )
    assert run([]) == ([], {})


def test_rows_may_be_records():
    """Then columns are found by index."""
    run = function_of(Code("{0} + {1}", (Field("a"), Field("b"))), {"a": 2, "b": 0})

    assert run([(1, None, 10), (2, None, 20)]) == ([11, 22], {})


def test_constants_are_computed_without_a_row():
    """And raise what a row would."""
    assert evaluated(Code("{0} + {1}", (Given(1), Given(2)))) == 3
    with pytest.raises(RowFault, match="integer"):
        evaluated(Code("{0}({1})", (Given(integer_of), Given("x"))))


def test_code_may_be_deeper_than_a_function_can_be():
    """Python's parser has a limit. Parts beyond it become functions, which get the variables that they use."""
    local = Local()
    inner: Part = local
    for _ in range(1000):
        inner = Code("{0} + {1}", (inner, local))
    run = function_of(Code("{0} and {1}", (Bind(local, Field("i")), inner)))

    assert run([{"i": 2}]) == ([2002], {})


def test_a_case_may_have_thousands_of_branches():
    """As many as fit into the longest text."""
    branches = " ".join(f"WHEN {number} THEN {number + 1}" for number in range(1500))

    run = expression(f"CASE i {branches} END", COLUMNS, carry="json", step="derive", column="x").run

    assert run([{"i": number} for number in (0, 777, 1499, 1500)]) == ([1, 778, 1500, None], {})
