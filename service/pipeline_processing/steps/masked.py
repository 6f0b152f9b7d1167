"""Which columns of the source some step masks: rejected rows show them masked, too."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pipeline_processing.rows.columns import Columns, unknown
from pipeline_processing.steps.step import Step

Masking = Callable[[Any], Any]
REDACTED = "***"


def masked_at_source(steps: Iterable[tuple[Step, Columns]], source: Columns) -> Mapping[str, Masking]:
    """
    Column of the source → how its carried values are masked. Each step stands with the columns that leave it.

    A column that is masked as it was read, perhaps under another name, is masked the same way, once; one that is masked
    twice, or from which a masked column was computed, is made unreadable. After a step of the user's nobody knows where
    a column comes from: then it is the source's column of the same name, or, if there is none, any of them; and so
    for what is computed from it later.
    """
    masks: dict[str, Masking] = {}
    there = frozenset(source.names)
    reaching = source
    for step, leaving in steps:
        for name, mask in step.masks.items():
            column = reaching.find(name) or unknown(name)
            origins, same = column.origins, column.unchanged
            if not origins:
                origins, same = there & {name}, True
            if not origins <= there:
                origins, same = there, False
            for origin in origins:
                masks[origin] = mask if same and origin not in masks else _redacted
        reaching = leaving
    return masks


def _redacted(value: Any) -> str:
    return REDACTED
