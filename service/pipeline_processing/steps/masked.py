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

    A column that is masked as it was read, perhaps under another name, is masked the same way; one from which a masked
    column was computed is made unreadable. After a step of the user's nobody knows where a column comes from: then it
    is the source's column of the same name, if there is one.
    """
    masks: dict[str, Masking] = {}
    reaching = source
    for step in steps:
        for name, mask in step.masks.items():
            column = reaching.find(name)
            origins = column.origins if column is not None and column.origins else {name} & set(source.names)
            same = column is None or column.unchanged or not column.origins
            for origin in origins:
                masks.setdefault(origin, mask if same else _redacted)
        reaching = step.columns
    return masks


def _redacted(value: Any) -> str:
    return REDACTED
