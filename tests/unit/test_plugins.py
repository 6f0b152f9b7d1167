"""Parts of other packages: found by their entry points, checked before they are used."""

from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest
from pydantic import BaseModel

from pipeline_processing import plugins
from pipeline_processing.plugins import Plugin, is_plugin, plugin
from tests.unit.plugged import installed

HERE = __name__


class Options(BaseModel):
    limit: int


GOOD = Plugin(options=Options, build=lambda options, context: (options, context))
PLAIN = Plugin(options=list[int], build=lambda options, context: None)
NOT_A_PLUGIN = Options


def point(name: str, attribute: str, *, group: str = plugins.STEPS, module: str = HERE) -> EntryPoint:
    return EntryPoint(name=name, value=f"{module}:{attribute}", group=group)


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    with installed(
        point("acme.good", "GOOD"),
        point("acme.plain", "PLAIN"),
        point("nodot", "GOOD"),
        point("acme.odd", "NOT_A_PLUGIN"),
        point("acme.gone", "MISSING"),
        point("acme.broken", "x", module="acme_that_is_not_installed"),
        point("acme.exits", "x", module="tests.unit.steps.exits_at_import"),
        point("acme.interrupts", "x", module="tests.unit.steps.interrupts_at_import"),
        point("acme.source", "GOOD", group=plugins.SOURCES),
    ):
        yield


@pytest.mark.parametrize(
    ("name", "is_one"), [("acme.geocode", True), ("filter", False), (None, False), (1.5, False), ("", False)]
)
def test_names_with_a_dot_are_other_packages(name: object, is_one: bool):
    """Those without are this service's own, now and later."""
    assert is_plugin(name) == is_one


def test_an_installed_plugin_is_found():
    """In its group, by its name."""
    assert plugin(plugins.STEPS, "acme.good") is GOOD
    assert plugin(plugins.SOURCES, "acme.source") is GOOD


@pytest.mark.parametrize(
    ("group", "name", "there"),
    [
        (plugins.STEPS, "acme.source", "acme.broken, acme.exits, acme.gone"),
        (plugins.SOURCES, "acme.good", "acme.source"),
        (plugins.DESTINATIONS, "acme.good", "none"),
        (plugins.STEPS, "nodot", "acme.broken"),
    ],
)
def test_one_that_is_not_installed(group: str, name: str, there: str):
    """The message names the group and those that there are; a name without a dot is never one of them."""
    message = f"no installed package provides '{name}' as.*'{group}'; available: {there}"
    with pytest.raises(ValueError, match=message) as error:
        plugin(group, name)

    assert "nodot" not in str(error.value).partition("there is")[2]


def test_the_list_is_made_once():
    """Reading all packages' metadata takes a while."""
    plugin(plugins.STEPS, "acme.good")
    before = plugins._installed.cache_info()
    plugin(plugins.STEPS, "acme.plain")

    assert plugins._installed.cache_info().misses == before.misses


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("acme.broken", "acme_that_is_not_installed:x can't be loaded: ModuleNotFoundError"),
        ("acme.gone", "MISSING can't be loaded: AttributeError"),
        ("acme.exits", "exits_at_import:x can't be loaded: SystemExit: enough"),
        ("acme.interrupts", "interrupts_at_import:x can't be loaded: KeyboardInterrupt"),
        ("acme.odd", r"NOT_A_PLUGIN is a ModelMetaclass, not a pipeline_processing\.plugins\.Plugin"),
    ],
)
def test_one_that_is_broken(name: str, message: str):
    """The message names what the entry point names, and what came of it."""
    with pytest.raises(ValueError, match=message):
        plugin(plugins.STEPS, name)
