"""
Look up steps, sources and destinations by the names that job configs use.

Each is a module with a `PLUGIN`, which defines the type of its options and builds it. Built-in ones are listed in
`BUILT_IN` and imported on first use. Other packages register theirs as entry points in the group
`pipeline_processing.steps`, `.sources` or `.destinations`, with a dot in the name, such as `acme.geocode`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pipeline_processing.user_code import user_code

STEPS = "pipeline_processing.steps"
SOURCES = "pipeline_processing.sources"
DESTINATIONS = "pipeline_processing.destinations"

BUILT_IN: Mapping[str, Mapping[str, str]] = {
    STEPS: {
        "select": "pipeline_processing.steps.select",
        "drop": "pipeline_processing.steps.drop",
        "rename": "pipeline_processing.steps.rename",
        "add": "pipeline_processing.steps.add",
        "cast": "pipeline_processing.steps.cast",
        "filter": "pipeline_processing.steps.filter",
        "derive": "pipeline_processing.steps.derive",
        "mask": "pipeline_processing.steps.mask",
        "flatten": "pipeline_processing.steps.flatten",
        "dedupe": "pipeline_processing.steps.dedupe",
        "validate": "pipeline_processing.steps.validate",
        "enrich_table": "pipeline_processing.steps.enrich_table",
        "enrich_http": "pipeline_processing.steps.enrich_http",
        "python": "pipeline_processing.steps.python",
    },
    SOURCES: {
        "postgres": "pipeline_processing.sources.postgres.options",
        "http": "pipeline_processing.sources.http.options",
    },
    DESTINATIONS: {
        "s3": "pipeline_processing.destinations.s3.options",
        "file": "pipeline_processing.destinations.files.options",
        "postgres": "pipeline_processing.destinations.tables.options",
    },
}
"""Group → name → module. The published JSON Schema lists them in this order."""


@dataclass(frozen=True, slots=True, eq=False)
class Plugin:
    """
    The `PLUGIN` of a module.

    The arguments and the result of `build` depend on the group:

    - steps: `build(options, context=steps.step.StepContext)` returns a `steps.step.Step`;
    - sources: `build(context=ports.BuildContext)` returns a `ports.Source`, or an async context manager of one. Its
      `snapshot` gets the options by dataset;
    - destinations: `build(options, context=ports.BuildContext)` returns an async context manager of a
      `ports.Destination`.
    """

    options: Any
    """The type of its options: any type that pydantic supports."""
    build: Callable[..., Any]
    description: str = ""
    """One or two sentences for the JSON Schema of job configs."""


def is_plugin(name: object) -> bool:
    """Return whether a name in a job config belongs to another package."""
    return isinstance(name, str) and "." in name


def plugin(group: str, name: str) -> Plugin:
    """Return the plugin of that name. Raises ValueError, with the existing names, if there is none."""
    if (module := BUILT_IN[group].get(name)) is not None:
        made: Plugin = import_module(module).PLUGIN
        return made
    found = _installed(group).get(name)
    if found is None:
        there = ", ".join(sorted(_installed(group))) or "none"
        raise ValueError(f"no installed package provides {name!r} as an entry point in {group!r}; available: {there}")
    with user_code(lambda what: ValueError(f"{found.value} can't be loaded: {what}")):
        loaded = found.load()
    if not isinstance(loaded, Plugin):
        raise ValueError(f"{found.value} is a {type(loaded).__name__}, not a pipeline_processing.plugins.Plugin")
    return loaded


@cache
def _installed(group: str) -> Mapping[str, EntryPoint]:
    return {each.name: each for each in entry_points(group=group) if is_plugin(each.name)}
