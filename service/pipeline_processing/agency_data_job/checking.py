"""Checks of a job config that need no server, so that its faults show before a run."""

from collections.abc import Collection, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

from pydantic import SecretStr

from pipeline_processing.agency_data_job.chain import check_steps
from pipeline_processing.agency_data_job.config import BEGINNING, AgencyJobConfig, DatasetConfig, InvalidJobConfig
from pipeline_processing.agency_data_job.params import DeclaredParams
from pipeline_processing.agency_data_job.request_values import described
from pipeline_processing.errors import PipelineError, SecretMissing, SettingsError
from pipeline_processing.model import BUILT_IN_ARGUMENTS
from pipeline_processing.ports import LookupTable, Upstream


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


def faults_without_servers(config: AgencyJobConfig, *, secrets: Collection[str] | None) -> Iterator[PipelineError]:
    """
    Yield all faults, but only the first one of each dataset's steps.

    `secrets` are the names of the secrets in the settings; None if the settings are unknown.
    """
    for dataset in config.datasets:
        for fault in faults_of_names(dataset, declared=config.params):
            yield fault.at(f"Dataset {dataset.name!r}")
        try:
            columns = dataset.source.columns_in(dataset.carry)
            check_steps(dataset, columns, arguments=AnyArgument(), services=_NoServices())
        except PipelineError as error:
            yield error.at(f"Dataset {dataset.name!r}")
    if secrets is not None:
        for name in config.secrets:
            if name not in secrets:
                yield SecretMissing(name, available=sorted(secrets))


def faults_of_names(dataset: DatasetConfig, *, declared: DeclaredParams | None) -> Iterator[InvalidJobConfig]:
    """Yield faults for values that the dataset must use but doesn't, or uses but never gets."""
    if not dataset.shared and not dataset.source.uses_agency:
        yield InvalidJobConfig(
            f"The {dataset.source.kind} source doesn't use `agency_id`, so each agency would get all agencies' rows. "
            f"{dataset.source.how_to_use_agency} If every agency should get the same rows, set `shared: true`."
        )
    if "since" not in dataset.uses and (dataset.since is not None or dataset.initial != BEGINNING):
        key = "initial" if dataset.since is None else "since: last_success"
        yield InvalidJobConfig(
            f"`{key}` changes nothing: neither the source nor a step uses `since`. Use it, or leave `{key}` out."
        )
    if declared is None:
        return
    if unknown := sorted(dataset.uses.names - {*BUILT_IN_ARGUMENTS, *declared}):
        yield InvalidJobConfig(
            f"It uses {', '.join(unknown)}, which isn't defined. Built in are {', '.join(BUILT_IN_ARGUMENTS)}, and the "
            f"job config declares {described(declared)}. Declare it under `params`, or correct the name."
        )


def require_sound(config: AgencyJobConfig, *, secrets: Collection[str]) -> None:
    """Raises InvalidJobConfig with all of `faults_without_servers`, or SettingsError if only secrets are missing."""
    faults = list(faults_without_servers(config, secrets=secrets))
    if len(faults) == 1:
        raise faults[0]
    if faults and all(isinstance(fault, SecretMissing) for fault in faults):
        raise SettingsError("\n".join(map(str, faults)))
    if faults:
        raise InvalidJobConfig("The job config isn't sound:\n" + "\n".join(f"  {fault}" for fault in faults))
