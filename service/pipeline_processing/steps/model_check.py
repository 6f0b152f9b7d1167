"""Rows against a pydantic model of the user's."""

import inspect
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline_processing.errors import InvalidStep, PipelineError, StepFailed
from pipeline_processing.ports import Row
from pipeline_processing.steps.imported import imported
from pipeline_processing.user_code import is_for_us

_FAULTS = 3
"""So many of a row are told."""


class ModelCheck:
    """
    A pydantic model, `module:Name`. It gets a row's JSON as Python values: text, int, Decimal, bool, None, lists and
    dicts; text of a date, an instant or a UUID is what such a field takes. It only checks: what it makes of a row is
    thrown away.

    Raises InvalidStep where there is no such model.
    """

    def __init__(self, path: str, *, step: str) -> None:
        model = imported(path, step=step)
        if not (inspect.isclass(model) and issubclass(model, BaseModel)):
            raise InvalidStep(f"Step {step!r} needs a pydantic model, and {path} is a {type(model).__name__}.")
        self._model: type[BaseModel] = model
        self._names = _field_names(model, set())

    def fault(self, row: Row) -> str | None:
        """What is wrong with a row's JSON, without any value; None if nothing is. Raises StepFailed."""
        try:
            self._model.model_validate(row)
        except ValidationError as error:
            faults = error.errors(include_url=False, include_context=False, include_input=False)
            lines = [f"{self._where(fault['loc'])}: {fault['type']}" for fault in faults[:_FAULTS]]
            return "; ".join(lines) + ("; and more" if faults[_FAULTS:] else "")
        except PipelineError:
            raise
        except BaseException as error:  # validators are user code
            if is_for_us(error):
                raise
            raise StepFailed(
                f"The model {self._model.__name__} raised {type(error).__name__}, where a validator may raise "
                "ValueError or AssertionError. Mend the model, then replay the run."
            ) from error
        return None

    def _where(self, location: tuple[int | str, ...]) -> str:
        """Names within documents are told only if the model has them, too."""
        where = str(location[0]) if location else "the row"
        for part in location[1:]:
            where += f"[{part}]" if isinstance(part, int) else f".{part if part in self._names else '*'}"
        return where


def _field_names(annotation: Any, seen: set[Any]) -> frozenset[str]:
    """Names of a model's fields, and of those of the models in it."""
    names: frozenset[str] = frozenset()
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel) and annotation not in seen:
        seen.add(annotation)
        for name, field in annotation.model_fields.items():
            aliases = {alias for alias in (name, field.alias, field.validation_alias) if isinstance(alias, str)}
            names |= aliases | _field_names(field.annotation, seen)
    for argument in getattr(annotation, "__args__", ()):
        names |= _field_names(argument, seen)
    return names
