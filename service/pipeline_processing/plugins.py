"""
Sources, steps and destinations of other packages, found by entry points.

A package offers a step by an entry point in the group `pipeline_processing.steps`, whose name has a dot, such as
`acme.geocode`: names without one are this service's own, now and later. The entry point is a `Plugin`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import TypeAdapter

from pipeline_processing.user_code import described, is_for_us, user_code

STEPS = "pipeline_processing.steps"
SOURCES = "pipeline_processing.sources"
DESTINATIONS = "pipeline_processing.destinations"


@dataclass(frozen=True, slots=True)
class Plugin:
    """
    What an entry point offers.

    What `build` is called with, and gives, depends on the group:

    - steps: `build(options, context=steps.step.StepContext)` gives a `steps.step.Step`;
    - sources: `build(context=ports.Services)` gives a `ports.Source`, whose `snapshot` gets the options by dataset;
    - destinations: `build(options, context=ports.Services)` gives an async context manager of a `ports.Destination`.
    """

    options: Any
    """The type of its options, as pydantic reads it."""
    build: Callable[..., Any]


def is_plugin(name: object) -> bool:
    """Whether a name in a job config is one of another package."""
    return isinstance(name, str) and "." in name


def plugin(group: str, name: str) -> Plugin:
    """The plugin of that name. Raises ValueError, with the names that there are."""
    found = _installed(group).get(name)
    if found is None:
        there = ", ".join(sorted(_installed(group))) or "none"
        raise ValueError(f"no installed package has {name!r} among its entry points {group!r}; there is {there}")
    with user_code(lambda what: ValueError(f"{found.value} can't be loaded: {what}")):
        loaded = found.load()
    if not isinstance(loaded, Plugin):
        raise ValueError(f"{found.value} is a {type(loaded).__name__}, not a pipeline_processing.plugins.Plugin")
    return loaded


def parsed(group: str, name: str, options: Any) -> Any:
    """Options of a plugin, checked by its own type. Raises ValueError."""
    adapter = TypeAdapter(plugin(group, name).options)
    try:
        return adapter.validate_python(options)
    except ValueError:
        raise
    except BaseException as error:  # validators are the package's code
        if is_for_us(error):
            raise
        raise ValueError(f"{name!r} can't check its options: {described(error)}") from error


@cache
def _installed(group: str) -> Mapping[str, EntryPoint]:
    return {each.name: each for each in entry_points(group=group) if is_plugin(each.name)}
