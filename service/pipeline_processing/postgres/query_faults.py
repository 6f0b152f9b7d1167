"""What is certainly wrong with a query, found in its text without a server."""

import difflib
from collections.abc import Generator, Iterator, Sequence

from pipeline_processing.postgres.query_text import EndlessToken, Token, cut

_READS = ("SELECT", "WITH", "VALUES", "TABLE", "SHOW", "EXPLAIN", "FETCH", "EXECUTE")
_WRITES = ("INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE", "CREATE", "ALTER", "DROP", "COPY", "CALL", "DO")
_EXCERPT = 30


def query_faults(query: str, *, args: Sequence[str]) -> Iterator[str]:
    """
    Yield a sentence for each fault. `args` are the names that $1, $2, … stand for.

    What may be right is left to Postgres.
    """
    tokens = yield from _faults_of_text(query)
    if tokens:
        yield from _faults_of_parameters(_numbers(tokens), args)


def lookup_faults(query: str) -> Iterator[str]:
    """Yield a sentence for each fault of a lookup's query, whose only parameter is the list of keys."""
    tokens = yield from _faults_of_text(query)
    if tokens and _numbers(tokens) != {1}:
        yield "A lookup's query has exactly one parameter, $1, the list of keys. Write it as in WHERE code = ANY($1)."


def _faults_of_text(query: str) -> Generator[str, None, Sequence[Token]]:
    try:
        tokens = cut(query)
    except EndlessToken as error:
        shown = " ".join(query[error.at : error.at + _EXCERPT].split())
        yield f"The query has a text, a quoted name or a comment without an end: {shown} … Close it."
        return ()
    yield from _faults_of_statement(tokens)
    return tokens


def _numbers(tokens: Sequence[Token]) -> set[int]:
    return {int(each.text[1:]) for each in tokens if each.kind == "PLACEHOLDER"}


def _faults_of_statement(tokens: Sequence[Token]) -> Iterator[str]:
    statements = [each for each in tokens if each.text != ";"]
    if not statements:
        yield "The query has no statement. Begin it with SELECT."
        return
    first = statements[0].text.upper()
    if statements[0].kind == "WORD" and first not in _READS:
        close = difflib.get_close_matches(first, _READS, n=1)
        if first in _WRITES:
            yield f"The query begins with {first}, but it can only read. Begin it with SELECT."
        elif close:
            yield f"The query begins with {statements[0].text}: did you mean {close[0]}?"
        else:
            yield f"The query begins with {statements[0].text}, but a query begins with SELECT, WITH, VALUES or TABLE."
    begun = tokens[tokens.index(statements[0]) :]
    end = next((at for at, each in enumerate(begun) if each.text == ";"), len(begun))
    if any(each.text != ";" for each in begun[end:]):
        yield "The query has two statements, separated by a semicolon. Keep one."


def _faults_of_parameters(used: set[int], args: Sequence[str]) -> Iterator[str]:
    for number in sorted(used):
        if not 1 <= number <= len(args):
            named = f"{len(args)} value{'s' if len(args) > 1 else ''}: {', '.join(args)}" if args else "none"
            yield f"The query uses ${number}, but `args` names {named}. Name the value of ${number} in `args`."
    for number, name in enumerate(args, start=1):
        if number not in used and name != "agency_id":  # for which every source is checked
            yield f"`args` names {name} for ${number}, which the query doesn't use. Use ${number}, or take {name} out."
