"""Prints the story: numbered chapters, short paragraphs, tables, JSON. Colours only on a terminal."""

from __future__ import annotations

import io
import json
import shutil
import sys
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.text import Text

from pipeline_processing.terminal.tables import Table, on_terminal, print_table, printable

T = TypeVar("T")

_WIDTH = 88
_UNBREAKABLE = "\N{NO-BREAK SPACE}"


class Page:
    """Standard output, formatted for people."""

    def __init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # The sample's names are in many scripts, which the terminal's encoding may not support.
            sys.stdout.reconfigure(errors="backslashreplace")
        self._width = min(_WIDTH, shutil.get_terminal_size().columns) if on_terminal() else _WIDTH
        # Let rich wrap no lines: text to copy must stay in one piece.
        self._console = Console(file=sys.stdout, force_terminal=on_terminal(), soft_wrap=True)
        self._chapters = 0
        self._below_a_heading = False

    def title(self, text: str) -> None:
        self._heading(Text(text, style="bold underline"))

    def chapter(self, title: str) -> None:
        self._chapters += 1
        self._console.print()
        self._heading(Text(f"{self._chapters}. {title}", style="bold cyan"))

    def say(self, text: str) -> None:
        """Print a paragraph."""
        if on_terminal() and not self._below_a_heading:  # in a file, keep it short
            self._console.print()
        self._below_a_heading = False
        self._console.print(Text(self._filled(text)))

    def facts(self, facts: Mapping[str, str]) -> None:
        """Print names and values, one pair per line."""
        self._below_a_heading = False
        width = max(map(len, facts)) + 2
        for name, value in facts.items():
            line = Text(f"{name:<{width}}", style="bold")
            self._console.print(line.append(self._filled(value, indent=width).lstrip(), style="not bold"))

    def lines(self, lines: Iterable[str]) -> None:
        """Print a command's output verbatim."""
        self._below_a_heading = False
        for line in lines:
            self._console.print(Text(printable(line)))

    def code(self, text: str) -> None:
        """Print text to read or to paste, verbatim."""
        self._below_a_heading = False
        self._console.print(Text(printable(text), style="green"))

    def json(self, text: str) -> None:
        """Print JSON verbatim."""
        self._below_a_heading = False
        self._console.print(JSONHighlighter()(Text(printable(text))))

    def table(self, table: Table[T], items: Iterable[T]) -> None:
        self._below_a_heading = False
        print_table(table, items)

    def _heading(self, text: Text) -> None:
        self._below_a_heading = True
        self._console.print(text)

    def _filled(self, text: str, *, indent: int = 0) -> str:
        return textwrap.fill(
            " ".join(printable(text).split()),
            self._width,
            initial_indent=" " * indent,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )


def abridged(document: Mapping[str, Any], *, briefly: Collection[str] = ()) -> str:
    """
    Return a JSON object on few lines. Of each list it keeps the first item and the number of the others; of the lists
    named in `briefly`, only the number of items.
    """
    lines: list[str] = []
    simple: list[str] = []
    for name, value in document.items():
        if isinstance(value, list) and value and name not in briefly:
            more = f", …{_UNBREAKABLE}{len(value) - 1}{_UNBREAKABLE}more" if len(value) > 1 else ""
            lines += [*_packed(simple), *_packed([f'"{name}":{_UNBREAKABLE}[{_dumped(value[0])}{more}]'])]
            simple = []
        else:
            brief = f"[…{_UNBREAKABLE}{len(value)}]" if name in briefly else _dumped(value)
            simple.append(f'"{name}":{_UNBREAKABLE}{brief}')
    lines += _packed(simple)
    text = "\n".join(lines).removesuffix(",")
    return f"{{{text[1:]}}}".replace(_UNBREAKABLE, " ")


def _packed(items: Sequence[str]) -> list[str]:
    text = "".join(f"{item}, " for item in items).rstrip()
    return textwrap.wrap(
        text, _WIDTH - 1, initial_indent=" ", subsequent_indent=" ", break_long_words=False, break_on_hyphens=False
    )


def _dumped(value: Any) -> str:
    # Lines break at spaces; keep a name and its value together.
    return json.dumps(value, ensure_ascii=False, separators=(", ", f":{_UNBREAKABLE}"))
