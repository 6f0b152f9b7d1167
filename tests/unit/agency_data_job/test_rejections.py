"""Rows that a step can't use: they fail the run, are left out or set aside; and how many may be."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.agency_data_job.rejections import OnRowError, Rejected, Rejections
from pipeline_processing.agency_data_job.tally import Tally
from pipeline_processing.errors import StepFailed, TooManyRejected
from pipeline_processing.options.limits import Percent
from pipeline_processing.steps.step import Batch

TOLERANT = [OnRowError.SKIP, OnRowError.QUARANTINE]


def rejections(on_row_error: OnRowError, max_rejected: int | Percent | None = None) -> Rejections:
    return Rejections(Tally("records"), on_row_error, max_rejected)


def counted(of: Rejections) -> int:
    """How many rows are rejected so far."""
    return of._tally.rejected


def check(of: Rejections, read: int) -> None:
    """At the end, after so many rows."""
    of._tally.read = read
    of.check()


def share(text: str) -> Percent:
    return Percent(Decimal(text))


def numbered(count: int, *, first: int = 1) -> Batch:
    """Rows whose ids are their numbers."""
    numbers = range(first, first + count)
    return Batch.read([{"id": number} for number in numbers], first=first, records=[(f"r{n}",) for n in numbers])


def ids(of: Batch) -> list[int]:
    return [row["id"] for row in of.rows]


@pytest.mark.parametrize("on_row_error", list(OnRowError))
def test_no_faults(on_row_error: OnRowError):
    """The batch stays as it is, and nothing is counted."""
    rows, made = numbered(3), rejections(on_row_error)

    assert made.reject(rows, {}, step="cast") is rows
    assert (counted(made), made.take()) == (0, [])


# -- fail ----------------------------------------------------------------------------------------


def test_by_default_the_first_one_fails_the_run():
    """The message says where, why, and what to do."""
    with pytest.raises(StepFailed) as raised:
        rejections(OnRowError.FAIL).reject(numbered(5, first=1001), {3: "'amount' isn't a number"}, step="cast")

    assert str(raised.value) == (
        "Dataset 'records', step 'cast', row 1,004: 'amount' isn't a number. Correct the data or the step, or set "
        "`on_row_error` to skip or quarantine; then replay the run."
    )
    assert (raised.value.kind, raised.value.exit_code) == ("step_failed", 1)


def test_of_several_the_first_one_is_told():
    """And how many more there are in its batch, whatever the order in which they were found."""
    with pytest.raises(StepFailed, match=r"row 2: second \(2 more rows of this batch fail as well\)\. Correct"):
        rejections(OnRowError.FAIL).reject(numbered(5), {4: "fifth", 1: "second", 2: "third"}, step="cast")


def test_rows_without_numbers_are_told_by_their_batch():
    """After a step that dropped rows without saying which."""
    lost = Batch([{"id": 2}], None, (1, 3))
    with pytest.raises(StepFailed, match=r"^Dataset 'records', step 'cast', rows 1 to 3: no"):
        rejections(OnRowError.FAIL).reject(lost, {0: "no"}, step="cast")


def test_steps_are_told_whether_rows_may_be_rejected():
    """Some go about it in another way then."""
    assert [rejections(each).tolerant for each in OnRowError] == [False, True, True]


# -- skip and quarantine -------------------------------------------------------------------------


@pytest.mark.parametrize("on_row_error", TOLERANT)
def test_the_others_go_on(on_row_error: OnRowError):
    """With their numbers; the rejected ones are counted."""
    made = rejections(on_row_error)

    left = made.reject(numbered(5, first=11), {0: "no", 3: "no"}, step="cast")

    assert ids(left) == list(left.numbers or ()) == [12, 13, 15]
    assert left.span == (11, 15)
    assert counted(made) == 2


@pytest.mark.parametrize("on_row_error", TOLERANT)
def test_all_rows_of_a_batch(on_row_error: OnRowError):
    """An empty batch is left."""
    made = rejections(on_row_error)

    left = made.reject(numbered(2), {0: "no", 1: "no"}, step="cast")

    assert (left.rows, list(left.numbers or ()), counted(made)) == ([], [], 2)


def test_skipped_rows_are_only_counted():
    """Nobody waits for them, and they take no memory."""
    made = rejections(OnRowError.SKIP)
    made.reject(numbered(2), {0: "no"}, step="cast")

    assert (counted(made), made.take()) == (1, [])


def test_rows_for_the_quarantine_are_given_once():
    """By number, with the step, its reason and the source's record; of several steps one after the other."""
    made = rejections(OnRowError.QUARANTINE)
    left = made.reject(numbered(5), {3: "fourth", 0: "first"}, step="cast")
    made.reject(left, {1: "third"}, step="validate")

    assert made.take() == [
        Rejected(1, "cast", "first", ("r1",)),
        Rejected(4, "cast", "fourth", ("r4",)),
        Rejected(3, "validate", "third", ("r3",)),
    ]
    assert made.take() == []
    made.reject(numbered(2, first=6), {1: "seventh"}, step="cast")
    assert made.take() == [Rejected(7, "cast", "seventh", ("r7",))]
    assert counted(made) == 4


# -- at most so many -----------------------------------------------------------------------------


@pytest.mark.parametrize("on_row_error", TOLERANT)
def test_as_many_as_are_allowed(on_row_error: OnRowError):
    """Over all batches; the limit itself is fine."""
    made = rejections(on_row_error, 3)
    made.reject(numbered(3), {0: "no", 1: "no"}, step="cast")
    made.reject(numbered(3, first=4), {0: "no"}, step="cast")

    check(made, 6)
    assert counted(made) == 3


def test_one_more_fails_the_run():
    """At once, not at the end; the message has the limit, the last reason and the remedy."""
    made = rejections(OnRowError.SKIP, 2)
    made.reject(numbered(2), {0: "no", 1: "no"}, step="cast")

    with pytest.raises(TooManyRejected) as raised:
        made.reject(numbered(2, first=3), {1: "'amount' isn't a number"}, step="cast")

    message = str(raised.value)
    assert message.startswith(
        "Dataset 'records': 3 rows were rejected, more than `max_rejected` allows (2), the last for"
    )
    assert "'amount' isn't a number (step 'cast', row 4)" in message
    assert "Nothing was published" in message
    assert (raised.value.kind, raised.value.exit_code, raised.value.retryable) == ("too_many_rejected", 1, False)


def test_none_may_be_rejected():
    """A limit of 0 fails at the first one, and lets others pass."""
    made = rejections(OnRowError.QUARANTINE, 0)
    check(made, 100)

    with pytest.raises(TooManyRejected, match="1 rows were rejected"):
        made.reject(numbered(1), {0: "no"}, step="cast")


@given(rejected=st.integers(0, 30), more=st.integers(0, 3000), tenths=st.integers(0, 1000))
def test_a_share_is_of_the_rows_read(rejected: int, more: int, tenths: int):
    """It can be judged only at the end, exactly; the limit itself is fine."""
    made, read = rejections(OnRowError.SKIP, share(f"{tenths / 10}")), rejected + more
    made.reject(numbered(rejected), dict.fromkeys(range(rejected), "no"), step="cast")

    if rejected * 1000 > tenths * read:
        with pytest.raises(TooManyRejected, match=rf"{rejected:,} rows were rejected.*% of {read:,}\)\. Nothing"):
            check(made, read)
    else:
        check(made, read)


def test_no_rows_at_all():
    """None was rejected, so no share is too large."""
    check(rejections(OnRowError.SKIP, share("0")), 0)


def test_a_message_has_one_place():
    """The chain of steps, which names places too, leaves this one as it is."""
    made = rejections(OnRowError.SKIP, 0)
    with pytest.raises(TooManyRejected) as raised:
        made.reject(numbered(1), {0: "no"}, step="cast")

    assert str(raised.value.at("Dataset 'records', step 1 (cast), row 1")).count("Dataset 'records'") == 1
