"""Objects of the user's own code, by import path."""

from importlib import import_module
from typing import Any

from pipeline_processing.errors import InvalidStep

PATH_PATTERN = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"
"""`package.module:name`, where the name may have points as well."""


def imported(path: str, *, step: str) -> Any:
    """The object at `module:name`. Raises InvalidStep where it can't be imported."""
    module_name, _, attribute = path.partition(":")
    try:
        found: Any = import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # an import runs the user's code, which may raise anything
        raise InvalidStep(
            f"Step {step!r} can't load {path}: {type(error).__name__}: {error}. Install the package that has it "
            "beside this service, or correct the path `module:name`."
        ) from error
    return found
