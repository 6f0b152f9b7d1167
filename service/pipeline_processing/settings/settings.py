"""
The service's settings: what there is, what it means, what it defaults to.

`PIPELINE_WORKER__CONCURRENCY` in the environment, `worker: {concurrency: …}` in the settings file, and
`settings.worker.concurrency` here are one and the same. How they are read and merged is `settings_loader.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from pipeline_processing.errors import SecretMissing, SettingsError
from pipeline_processing.options.locations import Location
from pipeline_processing.settings import values

Positive = Annotated[int, BeforeValidator(values.whole_number(1))]
Text = Annotated[str, BeforeValidator(values.text)]
# Before, not instead of, what pydantic does with the type: that brings the masked serialisation of secrets.
Secret = Annotated[SecretStr, BeforeValidator(values.secret)]
Dsn = Annotated[SecretStr, BeforeValidator(values.postgres_dsn)]
File = Annotated[Path, BeforeValidator(values.file_path)]
Topic = Annotated[
    str,
    BeforeValidator(values.matching(r"[A-Za-z0-9._-]{1,249}", "must be a topic: letters, digits, `.`, `_`, `-`")),
]
SchemaName = Annotated[
    str,
    BeforeValidator(
        # Not quoted names: the schema stands in every query, and people type it in psql.
        values.matching(
            r"(?!pg_)[a-z_][a-z0-9_]{0,62}",
            "must be lower-case letters, digits and `_`, without `pg_` in front",
        )
    ),
]


class Section(BaseModel):
    """Base of the settings and of each group of them: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class KafkaSettings(Section):
    bootstrap_servers: Annotated[tuple[str, ...], BeforeValidator(values.servers)] = Field(
        ("localhost:9092",), description="Brokers, with commas between."
    )
    group_id: Text = Field("agency-data-job", description="Consumer group.")
    requests_topic: Topic = Field("agency-jobs.requests", description="Topic that requests are read from.")
    completions_topic: Topic = Field("agency-jobs.completions", description="Topic of completion events.")
    progress_topic: Topic = Field("agency-jobs.progress", description="Topic of progress events.")
    dead_letters_topic: Topic = Field("agency-jobs.dead-letters", description="Topic of requests that can't be used.")
    create_topics: Annotated[bool, BeforeValidator(values.yes_or_no)] = Field(
        True, description="Create the topics that are missing."
    )
    partitions: Positive = Field(6, description="Partitions of created topics.")
    replication_factor: Positive | None = Field(
        None, description="Replicas of created topics; the broker's default if not set."
    )
    security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"],
        BeforeValidator(values.one_of("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")),
    ] = Field("PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.")
    sasl_mechanism: (
        Annotated[
            Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"],
            BeforeValidator(values.one_of("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")),
        ]
        | None
    ) = Field(None, description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.")
    username: Text | None = Field(None, description="SASL user name.")
    password: Secret | None = Field(None, description="SASL password.")
    ca_file: File | None = Field(None, description="Certificates of the authorities to trust, PEM.")
    cert_file: File | None = Field(None, description="The client's certificate, PEM.")
    key_file: File | None = Field(None, description="The client's key, PEM.")


class SourceSettings(Section):
    dsn: Dsn | None = Field(None, description="Postgres that holds the agencies' data; a read replica will do.")


class HistorySettings(Section):
    dsn: Dsn | None = Field(None, description="Postgres that holds the run history; the source's if not set.")
    # Not called `schema`, which is a method of every pydantic model.
    schema_name: SchemaName = Field("pipeline", alias="schema", description="Schema of the run history.")


class S3Settings(Section):
    endpoint_url: Annotated[str, BeforeValidator(values.http_url)] | None = Field(
        None, description="URL of an S3-compatible store; AWS if not set."
    )
    region: Text | None = Field(None, description="Region; the usual AWS chain if not set.")
    access_key_id: Secret | None = Field(None, description="Access key; the usual AWS chain if not set.")
    secret_access_key: Secret | None = Field(
        None, validate_default=True, description="Its secret; the usual AWS chain if not set."
    )
    session_token: Secret | None = Field(
        None, description="Session token of temporary credentials, set together with their key and secret."
    )
    addressing_style: Annotated[
        Literal["auto", "path", "virtual"], BeforeValidator(values.one_of("auto", "path", "virtual"))
    ] = Field("auto", description="How a bucket is addressed: auto, path or virtual.")

    @field_validator("secret_access_key")
    @classmethod
    def _both_or_neither(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        # botocore would silently take the other half from somewhere else in its chain. Checked with the
        # field, as a check of the model doesn't run once any field is wrong, and every fault is to be told.
        if "access_key_id" in info.data and (info.data["access_key_id"] is None) != (value is None):
            raise ValueError("must be set together with PIPELINE_S3__ACCESS_KEY_ID, or neither of them")
        return value

    @field_validator("session_token")
    @classmethod
    def _only_with_its_key(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        # botocore would ignore it, and take all credentials from somewhere else in its chain.
        missing = [name for name in ("access_key_id", "secret_access_key") if info.data.get(name, "") is None]
        if value is not None and missing:
            raise ValueError(f"needs {' and '.join(f'PIPELINE_S3__{name.upper()}' for name in missing)} as well")
        return value


class WorkerSettings(Section):
    concurrency: Positive = Field(4, description="Runs at once in this process.")
    max_attempts: Positive = Field(
        5,
        description="Tries of a run. One that a draining worker handed back doesn't count, nor, for 15 minutes, does "
        "one that failed for what is sure to pass.",
    )
    # Under a second, a lease is lost to an ordinary pause of the process or the network.
    lease_seconds: Annotated[float, BeforeValidator(values.seconds(1))] = Field(
        30.0, description="How long a worker that died keeps its runs."
    )
    drain_seconds: Annotated[float, BeforeValidator(values.seconds(0))] = Field(
        60.0, description="How long a stopping worker may take: it hands back what isn't finished shortly before."
    )
    max_runs_per_agency: Positive = Field(1, description="Runs at once per agency, over all workers.")
    # S3 takes no part under 5 MiB but the last. An upload fills one while others are sent and rows wait to be
    # encoded: with less than this a single run would wait for itself.
    memory_budget_mib: Annotated[int, BeforeValidator(values.whole_number(32))] = Field(
        256, description="MiB of buffered rows and parts, over all runs of this process; at least 32."
    )


class HttpSettings(Section):
    host: Text = Field("127.0.0.1", description="Address of `/livez`, `/readyz` and `/metrics` of `serve`.")
    port: Annotated[int, BeforeValidator(values.whole_number(0, 65535))] = Field(8080, description="Its port.")


class Settings(Section):
    """All settings of the service."""

    settings_file: File | None = Field(None, description="YAML or TOML file with further settings.")
    source: SourceSettings = SourceSettings()
    history: HistorySettings = HistorySettings()
    s3: S3Settings = S3Settings()
    destination: Annotated[Location, BeforeValidator(values.location)] | None = Field(
        None,
        description="Where artifacts go: `s3://bucket/prefix` or `file:///dir`; "
        "replaced by the job config's `destinations`.",
    )
    job_config_file: File | None = Field(None, description="The job config; `--config` overrides it.")
    triggers_file: File | None = Field(None, description="The triggers.")
    secrets: Mapping[str, Secret] = Field(
        {},
        description="A secret that the job config names, such as an API's token: `PIPELINE_SECRETS__CRM_TOKEN` is "
        "`crm_token` there, and `secrets: {crm_token: …}` in a settings file.",
    )
    kafka: KafkaSettings = KafkaSettings()
    worker: WorkerSettings = WorkerSettings()
    http: HttpSettings = HttpSettings()

    @property
    def history_dsn(self) -> SecretStr | None:
        """The history's own DSN, or else the source's."""
        return self.history.dsn or self.source.dsn

    def secret(self, name: str) -> SecretStr:
        """The secret of that name. Raises SecretMissing."""
        if name not in self.secrets:
            raise SecretMissing(name, available=sorted(self.secrets))
        return self.secrets[name]

    def require_source_dsn(self) -> SecretStr:
        """Raises SettingsError if there is none, as the other `require_…` do."""
        if self.source.dsn is None:
            raise SettingsError(NO_SOURCE)
        return self.source.dsn

    def require_history_dsn(self) -> SecretStr:
        if self.history_dsn is None:
            raise SettingsError(NO_HISTORY)
        return self.history_dsn

    def require_destination(self) -> Location:
        """Only for a job config that has no `destinations` of its own."""
        if self.destination is None:
            raise SettingsError(NO_DESTINATION)
        return self.destination

    def require_job_config_file(self) -> Path:
        if self.job_config_file is None:
            raise SettingsError(NO_JOB_CONFIG)
        return self.job_config_file


NO_SOURCE = (
    "No source database. Set PIPELINE_SOURCE__DSN to the URL of the Postgres that holds the agencies' data, "
    "such as postgresql://user@host:5432/database, or PIPELINE_SOURCE__DSN_FILE to a file with it."
)
NO_HISTORY = (
    "No history database. Set PIPELINE_HISTORY__DSN to the URL of the Postgres that holds the run history, "
    "or PIPELINE_SOURCE__DSN, which it defaults to."
)
NO_DESTINATION = (
    "No destination. Set PIPELINE_DESTINATION to s3://bucket/prefix or file:///dir, "
    "or name one under `destinations` in the job config."
)
NO_JOB_CONFIG = "No job config. Name its YAML file with --config or PIPELINE_JOB_CONFIG_FILE."
