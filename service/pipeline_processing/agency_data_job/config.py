"""The job config: what a user writes in YAML, checked as a whole. Its JSON Schema is published in `schemas/`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from pipeline_processing.durations import Duration
from pipeline_processing.errors import JobConfigError, UnknownDataset, UnknownJob
from pipeline_processing.locations import parse_location
from pipeline_processing.model import Compression, FormatName, JobRequest
from pipeline_processing.steps.config import StepConfig
from pipeline_processing.validation import faults_of

DatasetName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]


class InvalidJobConfig(JobConfigError):
    """The job config breaks its schema. The message lists every fault."""


class Part(BaseModel):
    """Base of every part of the config: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PostgresSourceConfig(Part):
    """A query, read in the run's one snapshot."""

    query: str = Field(min_length=1, description="SQL; $1, $2, … stand for `args`.")
    args: tuple[str, ...] = Field(
        (), description="Names: agency_id, run_id, since, until, or one of the request's params."
    )
    statement_timeout: Duration | None = Field(None, description="e.g. 90s, 15m, 1h; none by default.")


class SourceConfig(Part):
    """Where the rows come from."""

    postgres: PostgresSourceConfig


class Expect(Part):
    """Checks that fail the run before it is published."""

    min_rows: int | None = Field(None, ge=0, description="Fewest rows written.")
    max_rows: int | None = Field(None, ge=0, description="Most rows written.")


class DatasetConfig(Part):
    """One query's worth of an agency's rows."""

    name: DatasetName
    source: SourceConfig
    steps: tuple[StepConfig, ...] = ()
    format: FormatName = FormatName.NDJSON
    compression: Compression = Compression.NONE
    expect: Expect = Expect()


class S3DestinationConfig(Part):
    """A bucket and the prefix below it."""

    bucket: str
    prefix: str = ""

    @model_validator(mode="after")
    def _is_a_location(self) -> "S3DestinationConfig":
        parse_location(f"s3://{self.bucket}/{self.prefix.strip('/')}")  # by the rules of PIPELINE_DESTINATION
        return self


class FileDestinationConfig(Part):
    """A folder, absolute."""

    path: Path

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        if not path.is_absolute():
            raise ValueError(f"must be an absolute path, not {str(path)!r}")
        return path


class S3DestinationEntry(Part):
    s3: S3DestinationConfig


class FileDestinationEntry(Part):
    file: FileDestinationConfig


DestinationConfig = S3DestinationEntry | FileDestinationEntry


class AgencyJobConfig(Part):
    """The whole job: its datasets, and where their artifacts go."""

    job: Literal["agency_data_job"] = "agency_data_job"
    datasets: tuple[DatasetConfig, ...] = Field(min_length=1)
    destinations: tuple[DestinationConfig, ...] | None = Field(
        None, max_length=1, min_length=1, description="Replaces PIPELINE_DESTINATION."
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> "AgencyJobConfig":
        names = [dataset.name for dataset in self.datasets]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two datasets are named {', '.join(twice)}: give each a name of its own")
        return self

    def for_request(self, request: JobRequest) -> "AgencyJobConfig":
        """
        The config narrowed to what a request asks for: its datasets, in the config's order, and its format.

        Raises UnknownJob or UnknownDataset.
        """
        if request.job != self.job:
            raise UnknownJob(request.job, job=self.job)
        wanted = [dataset.name for dataset in self.datasets] if request.datasets is None else request.datasets
        available = [dataset.name for dataset in self.datasets]
        if unknown := [name for name in wanted if name not in available]:
            raise UnknownDataset(unknown, available=available)
        changes: dict[str, Any] = {} if request.format is None else {"format": request.format}
        return self.model_copy(
            update={"datasets": tuple(d.model_copy(update=changes) for d in self.datasets if d.name in wanted)}
        )


def load_job_config(path: Path) -> AgencyJobConfig:
    """
    Read a job config.

    Raises InvalidJobConfig with every fault at once: an unreadable file, broken YAML, or a broken schema.
    """
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidJobConfig(
            f"Can't read the job config {path}: {error.strerror}. Name an existing file with --config or "
            "PIPELINE_JOB_CONFIG_FILE."
        ) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date that there isn't
        raise InvalidJobConfig(f"The job config {path} isn't YAML: {error}") from None
    if not isinstance(document, dict):
        raise InvalidJobConfig(f"The job config {path} must be a mapping with `job` and `datasets`.")
    try:
        return AgencyJobConfig.model_validate(document)
    except ValidationError as error:
        faults = "\n".join(f"  {fault}" for fault in faults_of(error))
        raise InvalidJobConfig(f"The job config {path} isn't valid:\n{faults}") from None
