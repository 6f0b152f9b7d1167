"""A `derive` computes exactly what Postgres does for the same expression after SELECT, or refuses it."""

# ruff: noqa: E501 - tables of samples

from collections.abc import Iterator

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline_processing.columns import Kind
from pipeline_processing.embedded.servers import EmbeddedServers
from pipeline_processing.errors import InvalidStep
from pipeline_processing.expressions.keywords import RESERVED
from tests.contract.steps.expression_rows import TABLE
from tests.contract.steps.generated_expressions import TYPES, expressions
from tests.contract.steps.sql_oracle import ERROR, Oracle, oracle

KINDS = {
    "bigint": Kind.INTEGER, "integer": Kind.INTEGER, "numeric": Kind.NUMBER, "double precision": Kind.FLOAT,
    "text": Kind.TEXT, "character": Kind.TEXT, "character varying": Kind.TEXT, "boolean": Kind.BOOLEAN, "date": Kind.DATE,
    "timestamp without time zone": Kind.TIMESTAMP, "timestamp with time zone": Kind.TIMESTAMPTZ, "uuid": Kind.UUID,
    "json": Kind.JSON, "jsonb": Kind.JSON,
}  # fmt: skip


@pytest.fixture(scope="module")
def things(servers: EmbeddedServers) -> Iterator[Oracle]:
    servers.postgres.create_database("expressions")
    with oracle(servers.postgres.dsn("expressions"), TABLE) as opened:
        yield opened


def check(things: Oracle, expression: str) -> None:
    """The same values in both forms, row errors at the same rows, and a column of the right kind."""
    expected = things.answers(expression)
    for carry in ("json", "text"):
        got, columns = things.derived(expression, carry)
        assert got == expected[carry], (carry, expression)
        derived = columns.listed[-1]
        assert (derived.name, derived.kind) == ("derived", KINDS.get(things.type_of(expression))), expression


@settings(max_examples=600, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(expression=st.sampled_from(TYPES).flatmap(expressions))
def test_a_derived_column_is_what_select_computes(things: Oracle, expression: str):
    """Whatever the expression, nulls and row errors included, from both forms."""
    try:
        expected = things.answers(expression)
    except asyncpg.PostgresError:
        expected = {}  # not for any row, so it doesn't matter how many
    for carry in ("json", "text"):
        try:
            got, _ = things.derived(expression, carry)
        except InvalidStep as refused:
            # A part that has no value whatever the row is refused before the first one.
            assert "can't be computed" in str(refused) or "belongs:" in str(refused), expression
            continue
        if expected:
            assert got == expected[carry], (carry, expression)
