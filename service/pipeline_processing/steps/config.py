"""The steps as a job config writes them: each a mapping with the one key that names it."""

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, StringConstraints, Tag


def _exact_in_any_format(constant: Any) -> Any:
    if isinstance(constant, int) and constant.bit_length() > 63:
        raise ValueError("an integer of more than 64 bits: write it as text, in quotes")
    if isinstance(constant, float) and not math.isfinite(constant):
        raise ValueError("not a finite number: write it as text, in quotes")
    return constant


Constant = Annotated[str | int | float | bool | None, BeforeValidator(_exact_in_any_format)]


class _Step(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SelectConfig(_Step):
    """Keep these columns, in this order."""

    select: tuple[str, ...] = Field(min_length=1)


class RenameConfig(_Step):
    """Give columns other names: old → new."""

    rename: dict[str, str] = Field(min_length=1)


class AddConfig(_Step):
    """Add constant columns. Text may hold {agency_id}, {run_id}, {since}, {until} or {a param of the request}."""

    add: dict[str, Constant] = Field(min_length=1)


class FilterConfig(_Step):
    """Keep the rows for which a SQL condition is true; where it is null, the row is dropped, as in SQL."""

    filter: str = Field(min_length=1)


class PythonConfig(_Step):
    """Call a function: `module:function`, plain or async, list of rows → list of rows, never more than it got."""

    python: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")]


STEP_NAMES = ("select", "rename", "add", "filter", "python")


def _step_name(step: Any) -> str | None:
    """The key that names a step; pydantic says which are valid where it is none of them."""
    if isinstance(step, dict):
        return next((str(key) for key in step), None)
    return next(iter(type(step).model_fields), None) if isinstance(step, _Step) else None


StepConfig = Annotated[
    Annotated[SelectConfig, Tag("select")]
    | Annotated[RenameConfig, Tag("rename")]
    | Annotated[AddConfig, Tag("add")]
    | Annotated[FilterConfig, Tag("filter")]
    | Annotated[PythonConfig, Tag("python")],
    Discriminator(
        _step_name,
        custom_error_type="unknown_step",
        custom_error_message=f"unknown step; a step is a mapping with one of the keys {', '.join(STEP_NAMES)}",
    ),
]
