"""
Prints tables, key-value blocks and JSON objects.

On a terminal, a table has the columns that fit, and never breaks an id. Control characters are replaced, because a
terminal would execute them.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import zip_longest
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import typer

if TYPE_CHECKING:
    from rich.table import Table as RichTable

T = TypeVar("T")

NOTHING = "-"
"""Shown for a missing value, so that every line has the same number of columns."""

_MIN_LONG_WIDTH = 30
_GAP = 2
"""Characters: the narrowest column of long text, and the space between two columns of a table."""


class Output(StrEnum):
    """How a command prints its data."""

    TABLE = "table"
    """For people. On a terminal, the columns that fit."""
    WIDE = "wide"
    """All columns, however wide."""
    JSON = "json"
    """One object, or one per line."""


class Column(NamedTuple):
    """One column of a table. Numbers are aligned `right`; `long` text may take several lines on a terminal."""

    title: str
    right: bool = False
    long: bool = False
    spare: int = 0
    """A narrow terminal has no room for the columns with the highest numbers. Those with 0 are always shown."""
    wide: bool = False
    """Shown with `-o wide` only."""


Table = Mapping[Column, Callable[[T], str]]
"""The columns of a table, each with what makes its cell of an item."""


def printable(text: str) -> str:
    """Replace control characters, except line ends, with spaces: a terminal would execute them."""
    return "".join(character if character.isprintable() or character == "\n" else " " for character in text)


def on_terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout.isatty()


def facts_block(facts: Mapping[str, str]) -> str:
    """Return one fact per line, with the values under each other."""
    width = max(map(len, facts), default=0) + _GAP
    lines = []
    for name, value in facts.items():
        first, *more = printable(value).split("\n")
        lines += [f"{name:<{width}}{first}", *(" " * width + line for line in more)]
    return "\n".join(lines)


def print_items(
    items: Iterable[T], table: Table[T], *, output: Output, as_object: Callable[[T], dict[str, Any]]
) -> None:
    """Print a table of the items, or the object of each on a line of its own."""
    if output is Output.JSON:
        for item in items:
            print_object(as_object(item))
    else:
        print_table(table, items, wide=output is Output.WIDE)


def print_table(table: Table[T], items: Iterable[T], *, wide: bool = False) -> None:
    """
    Print a row for each item, under the columns' titles.

    On a terminal, columns that don't fit are left out, unless `wide`. Elsewhere each row is one line, whatever its
    length. Columns that are `wide` only are shown only then.
    """
    table = {column: cell for column, cell in table.items() if wide or not column.wide}
    columns, lines = list(table), [cells_of(item, table) for item in items]
    width = shutil.get_terminal_size().columns if on_terminal() and not wide else None
    if width is not None:
        kept = columns_that_fit(columns, lines, width)
        columns, lines = [columns[i] for i in kept], [[line[i] for i in kept] for line in lines]
    titles, *rest = _table_lines(columns, lines, width)
    typer.secho(titles, bold=on_terminal())
    for line in rest:
        typer.echo(line)


def cells_of(item: T, table: Table[T]) -> list[str]:
    """Return an item's cells, each on one line."""
    return [one_line(cell(item)) for cell in table.values()]


def one_line(text: str) -> str:
    """Return the text without line ends, control characters and repeated spaces."""
    return " ".join(printable(text).split())


def columns_that_fit(columns: Sequence[Column], lines: Sequence[Sequence[str]], width: int) -> list[int]:
    """Return the indexes of the columns that a terminal of this width has room for."""
    widths = _widths(columns, lines)
    least = [min(w, _MIN_LONG_WIDTH) if column.long else w for w, column in zip(widths, columns, strict=True)]
    kept = list(range(len(columns)))
    for index in sorted((i for i in kept if columns[i].spare), key=lambda i: -columns[i].spare):
        if sum(least[i] + _GAP for i in kept) - _GAP <= width:
            break
        kept.remove(index)
    return kept


def drawn_table(columns: Sequence[Column], lines: Sequence[Sequence[str]], width: int) -> RichTable:
    """Return a table for a display that is drawn again and again, with the columns that fit."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    kept = columns_that_fit(columns, lines, width)
    for column in (columns[index] for index in kept):
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=True, overflow="ellipsis")
    for line in lines:
        # Text, because rich parses square brackets in a str as markup.
        table.add_row(*(Text(line[index]) for index in kept))
    return table


def _table_lines(columns: Sequence[Column], lines: Sequence[Sequence[str]], width: int | None) -> Iterator[str]:
    """
    Yield the lines of a table. Only long text is wrapped, to `width` if there is one.

    Even where nothing fits, ids and numbers stay in one piece: the terminal wraps whole lines.
    """
    widths = _widths(columns, lines)
    if width is not None:
        for index in (i for i, column in enumerate(columns) if column.long):
            room = width - sum(w + _GAP for i, w in enumerate(widths) if i != index)
            widths[index] = min(widths[index], max(room, _MIN_LONG_WIDTH))
    for line in ([column.title for column in columns], *lines):
        cells = [
            wrap(cell, w) if column.long and len(cell) > w else [cell]
            for cell, w, column in zip(line, widths, columns, strict=True)
        ]
        for parts in zip_longest(*cells, fillvalue=""):
            aligned = zip(parts, widths, columns, strict=True)
            yield (" " * _GAP).join(f"{c:>{w}}" if col.right else f"{c:<{w}}" for c, w, col in aligned).rstrip()


def _widths(columns: Sequence[Column], lines: Sequence[Sequence[str]]) -> list[int]:
    return [max([len(column.title), *(len(line[i]) for line in lines)]) for i, column in enumerate(columns)]


def print_object(value: dict[str, Any]) -> None:
    """Print one line of NDJSON."""
    typer.echo(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
