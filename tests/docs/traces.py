"""What docs/operations.md says of spans."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_PAGE = Path(__file__).parents[2] / "docs/operations.md"
_ROW = re.compile(r"\| `([^`]+)` \| (\w+) \|[^|]*\|([^|]*)\|")
_VARIES = re.compile(r"\b[A-Z]+\b")


@dataclass(frozen=True, slots=True)
class SpanRow:
    """A row of the table. Capital words in a name stand for what varies."""

    name: str
    kind: str
    attributes: frozenset[str]

    @property
    def pattern(self) -> str:
        """A regular expression of the names."""
        return _VARIES.sub(".+", re.escape(self.name))

    @property
    def shape(self) -> str:
        """The name, with `*` for what varies."""
        return _VARIES.sub("*", self.name)


def documented_spans() -> list[SpanRow]:
    """Return the rows of the table of spans."""
    section = _PAGE.read_text("utf-8").partition("\n## Traces\n")[2].partition("\n## ")[0]
    return [
        SpanRow(name, kind, frozenset(re.findall(r"`([^`]+)`", re.sub(r"\([^)]*\)", "", attributes))))
        for name, kind, attributes in _ROW.findall(section)
    ]
