"""Folds steps that only choose, name or add columns into the making of the rows, where they cost nothing a row."""

from pipeline_processing.ports import Step
from pipeline_processing.projection import Projection
from pipeline_processing.steps.add import Add
from pipeline_processing.steps.rename import Rename
from pipeline_processing.steps.select import Select


def folded(projection: Projection, step: Step) -> Projection | None:
    """The projection that makes rows as if `step` had been applied to them; None if the step has to see rows."""
    names, indexes, constants = projection.names, projection.indexes, projection.constants
    match step:
        case Rename():
            return Projection(tuple(step.names.get(name, name) for name in names), indexes, constants)
        case Add():
            return Projection((*names, *step.constants), indexes, (*constants, *step.constants.values()))
        case Select() if not constants:
            chosen = [names.index(name) for name in step.names]
            return Projection(step.names, tuple(indexes[place] for place in chosen))
    return None
