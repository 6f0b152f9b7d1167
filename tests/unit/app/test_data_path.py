"""How the data path is put together from settings and a job config."""

from __future__ import annotations

import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from pipeline_processing import plugins
from pipeline_processing.agency_data_job.config import AgencyJobConfig, InvalidJobConfig
from pipeline_processing.aio.clock import HistoryClock
from pipeline_processing.app.data_path import data_path, destinations, sources
from pipeline_processing.errors import SecretMissing, SettingsError
from pipeline_processing.http.options import UpstreamOptions
from pipeline_processing.plugins import Plugin
from pipeline_processing.ports import BuildContext, Destination, Services
from pipeline_processing.settings.settings import Settings
from pipeline_processing.telemetry.masking import Mask
from tests.memory.destination import MemoryDestination
from tests.unit.plugged import installed
from tests.unit.stepped_clock import SteppedClock

told: list[Any] = []


class Options(BaseModel):
    name: str
    pin: SecretStr = SecretStr("")


@asynccontextmanager
async def lake(options: Options, *, context: Services) -> AsyncIterator[Destination]:
    told.append(context.secret("acme_key").get_secret_value())
    try:
        yield MemoryDestination(url=f"acme://{options.name}")
    finally:
        told.append("closed")


class Crm:
    """A source that tells with which options it is opened."""

    @asynccontextmanager
    async def snapshot(self, datasets: Mapping[str, Any]) -> AsyncIterator[Any]:
        told.append(dict(datasets))
        yield self

    taken_at = None


def crm(*, context: Services) -> Crm:
    told.append(context.secret("acme_key").get_secret_value())
    return Crm()


LAKE, CRM = Plugin(options=Options, build=lake), Plugin(options=Options, build=crm)


@pytest.fixture(autouse=True)
def _acme() -> Iterator[None]:
    told.clear()
    with installed(
        EntryPoint(name="acme.lake", value=f"{__name__}:LAKE", group=plugins.DESTINATIONS),
        EntryPoint(name="acme.crm", value=f"{__name__}:CRM", group=plugins.SOURCES),
    ):
        yield


@pytest.fixture
def folder(tmp_path: Path) -> dict[str, Any]:
    return {"file": {"path": str(tmp_path)}}


LAKE_ENTRY = {"acme.lake": {"name": "lake"}}


def config(*destinations: Any, sources: Mapping[str, Any] | None = None) -> AgencyJobConfig:
    by_dataset = sources or {"records": {"acme.crm": {"name": "a"}}}
    return AgencyJobConfig.model_validate(
        {
            "datasets": [{"name": name, "source": source} for name, source in by_dataset.items()],
            "destinations": destinations or None,
        }
    )


def settings(**values: Any) -> Settings:
    return Settings.model_validate({"secrets": {"acme_key": "k"}, **values})


async def test_destinations_of_other_packages_get_what_they_need(folder: dict[str, Any]):
    """Their options and the secrets, which are masked from then on; they are closed at the end."""
    mask = Mask()
    entry = {"acme.lake": {"name": "lake", "pin": "of-acme"}}
    async with destinations(settings(), config(folder, entry), runs=1, mask=mask) as where:
        assert [each.url for each in where.all][1:] == ["acme://lake"]
        assert told == ["k"]
        assert mask.text("'k', 'of-acme', 'lake'") == "'***', '***', 'lake'"

    assert told == ["k", "closed"]


async def test_the_first_bucket_or_folder_holds_the_manifest(folder: dict[str, Any], tmp_path: Path):
    """Wherever it stands among the others, as the contract has it: another package's destination never does."""
    async with destinations(settings(), config(LAKE_ENTRY, folder), runs=1, mask=Mask()) as where:
        assert where.primary.url == tmp_path.as_uri()
        assert {each.url for each in where.all} == {tmp_path.as_uri(), "acme://lake"}


async def test_what_an_upstream_is_sent_is_masked():
    """The password that it is asked with, and the header that is made of it."""
    mask = Mask()
    options = UpstreamOptions.model_validate({"auth": {"basic": {"username": "me", "password": "acme_key"}}})
    async with sources(settings(), config(), runs=1, mask=mask) as (_, services):
        services.upstream(options)

    assert mask.text(f"it got k, as {b64encode(b'me:k').decode()}") == "it got ***, as ***"


async def test_two_destinations_of_one_place(folder: dict[str, Any]):
    """It is found when they are opened, and what was opened is closed."""
    with pytest.raises(SettingsError, match="same place"):
        async with destinations(settings(), config(folder, LAKE_ENTRY, LAKE_ENTRY), runs=1, mask=Mask()):
            raise AssertionError("nobody noticed")

    assert told.count("closed") == 2


async def test_a_destination_whose_secret_is_missing(folder: dict[str, Any]):
    """The message names the variable."""
    with pytest.raises(SecretMissing, match="PIPELINE_SECRETS__ACME_KEY"):
        async with destinations(settings(secrets={}), config(folder, LAKE_ENTRY), runs=1, mask=Mask()):
            raise AssertionError("nobody noticed")


@pytest.mark.parametrize("error", [KeyError("x"), SystemExit("x"), KeyboardInterrupt("x")])
async def test_a_plugin_that_cannot_be_built(
    folder: dict[str, Any], error: BaseException, monkeypatch: pytest.MonkeyPatch
):
    """Whatever its code raises is told as its own fault, when the process starts."""

    def build(*options: Any, context: Services) -> Any:
        raise error

    for name in ("LAKE", "CRM"):
        monkeypatch.setattr(sys.modules[__name__], name, Plugin(options=Options, build=build))
    message = f"'acme.{{}}' can't be built: {type(error).__name__}"
    with pytest.raises(InvalidJobConfig, match=message.format("lake")):
        async with destinations(settings(), config(folder, LAKE_ENTRY), runs=1, mask=Mask()):
            raise AssertionError("nobody noticed")
    with pytest.raises(InvalidJobConfig, match=message.format("crm")):
        async with sources(settings(), config(), runs=1, mask=Mask()):
            raise AssertionError("nobody noticed")


async def test_sources_of_other_packages_are_built_once():
    """However many datasets they have; each snapshot gets the options of its datasets."""
    two = {"a": {"acme.crm": {"name": "first"}}, "b": {"acme.crm": {"name": "second"}}}
    job = config(sources=two)
    async with sources(settings(), job, runs=1, mask=Mask()) as (source, services):
        assert services.secret("acme_key").get_secret_value() == "k"
        async with source.snapshot({dataset.name: dataset.source for dataset in job.datasets}):
            pass

    assert told == ["k", {"a": Options(name="first"), "b": Options(name="second")}]


async def test_the_whole_data_path_has_one_clock(folder: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """That of the history: sources, destinations and upstreams of a run agree on the time."""
    clocks: list[Any] = []

    def build(*options: Any, context: BuildContext) -> Any:
        clocks.append(context.clock)
        return MemoryDestination(url="acme://lake") if options else Crm()

    for name in ("LAKE", "CRM"):
        monkeypatch.setattr(sys.modules[__name__], name, Plugin(options=Options, build=build))
    clock = HistoryClock(SteppedClock())
    async with data_path(settings(), config(folder, LAKE_ENTRY), runs=1, mask=Mask(), clock=clock) as path:
        upstream: Any = path.services.upstream(UpstreamOptions())

    assert [*clocks, upstream._clock] == [clock, clock, clock]
