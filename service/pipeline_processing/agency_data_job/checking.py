"""Checks of a job config that need no server, so that its faults show before a run."""

from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from pipeline_processing.agency_data_job.config import BEGINNING, AgencyJobConfig, DatasetConfig, InvalidJobConfig
from pipeline_processing.agency_data_job.links import closing_steps, step_context
from pipeline_processing.agency_data_job.params import DeclaredParams
from pipeline_processing.agency_data_job.rejections import Rejections
from pipeline_processing.agency_data_job.request_values import described
from pipeline_processing.agency_data_job.tally import Tally
from pipeline_processing.errors import (
    InvalidStep,
    JobConfigError,
    PipelineError,
    QueryInvalid,
    SecretMissing,
    SettingsError,
    UnknownColumn,
)
from pipeline_processing.formats.formats import new_format
from pipeline_processing.model import BUILT_IN_ARGUMENTS
from pipeline_processing.options.config_file import ConfigFile, Location, UnusableFile
from pipeline_processing.options.entry import Entry
from pipeline_processing.ports import LookupTable, Upstream
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Column, Columns, unknown
from pipeline_processing.steps.config import StepEntry
from pipeline_processing.steps.step import Step, StepContext

KEEP_COLUMNS = ("dedupe", "filter", "mask", "validate")
"""Steps behind which there are the same columns as before."""


class AnyArgument(dict[str, Any]):
    """Stand-in for a request's arguments that contains every name."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> None:
        return None


class _NoServices:
    """Services for steps that are built but never opened."""

    def lookup(self, query: str, *, secret: str | None, carry: str) -> AbstractAsyncContextManager[LookupTable]:
        raise AssertionError("a step used a server before it was opened")

    def upstream(self, options: Any) -> AbstractAsyncContextManager[Upstream]:
        raise AssertionError("a step used a server before it was opened")

    def secret(self, name: str) -> SecretStr:
        raise AssertionError("a step read a secret before it was opened")


@dataclass(frozen=True, slots=True)
class Meant:
    """A fault in what a config means, at a location such as `("datasets", "records", "steps", 2)`."""

    location: Location
    error: PipelineError
    word: str | None = None
    """What is wrong there, if it is a single key or value."""


def faults_without_servers(
    config: AgencyJobConfig, *, secrets: Collection[str] | None, path: Path | None = None
) -> Iterator[PipelineError]:
    """
    Yield all faults. Each names its place, in the config's file if `path` is given.

    `secrets` are the names of the secrets in the settings; None if the settings are unknown.
    """
    file = None
    told = set[str]()  # what is wrong in `defaults` is wrong in each dataset
    for each in faults_of_meaning(config, secrets=secrets):
        if file is None and path is not None:
            with suppress(UnusableFile):  # it was there when the config was loaded
                file = ConfigFile.read(path, what="job config", remedy="")
        fault = each.error.at(_path(each.location) if file is None else file.place(each.location, word=each.word))
        if str(fault) not in told:
            told.add(str(fault))
            yield fault


def faults_of_meaning(
    config: AgencyJobConfig, *, secrets: Collection[str] | None, replaced: Collection[Location] = ()
) -> Iterator[Meant]:
    """Yield all faults. `replaced` are the locations of sources and steps that stand in for others, unknown ones."""
    for dataset in config.datasets:
        at: Location = ("datasets", dataset.name)
        known = (*at, "source") not in replaced
        if known:
            yield from _faults_of_names(dataset, at, declared=config.params)
            yield from _faults_of_query(dataset.source, (*at, "source"))
        yield from _faults_of_steps(dataset, at, known=known, replaced=replaced)
        try:
            new_format(dataset.format, fixed=True)
        except JobConfigError as error:  # its package isn't installed
            yield Meant((*at, "format"), error)
    if secrets is not None:
        yield from _missing_secrets(config, secrets)


def _faults_of_steps(
    dataset: DatasetConfig, at: Location, *, known: bool, replaced: Collection[Location]
) -> Iterator[Meant]:
    columns = dataset.source.columns_in(dataset.carry) if known else UNKNOWN_COLUMNS
    rejections = Rejections(Tally(dataset.name), dataset.on_row_error, dataset.max_rejected)
    context = step_context(dataset, columns, arguments=AnyArgument(), services=_NoServices(), row_errors=rejections)
    for number, entry in enumerate(dataset.steps):
        place = (*at, "steps", number)
        if place in replaced:
            left = UNKNOWN_COLUMNS
        else:
            yield from _faults_of_query(entry, place)
            left = yield from _faults_of_step(_builder(entry), entry.options, context, (*place, entry.kind))
        context = replace(context, columns=left)
    for path, build, names in closing_steps(dataset):
        yield from _faults_of_step(build, names, context, (*at, *path))


def _faults_of_query(part: Entry, at: Location) -> Iterator[Meant]:
    for fault in part.query_faults:
        yield Meant((*at, part.kind, "query"), QueryInvalid(fault))


def _builder(entry: StepEntry) -> Callable[[Any, StepContext], Step]:
    """Return the function that builds the step from options and context. A plugin's takes the entry's own options."""
    return (lambda options, context: entry.build(context)) if entry.is_plugin else entry.plugin.build


def _faults_of_step(
    build: Callable[[Any, StepContext], Step], options: Any, context: StepContext, at: Location
) -> Generator[Meant, None, Columns]:
    """
    Build a step without opening it, again and again without what was wrong with it.

    Yields its faults, and returns the columns that leave it, as far as they are known.
    """
    assumed, left_out = list[str](), list[str]()
    while True:
        try:
            left = build(options, context).columns
            break
        except UnknownColumn as error:
            yield Meant(at if error.key in (None, error.column) else (*at, error.key), error, error.column)
            if error.column in assumed:
                return UNKNOWN_COLUMNS
            assumed.append(error.column)
            there = context.columns
            context = replace(context, columns=_Assuming(there.listed, there.complete, there.absent, (*assumed,)))
        except InvalidStep as error:
            yield Meant(at if error.key is None else (*at, error.key), error)
            if error.key is None or error.key not in options:
                return context.columns if at[-1] in KEEP_COLUMNS else UNKNOWN_COLUMNS
            left_out.append(error.key)
            options = {key: value for key, value in options.items() if key != error.key}
        except PipelineError as error:
            yield Meant(at, error)
            return UNKNOWN_COLUMNS
    listed = [column for column in left if column.name not in assumed]
    listed += [unknown(name) for name in left_out if left.find(name) is None]
    return replace(left, listed=tuple(listed))


@dataclass(frozen=True, slots=True)
class _Assuming(Columns):
    """Columns that have more than they list: those that a step reads, and that aren't there."""

    assumed: tuple[str, ...] = ()

    def require(self, name: str, *, step: str) -> Column:
        return unknown(name) if name in self.assumed else Columns.require(self, name, step=step)


def _missing_secrets(config: AgencyJobConfig, secrets: Collection[str]) -> Iterator[Meant]:
    parts: list[tuple[Location, Entry]] = []
    for dataset in config.datasets:
        at: Location = ("datasets", dataset.name)
        parts.append(((*at, "source"), dataset.source))
        parts += (((*at, "steps", number), step) for number, step in enumerate(dataset.steps))
    parts += ((("destinations", number), each) for number, each in enumerate(config.destinations or ()))
    missing = dict[str, Location]()
    for place, part in parts:
        for name in part.secrets:
            if name not in secrets:
                missing.setdefault(name, (*place, part.kind))
    for name, place in missing.items():
        yield Meant(place, SecretMissing(name, available=sorted(secrets)), name)


def _faults_of_names(dataset: DatasetConfig, at: Location, *, declared: DeclaredParams | None) -> Iterator[Meant]:
    """Yield faults for values that the dataset must use but doesn't, or uses but never gets."""
    if not dataset.shared and not dataset.source.uses_agency:
        why = (
            f"The {dataset.source.kind} source doesn't use `agency_id`, so each agency would get all agencies' rows. "
            f"{dataset.source.how_to_use_agency} If every agency should get the same rows, set `shared: true`."
        )
        yield Meant((*at, "source", dataset.source.kind), InvalidJobConfig(why))
    if "since" not in dataset.uses and (dataset.since is not None or dataset.initial != BEGINNING):
        key = "initial" if dataset.since is None else "since: last_success"
        why = f"`{key}` changes nothing: neither the source nor a step uses `since`. Use it, or leave `{key}` out."
        yield Meant((*at, key.partition(":")[0]), InvalidJobConfig(why))
    if declared is None:
        return
    if unknown_names := sorted(dataset.uses.names - {*BUILT_IN_ARGUMENTS, *declared}):
        why = (
            f"It uses {', '.join(unknown_names)}, which isn't defined. "
            f"Built in are {', '.join(BUILT_IN_ARGUMENTS)}, and the job config declares {described(declared)}. "
            "Declare it under `params`, or correct the name."
        )
        yield Meant(at, InvalidJobConfig(why), unknown_names[0])


def require_sound(config: AgencyJobConfig, *, secrets: Collection[str], path: Path | None = None) -> None:
    """
    Raises InvalidJobConfig with all of `faults_without_servers`, or SettingsError if only secrets are missing.

    Faults of queries are left to Postgres, so that each run says what became of it.
    """
    found = faults_without_servers(config, secrets=secrets, path=path)
    faults = [fault for fault in found if not isinstance(fault, QueryInvalid)]
    if len(faults) == 1:
        raise faults[0]
    if faults and all(isinstance(fault, SecretMissing) for fault in faults):
        raise SettingsError("\n".join(map(str, faults)))
    if faults:
        raise InvalidJobConfig("The job config isn't sound:\n" + "\n".join(f"  {fault}" for fault in faults))


def _path(location: Location) -> str:
    """`datasets[records].steps[2].mask`."""
    text = ""
    for before, part in zip(("", *location), location, strict=False):
        text += f"[{part}]" if isinstance(part, int) or before == "datasets" else f".{part}"
    return text.removeprefix(".")
