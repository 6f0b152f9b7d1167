"""See the .pyx file."""

from collections.abc import Sequence
from typing import Any

from pipeline_processing.ports import Template
from pipeline_processing.rows.lines import Lines

TYPES: frozenset[str]

class CopyMalformed(ValueError): ...

class CopyStream:
    row_bytes: int
    def __init__(
        self,
        types: Sequence[str],
        outputs: Template | Sequence[int | Template] | None,
        *,
        carry: str,
        batch_bytes: int = ...,
    ) -> None: ...
    @property
    def rows(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def begun(self) -> int: ...
    def feed(self, data: bytes | bytearray | memoryview) -> bytes: ...
    def take(self) -> list[tuple[Any, ...]] | Lines: ...
    def discard(self) -> None: ...
