"""The job config, which users write in YAML. Its JSON Schema is published in `schemas/`."""

from collections.abc import Iterable, Mapping
from functools import cached_property, reduce
from operator import or_
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag, ValidationError, model_validator

from pipeline_processing.agency_data_job.entries import DestinationEntry, SourceEntry
from pipeline_processing.agency_data_job.object_keys import ObjectKey, colliding
from pipeline_processing.agency_data_job.params import ParamConfig, ParamName, values_of
from pipeline_processing.agency_data_job.rejections import OnRowError
from pipeline_processing.agency_data_job.request_values import Uses, check_values
from pipeline_processing.agency_keys import AgencyKey
from pipeline_processing.errors import InvalidRequest, JobConfigError, UnknownDataset, UnknownJob
from pipeline_processing.formats.formats import carry_of
from pipeline_processing.model import Compression, CsvOptions, FormatName, JobRequest, Moment
from pipeline_processing.options.config_file import fault_below
from pipeline_processing.options.durations import Duration
from pipeline_processing.options.entry import Entry
from pipeline_processing.options.limits import Share
from pipeline_processing.options.parts import Part
from pipeline_processing.options.words import saying
from pipeline_processing.steps.config import StepEntry

DatasetName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"),
    saying("must be a dataset's name: a letter or digit, then up to 62 letters, digits, `_` and `-`"),
]


class InvalidJobConfig(JobConfigError):
    """The job config breaks its schema. The message lists every fault."""


class Expect(Part):
    """Checks that fail the run before it is published."""

    min_rows: int | None = Field(None, ge=0, description="Fewest rows written.")
    max_rows: int | None = Field(None, ge=0, description="Most rows written.")
    max_change: Share | None = Field(
        None, description='How far the rows written may differ from the last successful run\'s, e.g. "20%".'
    )
    # Not called `schema`, which is a method of every pydantic model.
    columns: Literal["same"] | None = Field(
        None,
        alias="schema",
        description="same: names, types and order of the columns are those of the agency's last successful run.",
    )
    unique: tuple[str, ...] | None = Field(None, min_length=1, description="Columns that together differ in every row.")
    not_null: tuple[str, ...] | None = Field(None, min_length=1, description="Columns that are never null.")


BEGINNING: Literal["-infinity"] = "-infinity"
"""Earlier than any time, as Postgres writes it."""

Initial = Annotated[
    Annotated[Moment, Tag("time")] | Annotated[Literal["-infinity"], Tag("infinity")],
    Discriminator(lambda value: "infinity" if value == BEGINNING else "time"),
]


class DatasetDefaults(Part):
    """The keys of a dataset that `defaults` may set for all datasets."""

    since: Literal["last_success"] | None = Field(
        None,
        description="Where the request has no `since`: up to when the dataset's last successful run covers the rows; "
        "`initial` if there is none.",
    )
    initial: Initial | None = Field(
        BEGINNING,
        description="`since` where neither the request nor a successful run gives one: a time; -infinity, which is "
        "null for sources other than postgres; or null.",
    )
    overlap: Duration | None = Field(
        None, description="How much earlier than that: for rows that were committed late, e.g. 5m."
    )
    format: FormatName = FormatName.NDJSON
    csv: CsvOptions = Field(CsvOptions(), description="How CSV is written.")
    compression: Compression = Compression.NONE
    object_key: ObjectKey | None = Field(
        None,
        description="Folder of the artifacts below a destination, with the folder `run_id={run_id}`. May have "
        "{dataset}, {date}, {agency_id}, and columns, whose values partition the rows.",
    )
    latest: bool = Field(
        False, description="Whether `agency_id=<N>/<dataset>/_latest.json` points to the dataset's newest manifest."
    )
    max_artifact_rows: int | None = Field(None, ge=1, description="Most rows of one artifact.")
    max_artifact_mib: int | None = Field(None, ge=1, description="Most MiB of one artifact.")
    on_row_error: OnRowError = Field(
        OnRowError.FAIL,
        description="What becomes of a row that a step can't use: it fails the run, is left out, or is kept apart.",
    )
    max_rejected: Annotated[int, Field(ge=0, strict=True)] | Share | None = Field(
        None, description='Most rows that may be rejected: a count, or a share of the rows read, e.g. "0.1%".'
    )
    expect: Expect = Expect()


class DatasetConfig(DatasetDefaults):
    """One query's worth of an agency's rows."""

    name: DatasetName
    source: SourceEntry
    shared: bool = Field(
        False, description="Whether every agency gets the same rows. Else the source must use `agency_id`."
    )
    steps: tuple[StepEntry, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> "DatasetConfig":
        if self.max_rejected is not None and self.on_row_error is OnRowError.FAIL:
            raise fault_below(
                "max_rejected",
                why="`max_rejected` needs `on_row_error: skip` or `quarantine`: with `fail` none is rejected",
            )
        if self.overlap is not None and self.since is None:
            raise fault_below("overlap", why="`overlap` needs `since: last_success`")
        return self

    @property
    def carry(self) -> str:
        """The form in which its format takes carried values: "json" or "text"."""
        return carry_of(self.format)

    @property
    def looks_back(self) -> bool:
        """Whether it needs the dataset's last successful export."""
        expect = self.expect
        return self.since is not None or expect.max_change is not None or expect.columns is not None

    @cached_property
    def uses(self) -> Uses:
        """The values that its source and steps use."""
        parts: tuple[Entry, ...] = (self.source, *self.steps)
        names = frozenset[str]().union(*(part.names for part in parts))
        return Uses(names, anything=any(part.is_plugin for part in parts))

    @property
    def needs_temporary_files(self) -> bool:
        """Whether it stores the keys of all rows in a temporary file."""
        return self.expect.unique is not None or any(step.needs_temporary_files for step in self.steps)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Names of the secrets that its source and steps need."""
        return (*self.source.secrets, *(name for step in self.steps for name in step.secrets))


_ONE_HOLDS_THE_MANIFEST: dict[str, Any] = {
    "anyOf": [
        {"contains": {"type": "object", "anyOf": [{"properties": {n: {}}, "required": [n]} for n in ("s3", "file")]}},
        {"items": {"type": "object", "properties": {"postgres": {}}, "required": ["postgres"]}},
    ]
}


class AgencyJobConfig(Part):
    """The whole job: its datasets, and where their artifacts go."""

    job: Literal["agency_data_job"] = "agency_data_job"
    agency_key: AgencyKey = Field(
        AgencyKey.INTEGER, description="What `agency_id` is in requests: an integer from 1 on, a UUID, or text."
    )
    params: dict[ParamName, ParamConfig] | None = Field(
        None, description="The params that requests may send. If not set: any that the datasets use."
    )
    # Not part of the config's identity, because all datasets have it already.
    defaults: DatasetDefaults | None = Field(
        None,
        exclude=True,
        description="What all datasets have. A dataset's own keys replace it; those of `csv` and `expect` one by one.",
    )
    datasets: tuple[DatasetConfig, ...] = Field(min_length=1)
    destinations: (
        Annotated[tuple[DestinationEntry, ...], Field(min_length=1, json_schema_extra=_ONE_HOLDS_THE_MANIFEST)] | None
    ) = Field(
        None,
        description="Replaces PIPELINE_DESTINATION. One must be s3 or file, or all postgres; the first such holds the "
        "manifest.",
    )

    @model_validator(mode="before")
    @classmethod
    def _datasets_have_the_defaults(cls, job: Any) -> Any:
        if not isinstance(job, Mapping) or not isinstance(job.get("datasets"), list | tuple):
            return job
        defaults = job.get("defaults")
        if not isinstance(defaults, Mapping) or not _is_valid(DatasetDefaults, defaults):
            return job  # the faults are told once, not for each dataset
        datasets = [_with_defaults(each, defaults) if isinstance(each, Mapping) else each for each in job["datasets"]]
        return {**job, "datasets": datasets}

    @model_validator(mode="after")
    def _names_are_unique(self) -> "AgencyJobConfig":
        names = [dataset.name for dataset in self.datasets]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            second = names.index(twice[0], names.index(twice[0]) + 1)
            raise fault_below(
                "datasets", second, "name", why=f"two datasets are named {', '.join(twice)}: give each a unique name"
            )
        return self

    @model_validator(mode="after")
    def _object_keys_differ(self) -> "AgencyJobConfig":
        for one, other in colliding((dataset.name, dataset.object_key) for dataset in self.datasets):
            at = [dataset.name for dataset in self.datasets].index(other)
            why = f"the datasets {one!r} and {other!r} have the same `object_key`: use {{dataset}} in it"
            raise fault_below("datasets", at, "object_key", why=why)
        return self

    @model_validator(mode="after")
    def _params_are_used(self) -> "AgencyJobConfig":
        uses = _used_by(self.datasets)
        if unused := [name for name in self.params or () if name not in uses]:
            why = f"no dataset uses the declared param {unused[0]}: use it, or leave it out"
            raise fault_below("params", unused[0], why=why)
        return self

    @model_validator(mode="after")
    def _one_can_hold_the_manifest(self) -> "AgencyJobConfig":
        if not self.destinations or any(each.holds_manifest for each in self.destinations):
            return self
        if not all(each.holds_tables for each in self.destinations):
            why = "none of the destinations is s3 or file: one must be, to hold the manifest, unless all are postgres"
            raise fault_below("destinations", why=why)
        for at, dataset in enumerate(self.datasets):
            if dataset.latest:
                raise fault_below("datasets", at, "latest", why="it needs an s3 or file destination")
            if dataset.on_row_error is OnRowError.QUARANTINE:
                raise fault_below(
                    *("datasets", at, "on_row_error"),
                    why=f"the dataset {dataset.name!r} has `on_row_error: quarantine`, and rejected rows are stored as "
                    "objects: add an s3 or file destination, or use `skip`",
                )
        return self

    @model_validator(mode="after")
    def _destinations_fit_the_datasets(self) -> "AgencyJobConfig":
        for at, each in enumerate(self.destinations or ()):
            try:
                each.check(self.datasets)
            except ValueError as error:
                raise fault_below("destinations", at, each.kind, why=str(error)) from None
        return self

    @model_validator(mode="after")
    def _destinations_differ(self) -> "AgencyJobConfig":
        places = [each.place for each in self.destinations or () if each.place is not None]
        if twice := [place for place in dict.fromkeys(places) if places.count(place) > 1]:
            why = f"two destinations are the same place, {twice[0]}: leave one of them out"
            raise fault_below("destinations", places.index(twice[0]), why=why)
        return self

    @property
    def needs_source_database(self) -> bool:
        """Whether a source, or a lookup without its own DSN, uses PIPELINE_SOURCE__DSN."""
        return any(
            dataset.source.needs_source_database or any(step.needs_source_database for step in dataset.steps)
            for dataset in self.datasets
        )

    @property
    def secrets(self) -> tuple[str, ...]:
        """Names of the secrets that the job needs, without duplicates."""
        parts: tuple[DatasetConfig | DestinationEntry, ...] = (*self.datasets, *(self.destinations or ()))
        return tuple(dict.fromkeys(name for part in parts for name in part.secrets))

    def for_request(self, request: JobRequest) -> "AgencyJobConfig":
        """
        Return the config narrowed to a request's datasets and format, after checking the request's values.

        Raises UnknownJob, UnknownDataset, or InvalidRequest for values that these datasets don't use or accept.
        """
        if fault := self.agency_key.fault(request.agency_id):
            raise InvalidRequest(f"The request isn't valid: agency_id: {fault}.")
        narrowed = self.narrowed(request)
        check_values(
            request,
            uses=_used_by(narrowed.datasets),
            datasets=[dataset.name for dataset in narrowed.datasets],
            declared=self.params,
        )
        return narrowed

    def narrowed(self, request: JobRequest) -> "AgencyJobConfig":
        """
        Return the config with only the request's datasets, in the config's order, and the request's format.

        Raises UnknownJob or UnknownDataset.
        """
        if request.job != self.job:
            raise UnknownJob(request.job, job=self.job)
        available = [dataset.name for dataset in self.datasets]
        wanted = available if request.datasets is None else request.datasets
        if unknown := [name for name in wanted if name not in available]:
            raise UnknownDataset(unknown, available=available)
        changes: dict[str, Any] = {} if request.format is None else {"format": request.format}
        datasets = tuple(each.model_copy(update=changes) for each in self.datasets if each.name in wanted)
        return self.model_copy(update={"datasets": datasets})

    def param_values(self, request: JobRequest) -> Mapping[str, Any]:
        """Return the params as sources and steps get them. Check the request with `for_request` first."""
        return values_of(request.params, self.params)


def _is_valid(model: type[Part], value: Mapping[str, Any]) -> bool:
    try:
        model.model_validate(value)
    except ValidationError:
        return False
    return True


def _with_defaults(dataset: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**defaults, **dataset}
    for key in ("csv", "expect"):
        if isinstance(of_all := defaults.get(key), Mapping) and isinstance(own := merged[key], Mapping):
            merged[key] = {**of_all, **own}
    return merged


def _used_by(datasets: Iterable[DatasetConfig]) -> Uses:
    return reduce(or_, (dataset.uses for dataset in datasets))
