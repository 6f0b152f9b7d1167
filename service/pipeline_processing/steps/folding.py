"""Folds steps that only choose, name or add columns into the making of the rows, where they cost nothing a row."""

from collections.abc import Sequence

from pipeline_processing.rows.projection import Projection
from pipeline_processing.steps.add import Add
from pipeline_processing.steps.drop import Drop
from pipeline_processing.steps.rename import Rename
from pipeline_processing.steps.select import Select
from pipeline_processing.steps.step import Step


def folded(projection: Projection, step: Step) -> Projection | None:
    """The projection that makes rows as if `step` had been applied to them; None if the step has to see rows."""
    names, indexes, constants = projection.names, projection.indexes, projection.constants
    match step:
        case Rename():
            return Projection(tuple(step.names.get(name, name) for name in names), indexes, constants)
        case Add():
            return Projection((*names, *step.constants), indexes, (*constants, *step.constants.values()))
        case Select():
            return _chosen(projection, [names.index(name) for name in step.names])
        case Drop():
            return _chosen(projection, [place for place, name in enumerate(names) if name not in step.names])
    return None


def _chosen(projection: Projection, places: Sequence[int]) -> Projection | None:
    """Only the values at these places, in this order. A projection has its constants last, and some other value."""
    read = len(projection.indexes)
    varying = [place for place in places if place < read]
    constant = [place for place in places if place >= read]
    if not varying or [*varying, *constant] != list(places):
        return None
    return Projection(
        tuple(projection.names[place] for place in places),
        tuple(projection.indexes[place] for place in varying),
        tuple(projection.constants[place - read] for place in constant),
    )
