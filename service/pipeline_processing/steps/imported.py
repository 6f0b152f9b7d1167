"""Imports user code by path."""

from importlib import import_module
from typing import Any

from pipeline_processing.errors import InvalidStep
from pipeline_processing.options.words import saying
from pipeline_processing.user_code import user_code

PATH_PATTERN = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"
"""`package.module:name`, where the name may also have dots."""
PATH_WORDS = saying("must be `package.module:name`, such as shop.steps:normalise")


def imported(path: str, *, step: str) -> Any:
    """Import the object at `module:name`. Raises InvalidStep if that fails."""
    module_name, _, attribute = path.partition(":")

    def failure(what: str) -> InvalidStep:
        return InvalidStep(
            f"Step {step!r} can't load {path}: {what}. Install its package together with this service, or correct the "
            "path `module:name`."
        )

    with user_code(failure):
        found: Any = import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
        return found
