"""Imports objects of user code by their paths."""

from importlib import import_module
from typing import Any

from pipeline_processing.errors import InvalidStep
from pipeline_processing.user_code import user_code

PATH_PATTERN = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"
"""`package.module:name`, where the name may have points as well."""


def imported(path: str, *, step: str) -> Any:
    """The object at `module:name`. Raises InvalidStep where it can't be imported."""
    module_name, _, attribute = path.partition(":")

    def failure(what: str) -> InvalidStep:
        return InvalidStep(
            f"Step {step!r} can't load {path}: {what}. Install the package that has it beside this service, or correct "
            "the path `module:name`."
        )

    with user_code(failure):
        found: Any = import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
        return found
