"""What is known of a dataset's columns, step by step."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.errors import InvalidStep, UnknownColumn
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Column, Columns, Kind, unknown

ID = Column("id", kind=Kind.INTEGER, origins=frozenset({"id"}), unchanged=True)
NAME = Column("name", kind=Kind.TEXT, origins=frozenset({"name"}), unchanged=True)
NOTE = Column("note")
ALL = Columns((ID, NAME, NOTE))
SOME = Columns((ID, NAME), complete=False)


# -- what is there -------------------------------------------------------------------------------


def test_names_and_order():
    """Columns are a sequence in the order of the rows."""
    assert list(ALL) == [ID, NAME, NOTE]
    assert ALL.names == ("id", "name", "note")
    assert (ALL.find("name"), ALL.find("x")) == (NAME, None)


def test_a_listed_column_is_given_as_it_is():
    """Whether or not there may be others."""
    assert ALL.require("id", step="s") == SOME.require("id", step="s") == ID


def test_a_column_that_cannot_be_there():
    """The message names the step and all that there is instead."""
    with pytest.raises(UnknownColumn, match=r"Step 'mask' reads column 'nmae'.*have id, name, note") as raised:
        ALL.require("nmae", step="mask")

    assert raised.value.exit_code == 65
    with pytest.raises(UnknownColumn, match="the rows there have none"):
        Columns().require("id", step="mask")


def test_a_column_that_only_may_be_there():
    """Nobody can say that it isn't, nor what type it has."""
    for columns in (SOME, UNKNOWN_COLUMNS):
        assert columns.require("note", step="s") == unknown("note")


def test_a_column_that_was_taken_away():
    """It is known not to be there, although not all columns are known; the message says why."""
    with pytest.raises(UnknownColumn, match=r"reads column 'name', but an earlier step left it out or renamed it"):
        SOME.without(["name"], step="drop").require("name", step="filter")


# -- what steps do -------------------------------------------------------------------------------


def test_only_these():
    """In the order named; afterwards all columns are known."""
    assert ALL.only(["note", "id"], step="select") == Columns((NOTE, ID))
    assert SOME.only(["more", "id"], step="select") == Columns((unknown("more"), ID))
    with pytest.raises(UnknownColumn, match="'select' reads column 'x'"):
        ALL.only(["id", "x"], step="select")


def test_without_some():
    """They must have been there, and aren't any more."""
    assert ALL.without(["name"], step="drop") == Columns((ID, NOTE))
    assert SOME.without(["name", "more"], step="drop") == Columns((ID,), False, frozenset({"name", "more"}))
    with pytest.raises(UnknownColumn, match="'drop' reads column 'x'"):
        ALL.without(["x"], step="drop")


def test_under_other_names():
    """Place, type and origin stay."""
    renamed = ALL.renamed({"name": "label"}, step="rename")

    assert renamed.names == ("id", "label", "note")
    label = renamed.require("label", step="s")
    assert (label.kind, label.origins, label.unchanged) == (Kind.TEXT, {"name"}, True)
    with pytest.raises(UnknownColumn):
        renamed.require("name", step="s")


def test_names_may_be_swapped():
    """All renames of one step happen at once."""
    swapped = ALL.renamed({"id": "name", "name": "id"}, step="rename")

    assert swapped.names == ("name", "id", "note")
    assert swapped.require("id", step="s").origins == {"name"}


def test_a_rename_of_a_column_that_only_may_be_there():
    """From then on the new name is known, and the old one is known to be gone."""
    renamed = SOME.renamed({"more": "less"}, step="rename")

    assert renamed.names == ("id", "name", "less")
    assert not renamed.complete
    with pytest.raises(UnknownColumn):
        renamed.require("more", step="s")
    assert renamed.renamed({"less": "more"}, step="rename").require("more", step="s")


@pytest.mark.parametrize("columns", [ALL, SOME], ids=["complete", "incomplete"])
def test_two_columns_of_one_name(columns: Columns):
    """One would hide the other."""
    with pytest.raises(InvalidStep, match=r"'rename' would give two columns the name 'id'"):
        columns.renamed({"name": "id"}, step="rename")
    with pytest.raises(InvalidStep, match=r"'add' would replace the column 'id'.*there already"):
        columns.plus([Column("id")], step="add")


def test_new_ones():
    """At the end; one that had been taken away may come back."""
    assert ALL.plus([Column("x"), Column("y")], step="add").names == ("id", "name", "note", "x", "y")
    again = SOME.without(["id"], step="drop").plus([Column("id")], step="add")
    assert again.require("id", step="s") == Column("id")


def test_others_in_their_place():
    """The order stays; what isn't there can't be replaced."""
    text = Column("id", kind=Kind.TEXT)
    assert list(ALL.replaced([text], step="cast")) == [text, NAME, NOTE]
    assert SOME.replaced([Column("more")], step="cast").names == ("id", "name", "more")
    with pytest.raises(UnknownColumn, match="'cast' reads column 'x'"):
        ALL.replaced([Column("x")], step="cast")


# -- what isn't known is never a false alarm -----------------------------------------------------

NAMES = st.sampled_from("abcdef")
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("only"), st.lists(NAMES, min_size=1, max_size=4, unique=True)),
        st.tuples(st.just("without"), st.lists(NAMES, min_size=1, max_size=2, unique=True)),
        st.tuples(st.just("renamed"), st.dictionaries(NAMES, NAMES, min_size=1, max_size=3)),
        st.tuples(st.just("plus"), st.lists(NAMES, min_size=1, max_size=2, unique=True)),
        st.tuples(st.just("replaced"), st.lists(NAMES, min_size=1, max_size=2, unique=True)),
    ),
    max_size=6,
)


def changed(columns: Columns, how: str, what: Any) -> Columns:
    made = [Column(name) for name in what] if how in ("plus", "replaced") else what
    result: Columns = getattr(columns, how)(made, step="s")
    return result


@given(there=st.lists(NAMES, unique=True), known=st.integers(0, 6), changes=CHANGES)
def test_half_the_truth_is_no_lie(there: Sequence[str], known: int, changes: list[tuple[str, Any]]):
    """Where only some columns are known, what is said of them is so: the listed are there, the absent aren't."""
    truth = Columns(tuple(map(Column, there)))
    half = Columns(truth.listed[:known], complete=False)
    for how, what in changes:
        try:
            truth = changed(truth, how, what)
        except (UnknownColumn, InvalidStep):
            return  # where all columns are known the fault is found, and nothing comes after it
        half = changed(half, how, what)
        assert set(half.names) <= set(truth.names)
        assert not half.absent & set(truth.names)
        assert len(set(truth.names)) == len(truth.names)
        if half.complete:
            assert half.names == truth.names
