"""Which columns of the source have to be masked wherever rows are shown as they were read."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from pipeline_processing.agency_data_job.rejections import REDACTED, Rejected, masked_at_source
from pipeline_processing.rows.columns import Column, Columns, Kind
from pipeline_processing.steps.step import Batch, Step
from tests.unit.agency_data_job.chains import open_chain
from tests.unit.in_memory import NoServices

HOOKS = "tests.unit.steps.hooks"


def read(*names: str) -> Columns:
    return Columns(tuple(Column(name, kind=Kind.TEXT, origins=frozenset({name}), unchanged=True) for name in names))


SOURCE = read("id", "email", "name", "city")


class Masking(Step):
    """Masks columns as `*name*`."""

    name = "masking"

    def __init__(self, columns: Columns, *masked: str, gives: Columns | None = None) -> None:
        self.columns = gives or columns
        self.masks = {name: lambda value, name=name: f"*{name}*" for name in masked}

    async def __call__(self, batch: Batch) -> Batch:
        return batch


class Passing(Step):
    """Gives other columns."""

    name = "passing"

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    async def __call__(self, batch: Batch) -> Batch:
        return batch


def shown(steps: Iterable[Step], source: Columns = SOURCE) -> Mapping[str, Any]:
    """Masked column of the source → what becomes of a value."""
    chain = [(step, step.columns) for step in steps]
    return {name: mask("value") for name, mask in masked_at_source(chain, source).items()}


def test_nothing_is_masked():
    """No step does."""
    assert shown([]) == shown([Passing(SOURCE)]) == {}


def test_a_column_as_it_was_read():
    """It is masked the same way."""
    assert shown([Masking(SOURCE, "email", "name")]) == {"email": "*email*", "name": "*name*"}


def test_a_column_that_was_renamed_before():
    """Its origin is masked the same way, and not a column of the source that happens to have the new name."""
    swapped = SOURCE.renamed({"email": "name", "name": "email"}, step="rename")

    assert shown([Passing(swapped), Masking(swapped, "name")]) == {"email": "*name*"}


def test_a_column_that_is_renamed_afterwards():
    """By the names where the mask stands."""
    renamed = SOURCE.renamed({"email": "contact"}, step="rename")

    assert shown([Masking(SOURCE, "email"), Passing(renamed)]) == {"email": "*email*"}


def test_a_column_that_was_computed():
    """What it was computed from can't be masked by the same function, so nothing of it is shown."""
    derived = SOURCE.plus([Column("full", kind=Kind.TEXT, origins=frozenset({"name", "email"}))], step="derive")

    assert shown([Passing(derived), Masking(derived, "full")]) == {"name": REDACTED, "email": REDACTED}


def test_a_constant():
    """It comes from nowhere."""
    added = SOURCE.plus([Column("by", kind=Kind.TEXT)], step="add")

    assert shown([Passing(added), Masking(added, "by")]) == {}


def test_what_is_masked_twice_is_made_unreadable():
    """The second mask may be the stricter one."""
    once = SOURCE.replaced([Column("email", kind=Kind.TEXT, origins=frozenset({"email"}))], step="mask")

    assert shown([Masking(SOURCE, "email", gives=once), Masking(once, "email")]) == {"email": REDACTED}


def test_after_a_step_of_the_users():
    """Nobody knows where a column comes from: then it is the source's one of that name."""
    unknown = Columns(complete=False)

    assert shown([Passing(unknown), Masking(unknown, "email")]) == {"email": "*email*"}


def test_a_column_that_a_step_of_the_users_made():
    """It may hold any of the source's values, so that none of them can be shown."""
    unknown = Columns(complete=False)

    assert shown([Passing(unknown), Masking(unknown, "made_up")]) == dict.fromkeys(SOURCE.names, REDACTED)


def test_a_column_that_was_left_out_and_made_anew():
    """From nothing of the source: rather too much is masked than too little."""
    dropped = SOURCE.without(["email"], step="drop").plus([Column("email", kind=Kind.TEXT)], step="enrich")

    assert shown([Passing(dropped), Masking(dropped, "email")]) == {"email": "*email*"}


# -- with the real steps -------------------------------------------------------------------------


class Secrets(NoServices):
    def secret(self, name: str) -> SecretStr:
        return SecretStr("pepper")


DECLARED = [{"python": {"function": f"{HOOKS}:copy_email", "reads": ["email", "name"], "adds": {"mail": "text"}}}]
REDACT = {"mask": {"columns": ["x"], "using": "redact", "with": "?"}}


@pytest.mark.parametrize(
    ("steps", "masked"),
    [
        ([{"rename": {"email": "x"}}, REDACT], {"email": "?"}),
        ([{"select": ["email"]}, {"rename": {"email": "y"}}, {"rename": {"y": "x"}}, REDACT], {"email": "?"}),
        (
            [{"mask": {"columns": ["email"], "using": "partial", "keep": 3}}, {"rename": {"email": "x"}}],
            {"email": "**lue"},
        ),
        ([{"derive": {"x": "upper(email)"}}, REDACT], {"email": REDACTED}),
        ([{"derive": {"x": "concat(name, ' ', city)"}}, REDACT], {"name": REDACTED, "city": REDACTED}),
        ([{"derive": {"x": "email"}}, {"drop": ["email"]}, REDACT], {"email": "?"}),
        ([{"cast": {"id": "text"}}, {"rename": {"id": "x"}}, REDACT], {"id": "?"}),
        ([{"add": {"x": "constant"}}, REDACT], {}),
        ([{"filter": "email IS NOT NULL"}, {"rename": {"email": "x"}}, REDACT], {"email": "?"}),
        (
            [{"mask": {"columns": ["email"], "using": "redact"}}, {"derive": {"x": "upper(email)"}}, REDACT],
            {"email": "***"},
        ),
        (
            [{"python": f"{HOOKS}:watch"}, {"mask": {"columns": ["email"], "using": "redact", "with": None}}],
            {"email": None},
        ),
        ([{"python": f"{HOOKS}:watch"}, {"derive": {"x": "lower(email)"}}, REDACT], {"email": REDACTED}),
        ([{"python": f"{HOOKS}:watch"}, {"rename": {"email": "x"}}, REDACT], {"email": "?"}),
        # A declared function leaves other columns alone, and computes its own from all that it reads.
        ([*DECLARED, {"rename": {"city": "x"}}, REDACT], {"city": "?"}),
        ([*DECLARED, {"rename": {"mail": "x"}}, REDACT], dict.fromkeys(("email", "name"), REDACTED)),
        ([*DECLARED, {"rename": {"name": "x"}}, REDACT], dict.fromkeys(("email", "name"), REDACTED)),
        *(
            # What the function made of which column, nobody knows.
            ([{"python": f"{HOOKS}:copy_email"}, *steps, REDACT], dict.fromkeys(SOURCE.names, REDACTED))
            for steps in (
                [{"rename": {"mail": "x"}}],
                [{"cast": {"mail": "text"}}, {"rename": {"mail": "x"}}],
                [{"derive": {"x": "lower(mail)"}}],
                [{"derive": {"x": "concat(mail, city)"}}],
                [{"drop": ["city"]}, {"derive": {"city": "mail"}}, {"rename": {"city": "x"}}],
            )
        ),
        (
            [{"mask": {"columns": ["city"], "using": "hmac", "secret": "key"}}],
            {"city": "5260922efe2194744e025053659f5d93637824b16882d2ccef01f267209aa6e1"},
        ),
    ],
)
async def test_the_services_own_steps(steps: list[dict[str, Any]], masked: dict[str, Any]):
    """They all tell what their columns come from, so that a row as it was read is shown with those masked."""
    row = dict.fromkeys(SOURCE.names, "value")

    async with open_chain(*steps, columns=SOURCE, services=Secrets()) as chain:
        assert chain._shown(Rejected(1, "step", "reason", tuple(row.values()))) == row | masked


async def test_a_step_that_changes_a_column_keeps_its_origins():
    """Even one that doesn't name them: a mask behind it would otherwise leave the source's column readable."""
    changed = Columns((*(column for column in SOURCE if column.name != "email"), Column("email", kind=Kind.TEXT)))
    behind = [
        lambda context: Passing(changed),
        lambda context: Passing(
            Columns(tuple(replace(each, name=each.name.replace("email", "mail")) for each in context.columns))
        ),
        lambda context: Masking(context.columns, "mail"),
    ]

    async with open_chain(columns=SOURCE, behind=behind) as chain:
        assert chain._shown(Rejected(1, "step", "reason", ("1", "e", "n", "c")))["email"] == REDACTED
