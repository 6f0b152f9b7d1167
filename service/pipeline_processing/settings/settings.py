"""
The service's settings: their names, meanings and defaults.

`PIPELINE_WORKER__CONCURRENCY` in the environment, `worker: {concurrency: …}` in the settings file, and
`settings.worker.concurrency` here are the same setting. `loader.py` reads and merges them.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from pipeline_processing.errors import SecretMissing, SettingsError
from pipeline_processing.options.locations import Location
from pipeline_processing.settings import values

T = TypeVar("T")

_SHORTEST_TOKEN = 16
_LOOPBACK = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1")


class Section(BaseModel):
    """Base class of the settings and of each group: frozen, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", regex_engine="python-re")


class KafkaSettings(Section):
    bootstrap_servers: values.Servers = Field(("localhost:9092",), description="Brokers, with commas between.")
    group_id: values.Text = Field("agency-data-job", description="Consumer group.")
    requests_topic: values.Topic = Field("agency-jobs.requests", description="Topic that requests are read from.")
    completions_topic: values.Topic = Field("agency-jobs.completions", description="Topic of completion events.")
    progress_topic: values.Topic = Field("agency-jobs.progress", description="Topic of progress events.")
    dead_letters_topic: values.Topic = Field(
        "agency-jobs.dead-letters", description="Topic of requests that can't be used."
    )
    create_topics: values.Switch = Field(True, description="Create the topics that are missing.")
    partitions: values.Positive = Field(6, description="Partitions of created topics.")
    replication_factor: values.Positive | None = Field(
        None, description="Replicas of created topics; the broker's default if not set."
    )
    security_protocol: values.SecurityProtocol = Field(
        "PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."
    )
    sasl_mechanism: values.SaslMechanism | None = Field(None, description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.")
    username: values.Text | None = Field(None, description="SASL user name.")
    password: values.Secret | None = Field(None, description="SASL password.")
    ca_file: values.File | None = Field(None, description="Certificates of the authorities to trust, PEM.")
    cert_file: values.File | None = Field(None, description="The client's certificate, PEM.")
    key_file: values.File | None = Field(None, description="The client's key, PEM.")


class SourceSettings(Section):
    dsn: values.Dsn | None = Field(None, description="Postgres that holds the agencies' data; a read replica will do.")
    reader: values.Reader = Field(
        "auto", description="How rows are read: auto, by COPY if its native decoder is installed, or cursor."
    )
    keep_connections: bool = Field(
        True, description="Whether runs use connections of earlier runs, if nothing is known that may be left in them."
    )
    agency_names: values.Text | None = Field(
        None,
        description="Query for the names that `history` shows: `SELECT id, name FROM agencies WHERE id = ANY($1)`.",
    )


class HistorySettings(Section):
    dsn: values.Dsn | None = Field(None, description="Postgres that holds the run history; the source's if not set.")
    # Not called `schema`, which is a method of every pydantic model.
    schema_name: values.SchemaName = Field("pipeline", alias="schema", description="Schema of the run history.")


class S3Settings(Section):
    endpoint_url: values.HttpUrl | None = Field(None, description="URL of an S3-compatible store; AWS if not set.")
    region: values.Text | None = Field(None, description="Region; the usual AWS chain if not set.")
    access_key_id: values.Secret | None = Field(None, description="Access key; the usual AWS chain if not set.")
    secret_access_key: values.Secret | None = Field(
        None, validate_default=True, description="Its secret; the usual AWS chain if not set."
    )
    session_token: values.Secret | None = Field(
        None, description="Session token of temporary credentials, set together with their key and secret."
    )
    addressing_style: values.AddressingStyle = Field(
        "auto", description="How a bucket is addressed: auto, path or virtual."
    )

    # botocore would silently complete partial credentials from elsewhere in its chain. These are field validators,
    # because a model validator doesn't run if any field is invalid, and all faults should be reported at once.

    @field_validator("secret_access_key")
    @classmethod
    def _both_or_neither(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if "access_key_id" in info.data and (info.data["access_key_id"] is None) != (value is None):
            raise ValueError("must be set together with PIPELINE_S3__ACCESS_KEY_ID, or neither of them")
        return value

    @field_validator("session_token")
    @classmethod
    def _only_with_its_key(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        missing = [name for name in ("access_key_id", "secret_access_key") if info.data.get(name, "") is None]
        if value is not None and missing:
            raise ValueError(f"needs {' and '.join(f'PIPELINE_S3__{name.upper()}' for name in missing)} as well")
        return value


class WorkerSettings(Section):
    concurrency: values.Positive = Field(4, description="Runs at once in this process.")
    max_attempts: values.Positive = Field(
        5,
        description="Tries of a run. One that a draining worker handed back doesn't count, nor, for 15 minutes, does "
        "one that failed for what is sure to pass.",
    )
    # An ordinary pause of the process or network would lose a lease of less than a second.
    lease_seconds: Annotated[float, Field(ge=1, allow_inf_nan=False), values.must_be("a number of seconds ≥ 1")] = (
        Field(30.0, description="How long a worker that died keeps its runs.")
    )
    drain_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False), values.must_be("a number of seconds ≥ 0")] = (
        Field(
            60.0, description="How long a stopping worker may take: it hands back what isn't finished shortly before."
        )
    )
    max_runs_per_agency: values.Positive = Field(1, description="Runs at once per agency, over all workers.")
    # S3 accepts no part under 5 MiB except the last. An upload fills one part while others are sent and rows wait to be
    # encoded, so with less than this a single run would block itself.
    memory_budget_mib: Annotated[int, Field(ge=32), values.must_be("a whole number ≥ 32")] = Field(
        256, description="MiB of buffered rows and parts, over all runs of this process; at least 32."
    )


class HttpSettings(Section):
    host: values.Text = Field(
        "127.0.0.1", description="Address of `/livez`, `/readyz` and `/metrics` of `serve` and `triggers`."
    )
    port: values.Port = Field(8080, description="Its port.")


class WebhookSettings(Section):
    url: values.WebhookUrl = Field(
        description="Where completion events are also POSTed: the webhook `billing` is set by "
        "`PIPELINE_WEBHOOKS__BILLING__URL`, or by `webhooks: {billing: {url: …, key: …}}` in a settings file.",
    )
    key: values.WebhookKey = Field(
        description="The key that signs them: at least 16 characters, or `whsec_` and the key in base64."
    )
    states: values.FinalStates = Field(
        ("succeeded", "failed", "cancelled"), description="The states whose events it gets, with commas between."
    )


class BoardSettings(Section):
    host: values.Text = Field("127.0.0.1", description="Address of the page of `board`.")
    port: values.Port = Field(6066, description="Its port.")
    token: values.Secret | None = Field(
        None,
        description="What its pages and its API ask for, at least 16 characters. Needed for any address that other "
        "machines can reach.",
    )
    trace_url: values.TraceUrl | None = Field(
        None, description="Link to a run's trace, such as `https://jaeger/trace/{trace_id}`."
    )


class Settings(Section):
    """All settings of the service."""

    settings_file: values.File | None = Field(None, description="YAML or TOML file with further settings.")
    source: SourceSettings = SourceSettings()
    history: HistorySettings = HistorySettings()
    s3: S3Settings = S3Settings()
    destination: values.Destination | None = Field(
        None,
        description="Where artifacts go: `s3://bucket/prefix` or `file:///dir`; "
        "replaced by the job config's `destinations`.",
    )
    job_config_file: values.File | None = Field(None, description="The job config; `--config` overrides it.")
    triggers_file: values.File | None = Field(None, description="The triggers.")
    secrets: Mapping[str, values.Secret] = Field(
        {},
        description="A secret that the job config names, such as an API's token: `PIPELINE_SECRETS__CRM_TOKEN` is "
        "`crm_token` there, and `secrets: {crm_token: …}` in a settings file.",
    )
    webhooks: Mapping[str, WebhookSettings] = Field({}, description="Receivers of completion events, by name.")
    kafka: KafkaSettings = KafkaSettings()
    worker: WorkerSettings = WorkerSettings()
    http: HttpSettings = HttpSettings()
    board: BoardSettings = BoardSettings()

    def secret(self, name: str) -> SecretStr:
        """Return the secret with that name. Raises SecretMissing."""
        if name not in self.secrets:
            raise SecretMissing(name, available=sorted(self.secrets))
        return self.secrets[name]

    @property
    def history_dsn(self) -> SecretStr | None:
        """The history's DSN, or else the source's."""
        return self.history.dsn or self.source.dsn

    # Settings that a command requires. Each method raises SettingsError, with the remedy, if the setting isn't set.

    def require_source_dsn(self) -> SecretStr:
        return _required(
            self.source.dsn,
            "No source database. Set PIPELINE_SOURCE__DSN to the URL of the Postgres that holds the agencies' data, "
            "such as postgresql://user@host:5432/database, or PIPELINE_SOURCE__DSN_FILE to a file with it.",
        )

    def require_history_dsn(self) -> SecretStr:
        return _required(
            self.history_dsn,
            "No history database. Set PIPELINE_HISTORY__DSN to the URL of the Postgres that holds the run history, "
            "or PIPELINE_SOURCE__DSN, which it defaults to.",
        )

    def require_destination(self) -> Location:
        """Only for a job config without `destinations`."""
        if self.destination is None:
            raise SettingsError(
                "No destination. Set PIPELINE_DESTINATION to s3://bucket/prefix or file:///dir, "
                "or name one under `destinations` in the job config."
            )
        return self.destination

    def require_board_token(self) -> SecretStr | None:
        """Return None only for an address that other machines can't reach."""
        token = self.board.token
        if token is not None and len(token.get_secret_value()) < _SHORTEST_TOKEN:
            raise SettingsError(
                f"PIPELINE_BOARD__TOKEN is too short: it must have at least {_SHORTEST_TOKEN} characters. "
                "`openssl rand -hex 16` makes one."
            )
        if token is None and not _LOOPBACK.fullmatch(self.board.host.lower()):
            raise SettingsError(
                f"The board would listen on {self.board.host}, which other machines can reach. Set "
                "PIPELINE_BOARD__TOKEN to a secret of at least 16 characters, which the page then asks for, or "
                "PIPELINE_BOARD__HOST to 127.0.0.1."
            )
        return token

    def require_job_config_file(self) -> Path:
        return _required(
            self.job_config_file, "No job config. Name its YAML file with --config or PIPELINE_JOB_CONFIG_FILE."
        )

    def require_triggers_file(self) -> Path:
        return _required(self.triggers_file, "No triggers. Name their YAML file with PIPELINE_TRIGGERS_FILE.")


def _required(value: T | None, remedy: str) -> T:
    if value is None:
        raise SettingsError(remedy)
    return value
