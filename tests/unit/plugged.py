"""Another package with entry points of this service's groups, as if it were installed."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint

import pytest

from pipeline_processing import plugins

Install = Callable[..., None]


@contextmanager
def installed(*points: EntryPoint) -> Iterator[None]:
    """For the length of the block these are all entry points that there are."""

    def entry_points(*, group: str) -> Iterable[EntryPoint]:
        return [point for point in points if point.group == group]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "entry_points", entry_points)
        plugins._installed.cache_clear()
        yield
    plugins._installed.cache_clear()


def step(name: str, value: str) -> EntryPoint:
    """A step's entry point: a name such as `acme.upper`, and `module:attribute`."""
    return EntryPoint(name=name, value=value, group=plugins.STEPS)
