"""Which columns of the source some step masks: rejected rows show them masked, too."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline_processing.columns import Columns
from pipeline_processing.steps.step import Step

Masking = Callable[[Any], Any]
REDACTED = "***"


def masked_at_source(steps: Sequence[Step], source: Columns) -> Mapping[str, Masking]:
    """
    Column of the source → how its carried values are masked.

    A column that is masked as it was read, perhaps under another name, is masked the same way, once; one that is masked
    twice, or from which a masked column was computed, is made unreadable. After a step of the user's nobody knows where
    a column comes from: then it is the source's column of the same name, or, if there is none, any of them.
    """
    masks: dict[str, Masking] = {}
    reaching = source
    for step in steps:
        for name, mask in step.masks.items():
            column = reaching.find(name)
            here = {name} & set(source.names)
            if column is not None and column.typed:
                origins, same = column.origins or here, column.unchanged or not column.origins
            else:
                origins, same = here or set(source.names), bool(here)
            for origin in origins:
                masks[origin] = mask if same and origin not in masks else _redacted
        reaching = step.columns
    return masks


def _redacted(value: Any) -> str:
    return REDACTED
