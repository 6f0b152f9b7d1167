"""Settings: where they come from, what is refused, and that no secret gets out."""

from base64 import b64encode
from contextlib import suppress
from pathlib import Path

import hypothesis
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from pipeline_processing.errors import SecretMissing, SettingsError
from pipeline_processing.http.signatures import signing_key
from pipeline_processing.options.locations import FileLocation, S3Location
from pipeline_processing.settings.keys import ALL_SETTINGS, NAMED, SETTINGS, variable_of
from pipeline_processing.settings.loader import InvalidSettings, LoadedSettings, load_settings
from pipeline_processing.settings.settings import Settings
from pipeline_processing.telemetry.masking import Mask

DSN = "postgresql://app:tops3cret@db.internal:5432/agencies"

CONTRACT = {
    "PIPELINE_SETTINGS_FILE": None,
    "PIPELINE_SOURCE__DSN": None,
    "PIPELINE_SOURCE__READER": "auto",
    "PIPELINE_SOURCE__KEEP_CONNECTIONS": "true",
    "PIPELINE_SOURCE__AGENCY_NAMES": None,
    "PIPELINE_HISTORY__DSN": None,
    "PIPELINE_HISTORY__SCHEMA": "pipeline",
    "PIPELINE_S3__ENDPOINT_URL": None,
    "PIPELINE_S3__REGION": None,
    "PIPELINE_S3__ACCESS_KEY_ID": None,
    "PIPELINE_S3__SECRET_ACCESS_KEY": None,
    "PIPELINE_S3__SESSION_TOKEN": None,
    "PIPELINE_S3__ADDRESSING_STYLE": "auto",
    "PIPELINE_DESTINATION": None,
    "PIPELINE_JOB_CONFIG_FILE": None,
    "PIPELINE_TRIGGERS_FILE": None,
    "PIPELINE_KAFKA__BOOTSTRAP_SERVERS": "localhost:9092",
    "PIPELINE_KAFKA__GROUP_ID": "agency-data-job",
    "PIPELINE_KAFKA__REQUESTS_TOPIC": "agency-jobs.requests",
    "PIPELINE_KAFKA__COMPLETIONS_TOPIC": "agency-jobs.completions",
    "PIPELINE_KAFKA__PROGRESS_TOPIC": "agency-jobs.progress",
    "PIPELINE_KAFKA__DEAD_LETTERS_TOPIC": "agency-jobs.dead-letters",
    "PIPELINE_KAFKA__CREATE_TOPICS": "true",
    "PIPELINE_KAFKA__PARTITIONS": "6",
    "PIPELINE_KAFKA__REPLICATION_FACTOR": None,
    "PIPELINE_KAFKA__SECURITY_PROTOCOL": "PLAINTEXT",
    "PIPELINE_KAFKA__SASL_MECHANISM": None,
    "PIPELINE_KAFKA__USERNAME": None,
    "PIPELINE_KAFKA__PASSWORD": None,
    "PIPELINE_KAFKA__CA_FILE": None,
    "PIPELINE_KAFKA__CERT_FILE": None,
    "PIPELINE_KAFKA__KEY_FILE": None,
    "PIPELINE_WORKER__CONCURRENCY": "4",
    "PIPELINE_WORKER__MAX_ATTEMPTS": "5",
    "PIPELINE_WORKER__LEASE_SECONDS": "30",
    "PIPELINE_WORKER__DRAIN_SECONDS": "60",
    "PIPELINE_WORKER__MAX_RUNS_PER_AGENCY": "1",
    "PIPELINE_WORKER__MEMORY_BUDGET_MIB": "256",
    "PIPELINE_HTTP__HOST": "127.0.0.1",
    "PIPELINE_HTTP__PORT": "8080",
    "PIPELINE_BOARD__HOST": "127.0.0.1",
    "PIPELINE_BOARD__PORT": "6066",
    "PIPELINE_BOARD__TOKEN": None,
    "PIPELINE_BOARD__TRACE_URL": None,
}

NAMED_SECRETS = "PIPELINE_SECRETS__…"
"""Their names are the user's, as are those of webhooks."""
OF_WEBHOOKS = ["PIPELINE_WEBHOOKS__…__URL", "PIPELINE_WEBHOOKS__…__KEY", "PIPELINE_WEBHOOKS__…__STATES"]

SECRETS = [
    "PIPELINE_SOURCE__DSN",
    "PIPELINE_HISTORY__DSN",
    "PIPELINE_S3__ACCESS_KEY_ID",
    "PIPELINE_S3__SECRET_ACCESS_KEY",
    "PIPELINE_S3__SESSION_TOKEN",
    "PIPELINE_KAFKA__PASSWORD",
    "PIPELINE_BOARD__TOKEN",
]


def faults(environ: dict[str, str]) -> list[str]:
    with pytest.raises(InvalidSettings) as caught:
        load_settings(environ)
    assert str(caught.value).splitlines()[1:] == [f"  {fault}" for fault in caught.value.faults]
    return list(caught.value.faults)


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


# -- where values come from ----------------------------------------------------------------------


def test_the_settings_are_the_contracts_with_its_defaults() -> None:
    """No variable more or less than users were promised, and each is described."""
    assert {variable_of(path): key.displayed(Settings()) for path, key in SETTINGS.items()} == CONTRACT
    assert [variable_of(path) for path in NAMED] == [NAMED_SECRETS, *OF_WEBHOOKS]
    assert all(key.field.description for key in ALL_SETTINGS)
    secrets = [variable_of(key.path) for key in ALL_SETTINGS if key.secret]
    assert sorted(secrets) == sorted([*SECRETS, NAMED_SECRETS, *OF_WEBHOOKS[:2]])


def test_without_anything_set_all_is_default() -> None:
    loaded = load_settings({"PATH": "/bin", "PIPELINES": "7"})

    assert {entry.variable: entry.value for entry in loaded.entries()} == CONTRACT
    assert set(loaded.origins.values()) == {"default"}


def test_command_line_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    """Each setting is taken from the first that has it, and says so."""
    file = write(
        tmp_path / "settings.yaml",
        "job_config_file: file.yaml\nworker: {concurrency: 7, max_attempts: 8}\nhttp: {port: 9}",
    )
    environ = {
        "PIPELINE_SETTINGS_FILE": file,
        "PIPELINE_WORKER__CONCURRENCY": "2",
        "PIPELINE_JOB_CONFIG_FILE": "environment.yaml",
    }

    loaded = load_settings(
        environ, overrides={"PIPELINE_JOB_CONFIG_FILE": Path("option.yaml"), "PIPELINE_HTTP__PORT": None}
    )

    assert loaded.settings.job_config_file == Path("option.yaml")
    assert loaded.settings.worker.concurrency == 2
    assert loaded.settings.worker.max_attempts == 8
    assert loaded.settings.worker.lease_seconds == 30
    assert loaded.origins["PIPELINE_JOB_CONFIG_FILE"] == "command line"
    assert loaded.origins["PIPELINE_WORKER__CONCURRENCY"] == "environment"
    assert loaded.origins["PIPELINE_WORKER__MAX_ATTEMPTS"] == f"file {file}"
    assert loaded.origins["PIPELINE_HTTP__PORT"] == f"file {file}"
    assert loaded.origins["PIPELINE_WORKER__LEASE_SECONDS"] == "default"


def test_toml_does_as_well(tmp_path: Path) -> None:
    file = write(
        tmp_path / "settings.toml", '[worker]\nlease_seconds = 1.5\n[kafka]\nbootstrap_servers = ["a:1", "b:2"]'
    )

    settings = load_settings({"PIPELINE_SETTINGS_FILE": file}).settings

    assert settings.worker.lease_seconds == 1.5
    assert settings.kafka.bootstrap_servers == ("a:1", "b:2")


def test_case_does_not_matter(tmp_path: Path) -> None:
    file = write(tmp_path / "settings.YML", "Worker: {MAX_ATTEMPTS: 3}")

    settings = load_settings({"pipeline_settings_file": file, "Pipeline_Worker__Concurrency": "9"}).settings

    assert (settings.worker.concurrency, settings.worker.max_attempts) == (9, 3)


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_an_empty_variable_is_one_that_is_not_set(name: str) -> None:
    assert load_settings({name: ""}) == load_settings({})


def test_empty_and_null_in_a_file_are_not_set_either(tmp_path: Path) -> None:
    file = write(tmp_path / "settings.yaml", "source: {dsn: ''}\nhttp:\nworker: {}\ndestination: null")

    assert load_settings({"PIPELINE_SETTINGS_FILE": file}).settings.destination is None


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    load_settings({"PIPELINE_SETTINGS_FILE": write(tmp_path / "settings.yaml", "# nothing yet\n")})


def test_the_history_is_where_the_source_is_unless_it_has_its_own() -> None:
    shared = load_settings({"PIPELINE_SOURCE__DSN": DSN})
    own = load_settings({"PIPELINE_SOURCE__DSN": DSN, "PIPELINE_HISTORY__DSN": "postgres://history"})

    assert shared.settings.require_history_dsn().get_secret_value() == DSN
    assert own.settings.require_history_dsn().get_secret_value() == "postgres://history"
    entry = next(entry for entry in shared.entries() if entry.variable == "PIPELINE_HISTORY__DSN")
    hidden = "postgresql://app:********@db.internal:5432/agencies"
    assert (entry.value, entry.origin) == (hidden, "default, from PIPELINE_SOURCE__DSN")


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgres://db", "postgres://db"),
        (
            "postgresql://app@one:5432,two:5433/x?sslmode=require",
            "postgresql://app@one:5432,two:5433/x?sslmode=require",
        ),
        ("postgresql://app:s:3@c@db/x", "postgresql://app:********@db/x"),
        ("postgresql://:s3c@db", "postgresql://:********@db"),
        ("postgresql://db/x?user=app&password=s3c", "postgresql://db/x?user=app&password=********"),
        ("postgresql://db/x?sslpassword=s3c&sslrootcert=/ca", "postgresql://db/x?sslpassword=********&sslrootcert=/ca"),
        ("postgresql://app:3/c@db/x", "********"),
    ],
)
def test_of_a_database_only_the_password_is_masked(dsn: str, shown: str) -> None:
    """So that an operator sees which server it is. Where the password ends must be certain."""
    loaded = load_settings({"PIPELINE_HISTORY__DSN": dsn})

    assert next(entry.value for entry in loaded.entries() if entry.variable == "PIPELINE_HISTORY__DSN") == shown


# -- secrets -------------------------------------------------------------------------------------


def good_value(variable: str) -> str:
    return DSN if variable.endswith("DSN") else "tops3cret"


def with_its_pair(environ: dict[str, str]) -> dict[str, str]:
    """S3's two keys only come together, and a session token only with them."""
    pair = ("PIPELINE_S3__ACCESS_KEY_ID", "PIPELINE_S3__SECRET_ACCESS_KEY")
    if any(name.startswith((*pair, "PIPELINE_S3__SESSION_TOKEN")) for name in environ):
        for variable in pair:
            if not any(name.startswith(variable) for name in environ):
                environ[variable] = "other"
    return environ


@pytest.mark.parametrize("variable", SECRETS)
def test_a_secret_can_stand_in_a_file(variable: str, tmp_path: Path) -> None:
    """Its trailing newline isn't part of it."""
    file = write(tmp_path / "secret", f"{good_value(variable)}\n")

    loaded = load_settings(with_its_pair({f"{variable}_FILE": file}))

    assert loaded.origins[variable] == f"file (secret) {file}"
    section, name = variable.removeprefix("PIPELINE_").lower().split("__")
    value = getattr(getattr(loaded.settings, section), name)
    assert value.get_secret_value() == good_value(variable)


def test_a_settings_file_can_point_to_a_secrets_file(tmp_path: Path) -> None:
    secret = write(tmp_path / "dsn", DSN)
    file = write(tmp_path / "settings.yaml", f"source: {{dsn_file: {secret}}}")

    loaded = load_settings({"PIPELINE_SETTINGS_FILE": file})

    assert loaded.settings.require_source_dsn().get_secret_value() == DSN
    assert loaded.origins["PIPELINE_SOURCE__DSN"] == f"file (secret) {secret}, named in file {file}"


def test_the_environment_beats_a_secrets_file_of_the_settings_file(tmp_path: Path) -> None:
    file = write(tmp_path / "settings.yaml", f"source: {{dsn_file: {write(tmp_path / 'dsn', 'postgres://other')}}}")

    loaded = load_settings({"PIPELINE_SETTINGS_FILE": file, "PIPELINE_SOURCE__DSN": DSN})

    assert loaded.settings.require_source_dsn().get_secret_value() == DSN


def test_other_settings_that_end_in_file_are_paths(tmp_path: Path) -> None:
    """A CA file is named, not read."""
    settings = load_settings(
        {
            "PIPELINE_KAFKA__CA_FILE": "/nowhere/ca.pem",
            "PIPELINE_KAFKA__KEY_FILE": "/nowhere/key.pem",
            "PIPELINE_TRIGGERS_FILE": "/nowhere/triggers.yaml",
        }
    ).settings

    assert settings.kafka.ca_file == Path("/nowhere/ca.pem")
    assert settings.triggers_file == Path("/nowhere/triggers.yaml")


@pytest.mark.parametrize("variable", SECRETS)
def test_a_secrets_file_that_cannot_be_used_is_a_fault(variable: str, tmp_path: Path) -> None:
    name = f"{variable}_FILE"
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    empty = write(tmp_path / "empty", "\n")
    both = {name: write(tmp_path / "secret", good_value(variable)), variable: good_value(variable)}

    assert f"{name}: can't read /nowhere/secret: No such file or directory" in faults({name: "/nowhere/secret"})
    assert f"{name}: can't read {tmp_path / 'binary'}: it isn't UTF-8 text" in faults({name: f"{tmp_path / 'binary'}"})
    assert f"{name}: {empty} is empty" in faults({name: empty})
    assert faults(with_its_pair(both)) == [f"{name}: {variable} is set too; keep one of them"]


def test_named_secrets_come_from_everywhere(tmp_path: Path) -> None:
    """From the environment, the settings file, and files that either names; the names are the user's, in lower case."""
    file = write(
        tmp_path / "settings.yaml",
        f"""
        secrets:
          written: tops3cret 1
          Behind_FILE: {write(tmp_path / "one", "tops3cret 2")}
          both: not this one
        """,
    )
    environ = {
        "PIPELINE_SETTINGS_FILE": file,
        "PIPELINE_SECRETS__BOTH": "tops3cret 3",
        "PIPELINE_SECRETS__FILE": "tops3cret 4",
        "pipeline_secrets__crm__token": "tops3cret 5",
        "PIPELINE_SECRETS__KEY_1_FILE": write(tmp_path / "two", "tops3cret 6\n"),
        "PIPELINE_SECRETS__UNSET": "",
    }

    loaded = load_settings(environ)

    assert {name: secret.get_secret_value() for name, secret in loaded.settings.secrets.items()} == {
        "written": "tops3cret 1",
        "behind": "tops3cret 2",
        "both": "tops3cret 3",
        "file": "tops3cret 4",
        "crm__token": "tops3cret 5",
        "key_1": "tops3cret 6",
    }
    named = {entry.variable: (entry.value, entry.origin) for entry in loaded.entries() if "SECRETS" in entry.variable}
    assert named == {
        "PIPELINE_SECRETS__BEHIND": ("********", f"file (secret) {tmp_path / 'one'}, named in file {file}"),
        "PIPELINE_SECRETS__BOTH": ("********", "environment"),
        "PIPELINE_SECRETS__CRM__TOKEN": ("********", "environment"),
        "PIPELINE_SECRETS__FILE": ("********", "environment"),
        "PIPELINE_SECRETS__KEY_1": ("********", f"file (secret) {tmp_path / 'two'}"),
        "PIPELINE_SECRETS__WRITTEN": ("********", f"file {file}"),
    }
    assert "tops3cret" not in all_that_could_be_printed(loaded)


def test_a_named_secret_is_had_by_its_name() -> None:
    """One that isn't there is told with those that are, and how to set it."""
    settings = load_settings({"PIPELINE_SECRETS__CRM_TOKEN": "tops3cret"}).settings

    assert settings.secret("crm_token").get_secret_value() == "tops3cret"
    with pytest.raises(
        SecretMissing, match=r"'crm_tokn'.*the settings have crm_token.*PIPELINE_SECRETS__CRM_TOKN_FILE"
    ) as caught:
        settings.secret("crm_tokn")
    assert "tops3cret" not in str(caught.value)
    assert caught.value.exit_code == 78


@pytest.mark.parametrize("name", ["1X", "_X", "X-Y", "É", "A" * 64, "X_FILE_FILE"])
def test_a_secret_may_not_have_any_name(name: str) -> None:
    """The rule is told."""
    variable = f"PIPELINE_SECRETS__{name}"

    assert faults({variable: "tops3cret"}) == [
        f"{variable}: the name of a secret must be a lower-case letter, then up to 62 lower-case letters, digits and "
        "`_`, without `_file` at its end"
    ]


@pytest.mark.parametrize("variable", [*SECRETS, "PIPELINE_SECRETS__CRM_TOKEN"])
def test_a_secret_in_place_of_its_file_is_not_repeated(variable: str) -> None:
    """Only what begins as a path does is shown."""
    name = f"{variable}_FILE"

    assert f"{name}: can't read the file that it should name: No such file or directory" in faults({name: "tops3cret"})


def test_secrets_without_names_are_faults(tmp_path: Path) -> None:
    """Neither a variable for all of them, nor a value that isn't text, nor a mapping in a mapping."""
    plain = write(tmp_path / "plain.yaml", "secrets: tops3cret")
    wrong = write(
        tmp_path / "wrong.yaml", "secrets: {a: 12345678, b: {c: tops3cret}, d: tops3cret, D_FILE: /nowhere/d}"
    )
    rule = "the name of a secret must be a lower-case letter"

    assert faults({"PIPELINE_SECRETS": "tops3cret"}) == [
        "PIPELINE_SECRETS: must have a name for each secret, such as PIPELINE_SECRETS__CRM_TOKEN"
    ]
    assert faults({"PIPELINE_SETTINGS_FILE": plain}) == [
        f"{plain}:1:1 secrets: must have a name for each secret, such as PIPELINE_SECRETS__CRM_TOKEN"
    ]
    told = faults({"PIPELINE_SETTINGS_FILE": wrong})
    assert [line.split(", then")[0] for line in told] == [
        f"{wrong}:1:28 secrets.b.c: {rule}",
        f"{wrong}:1:57 secrets.D_FILE: {wrong}:1:43 secrets.d is set too; keep one of them",
        f"{wrong}:1:11 secrets.a: must be text in quotes",
    ]


@pytest.mark.parametrize("content", ["secrets:", "secrets: {}", "secrets: {a: null, b: ''}"])
def test_no_secrets_in_a_file_are_none(content: str, tmp_path: Path) -> None:
    """As with every other section."""
    file = write(tmp_path / "settings.yaml", content)

    assert load_settings({"PIPELINE_SETTINGS_FILE": file}).settings.secrets == {}


WEBHOOK = {
    "PIPELINE_WEBHOOKS__BILLING__URL": "https://hooks.example/runs?token=tops3cret",
    "PIPELINE_WEBHOOKS__BILLING__KEY": "0123456789abcdef",
}


def test_webhooks_come_from_everywhere(tmp_path: Path) -> None:
    """URL and key are secrets, which may stand in files; their states are shown."""
    key = write(tmp_path / "key", f"whsec_{b64encode(b'tops3cret in base64').decode()}\n")
    file = write(
        tmp_path / "settings.yaml",
        f"""
        webhooks:
          chat: {{url: "https://user:tops3cret@chat.example/T0/tops3cret", key_file: {key}, states: [failed]}}
        """,
    )
    loaded = load_settings(
        {**WEBHOOK, "PIPELINE_SETTINGS_FILE": file, "pipeline_webhooks__billing__states": "failed, cancelled"}
    )

    chat, billing = loaded.settings.webhooks["chat"], loaded.settings.webhooks["billing"]
    assert signing_key(chat.key.get_secret_value()) == b"tops3cret in base64"
    assert chat.states == ("failed",)
    assert billing.states == ("failed", "cancelled")
    assert billing.url.get_secret_value() == WEBHOOK["PIPELINE_WEBHOOKS__BILLING__URL"]
    named = {entry.variable: (entry.value, entry.origin) for entry in loaded.entries() if "WEBHOOKS" in entry.variable}
    assert named == {
        "PIPELINE_WEBHOOKS__BILLING__URL": ("********", "environment"),
        "PIPELINE_WEBHOOKS__BILLING__KEY": ("********", "environment"),
        "PIPELINE_WEBHOOKS__BILLING__STATES": ("failed,cancelled", "environment"),
        "PIPELINE_WEBHOOKS__CHAT__URL": ("********", f"file {file}"),
        "PIPELINE_WEBHOOKS__CHAT__KEY": ("********", f"file (secret) {key}, named in file {file}"),
        "PIPELINE_WEBHOOKS__CHAT__STATES": ("failed", f"file {file}"),
    }
    assert "tops3cret" not in all_that_could_be_printed(loaded)


def test_a_webhook_gets_all_final_states_by_default() -> None:
    loaded = load_settings(WEBHOOK)

    assert loaded.settings.webhooks["billing"].states == ("succeeded", "failed", "cancelled")
    assert [entry.origin for entry in loaded.entries() if entry.variable.endswith("STATES")] == ["default"]


URL_RULE = "must be an http or https URL such as https://host/path, without a fragment"
KEY_RULE = "must be at least 16 characters, or `whsec_` and at least 16 bytes in base64"
STATES_RULE = "must be succeeded, failed or cancelled, several with commas between"
MISSING = "must be set, as every webhook needs a URL and a key"


@pytest.mark.parametrize(
    ("variable", "value", "fault"),
    [
        ("BILLING__URL", "ftp://tops3cret", URL_RULE),
        ("BILLING__URL", "https://h/tops3cret#x", URL_RULE),
        ("BILLING__KEY", "tops3cret", KEY_RULE),
        ("BILLING__KEY", "whsec_tops3cret!", KEY_RULE),
        ("BILLING__STATES", "failed,queued", f"{STATES_RULE}, not 'failed,queued'"),
        ("BILLING__URL", "", MISSING),
        ("BILLING__KEY", "", MISSING),
    ],
)
def test_a_wrong_webhook_is_a_fault_that_repeats_no_secret(variable: str, value: str, fault: str) -> None:
    name = f"PIPELINE_WEBHOOKS__{variable}"

    assert faults({**WEBHOOK, name: value}) == [f"{name}: {fault}"]


@pytest.mark.parametrize("variable", ["", "__BILLING", "__BILLING__TIMEOUT", "__1X__URL"])
def test_what_a_webhook_does_not_have_is_a_fault(variable: str) -> None:
    """It says what a webhook has."""
    (fault,) = faults({f"PIPELINE_WEBHOOKS{variable}": "tops3cret"})

    assert fault.startswith(
        f"PIPELINE_WEBHOOKS{variable}: a webhook has url, key and states, such as PIPELINE_WEBHOOKS__BILLING__URL"
    )


def test_plain_words_in_the_path_of_a_webhook_are_not_masked() -> None:
    """The word `webhook` stands in log lines. A path that may be a secret is masked."""
    mask = Mask()
    load_settings(
        {
            "PIPELINE_WEBHOOKS__A__URL": "https://a.example/webhook",
            "PIPELINE_WEBHOOKS__A__KEY": "0123456789abcdef",
            "PIPELINE_WEBHOOKS__B__URL": "https://b.example/services/T0123456",
            "PIPELINE_WEBHOOKS__B__KEY": "whsec_MDEyMzQ1Njc4OWFiY2RlZg==",
        },
        mask=mask,
    )

    assert mask.text("webhook https://a.example/webhook 0123456789abcdef") == "webhook *** ***"
    assert mask.text("at services/T0123456") == "at ***"


def test_the_mask_gets_to_know_all_secrets() -> None:
    """Those of this service, wherever they are set, and those that drivers read from the environment by themselves."""
    mask = Mask()
    load_settings(
        {
            "PIPELINE_SOURCE__DSN": "postgresql://app:of-source@db/x",
            "PIPELINE_SECRETS__MASKED": "of a user",
            "PIPELINE_KAFKA__PASSWORD": "kafkas own",
            "PIPELINE_S3__ACCESS_KEY_ID": "of-the-key",
            "PIPELINE_S3__SECRET_ACCESS_KEY": "of-the-store",
            "PGPASSWORD": "of-libpq",
            "AWS_SESSION_TOKEN": "of-a-session",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": "of-a-container",
            "OTEL_EXPORTER_OTLP_HEADERS": "x-team=core,authorization=Bearer%20of-traces,x-key=0123456789abcdef",
        },
        mask=mask,
    )

    secrets = ("of-source", "of a user", "kafkas own", "of-the-key", "of-the-store")
    for secret in (*secrets, "of-libpq", "of-a-session", "of-a-container"):
        assert mask.text(f"<{secret}>") == "<***>"
    assert mask.text("of-traces 0123456789abcdef core") == "*** *** core"


def test_the_mask_knows_secrets_of_settings_that_are_wrong() -> None:
    """They stop the service, and its last words are masked as well."""
    mask = Mask()
    with pytest.raises(InvalidSettings):
        load_settings({"PIPELINE_SECRETS__A": "s3cret-of-mine", "PIPELINE_WORKER__CONCURRENCY": "none"}, mask=mask)

    assert mask.text("s3cret-of-mine") == "***"


def test_a_secret_that_is_public_elsewhere() -> None:
    """The word `pipeline` stands in every log line: it is masked as a password, and nowhere else."""
    mask = Mask()
    load_settings(
        {
            "PIPELINE_SOURCE__DSN": "postgresql://pipeline:pipeline@db/x",
            "PIPELINE_KAFKA__USERNAME": "exporter",
            "PIPELINE_KAFKA__PASSWORD": "exporter",
        },
        mask=mask,
    )

    said = "pipeline_processing: exporter of pipeline can't reach postgresql://pipeline:***@db/x"
    assert mask.text(said.replace("***", "pipeline")) == said


def all_that_could_be_printed(loaded: LoadedSettings) -> str:
    settings = loaded.settings
    return "\n".join(
        [
            repr(loaded),
            str(settings),
            repr(settings),
            str(settings.model_dump()),
            settings.model_dump_json(),
            str(loaded.entries()),
            str(loaded.origins),
        ]
    )


def test_no_secret_is_in_anything_printable() -> None:
    environ = {variable: good_value(variable) for variable in SECRETS}

    loaded = load_settings(environ)

    assert "tops3cret" not in all_that_could_be_printed(loaded)
    assert loaded.settings.kafka.password is not None
    assert loaded.settings.kafka.password.get_secret_value() == "tops3cret"


@pytest.mark.parametrize(
    "dsn",
    [
        "mysql://app:tops3cret@host/db",
        "host=db user=app password=tops3cret",
        "postgresql://app:tops3cret@host:port/db",
        "postgresql://app:tops3cret@host:99999/db",
        "postgresql://app:tops3cret/more@host/db",
        "postgresql://app:tops3cret#more@host/db",
        "tops3cret",
    ],
)
def test_a_wrong_dsn_is_a_fault_that_does_not_repeat_it(dsn: str, tmp_path: Path) -> None:
    """Neither from the environment nor from a file, and neither in the message nor in what led to it."""
    file = write(tmp_path / "settings.yaml", f"source: {{dsn: '{dsn}'}}")
    for environ in ({"PIPELINE_SOURCE__DSN": dsn}, {"PIPELINE_SETTINGS_FILE": file}):
        with pytest.raises(InvalidSettings, match=r"dsn: must be a URL such as postgresql://|DSN: must be") as caught:
            load_settings(environ)
        assert "tops3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgres://localhost",
        "postgresql://u:p%2Fw@[::1]:5432/db?sslmode=require",
        "postgresql://u:p@ss@host/db",
        "postgresql://u:p@one:5432,two:5433/db?target_session_attrs=any",
        "postgresql:///db?host=/var/run/postgresql",
        "postgresql://u@/db?host=/var/run/postgresql",
    ],
)
def test_a_dsn_may_have_any_form_that_the_driver_takes(dsn: str) -> None:
    assert load_settings({"PIPELINE_SOURCE__DSN": dsn}).settings.require_source_dsn().get_secret_value() == dsn


@pytest.mark.parametrize("variable", [name for name in sorted(CONTRACT) if name != "PIPELINE_SETTINGS_FILE"])
def test_a_dsn_in_the_wrong_place_is_not_repeated(variable: str) -> None:
    """People paste into the wrong line; the fault says what belongs there, not what stands there."""
    with suppress(InvalidSettings):
        load_settings(with_its_pair({variable: DSN}))
        return
    assert "tops3cret" not in "".join(faults(with_its_pair({variable: DSN})))


def test_a_key_that_is_written_twice_is_a_fault(tmp_path: Path) -> None:
    """The first value isn't silently lost, and neither value is repeated."""
    file = write(tmp_path / "settings.yaml", "kafka:\n  password: tops3cret\n  group_id: a\n  password: tops3cret2\n")

    assert faults({"PIPELINE_SETTINGS_FILE": file}) == [
        f"PIPELINE_SETTINGS_FILE: {file} isn't valid YAML (at line 4, column 3): the key 'password' is written twice"
    ]


def test_only_true_and_false_are_booleans_in_a_file(tmp_path: Path) -> None:
    """A user may be called `no`."""
    file = write(tmp_path / "settings.yaml", "kafka: {username: no, create_topics: false}\nhttp: {host: on}")

    settings = load_settings({"PIPELINE_SETTINGS_FILE": file}).settings

    assert (settings.kafka.username, settings.kafka.create_topics, settings.http.host) == ("no", False, "on")


def test_broken_files_are_not_quoted(tmp_path: Path) -> None:
    """Parsers like to show the line they stumbled over."""
    yaml = write(tmp_path / "settings.yaml", "kafka:\n  password: *tops3cret\n")
    toml = write(tmp_path / "settings.toml", "[kafka]\npassword = tops3cret\n")

    assert faults({"PIPELINE_SETTINGS_FILE": yaml}) == [
        f"PIPELINE_SETTINGS_FILE: {yaml} isn't valid YAML (at line 2, column 13)"
    ]
    assert faults({"PIPELINE_SETTINGS_FILE": toml}) == [
        f"PIPELINE_SETTINGS_FILE: {toml} isn't valid TOML (at line 2, column 12)"
    ]


# -- faults --------------------------------------------------------------------------------------

FAULTS = {
    "PIPELINE_WORKER__CONCURRENCY": ("four", "must be a whole number ≥ 1, not 'four'"),
    "PIPELINE_WORKER__MAX_ATTEMPTS": ("0", "must be a whole number ≥ 1, not '0'"),
    "PIPELINE_WORKER__LEASE_SECONDS": ("0.5", "must be a number of seconds ≥ 1, not '0.5'"),
    "PIPELINE_WORKER__DRAIN_SECONDS": ("-1", "must be a number of seconds ≥ 0, not '-1'"),
    "PIPELINE_WORKER__MAX_RUNS_PER_AGENCY": ("1.5", "must be a whole number ≥ 1, not '1.5'"),
    "PIPELINE_WORKER__MEMORY_BUDGET_MIB": ("31", "must be a whole number ≥ 32, not '31'"),
    "PIPELINE_WORKER__CONCURENCY": ("4", "unknown setting. Did you mean PIPELINE_WORKER__CONCURRENCY?"),
    "PIPELINE_SOURCE_DSN": (DSN, "unknown setting. Did you mean PIPELINE_SOURCE__DSN?"),
    "PIPELINE_ZZZZZZ": ("1", "unknown setting"),
    "PIPELINE_SOURCE__DSN": (
        "mysql://u:tops3cret@h",
        "must be a URL such as postgresql://user:password@host:5432/database, with : / ? # @ % in a password "
        "percent-encoded",
    ),
    "PIPELINE_SOURCE": (
        "1",
        "is a group of settings: PIPELINE_SOURCE__DSN, PIPELINE_SOURCE__READER, "
        "PIPELINE_SOURCE__KEEP_CONNECTIONS, PIPELINE_SOURCE__AGENCY_NAMES, PIPELINE_SOURCE__DSN_FILE",
    ),
    "PIPELINE_HISTORY__DSN_FILE": ("/nowhere/dsn", "can't read /nowhere/dsn: No such file or directory"),
    "PIPELINE_HISTORY__SCHEMA": (
        "Pipeline; DROP",
        "must be lower-case letters, digits and `_`, without `pg_` in front, not 'Pipeline; DROP'",
    ),
    "PIPELINE_S3__ENDPOINT_URL": (
        "localhost:9000",
        "must be a URL such as https://host:9000, without credentials, not 'localhost:9000'",
    ),
    "PIPELINE_S3__ADDRESSING_STYLE": ("paht", "must be one of auto, path, virtual, not 'paht'"),
    "PIPELINE_DESTINATION": ("/exports", "must be s3://bucket/prefix or file:///dir"),
    "PIPELINE_KAFKA__BOOTSTRAP_SERVERS": (
        "localhost",
        "must be host:port, several with commas between, not 'localhost'",
    ),
    "PIPELINE_KAFKA__CREATE_TOPICS": ("maybe", "must be true or false, not 'maybe'"),
    "PIPELINE_KAFKA__REQUESTS_TOPIC": ("a b", "must be a topic: letters, digits, `.`, `_`, `-`, not 'a b'"),
    "PIPELINE_HTTP__PORT": ("65536", "must be a whole number ≥ 0 and ≤ 65535, not '65536'"),
    "PIPELINE_SETTINGS_FILE": ("/nowhere/s.yaml", "can't read /nowhere/s.yaml: No such file or directory"),
}


@hypothesis.settings(deadline=None)
@given(st.sets(st.sampled_from(sorted(FAULTS)), min_size=1))
def test_all_faults_are_told_at_once(names: set[str]) -> None:
    """Whichever faults there are, each has its line, under the name that the user wrote."""
    told = faults({name: FAULTS[name][0] for name in names})

    assert sorted(told) == sorted(f"{name}: {FAULTS[name][1]}" for name in names)
    assert "tops3cret" not in "".join(told)


def test_faults_in_a_file_name_the_file_and_the_key(tmp_path: Path) -> None:
    file = write(
        tmp_path / "settings.yaml",
        "worker: {concurrency: true, max_atempts: 3}\nsource: postgresql://u:tops3cret@h\n"
        "settings_file: other.yaml\nkafka: {group_id: 7}\nnonsense: {}\nhttp: {port: 1, PORT: 2}",
    )

    told = faults({"PIPELINE_SETTINGS_FILE": file})

    assert sorted(told) == sorted(
        [
            f"{file}:1:10 worker.concurrency: must be a whole number ≥ 1, not True",
            f"{file}:1:29 worker.max_atempts: unknown setting. Did you mean worker.max_attempts?",
            f"{file}:2:1 source: is a group of settings: source.dsn, source.reader, source.keep_connections, "
            "source.agency_names, source.dsn_file",
            f"{file}:3:1 settings_file: a settings file can't name another one",
            f"{file}:4:9 kafka.group_id: must be text in quotes, not 7",
            f"{file}:5:1 nonsense: unknown setting",
            f"{file}:6:17 http.PORT: {file}:6:8 http.port is set too; keep one of them",
        ]
    )


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("settings.json", "{}", "must end in .yaml, .yml or .toml, which says how to read it"),
        ("settings.yaml", "- a", "must be a mapping of settings"),
        ("settings.yaml", "worker: {concurrency: 2024-13-45}", "isn't valid YAML"),
    ],
)
def test_a_settings_file_of_another_kind_is_a_fault(tmp_path: Path, name: str, content: str, fault: str) -> None:
    file = write(tmp_path / name, content)

    assert faults({"PIPELINE_SETTINGS_FILE": file}) == [f"PIPELINE_SETTINGS_FILE: {file} {fault}"]


def test_a_variable_in_two_spellings_is_a_fault() -> None:
    told = faults({"PIPELINE_HTTP__PORT": "1", "pipeline_http__port": "2"})

    assert told == ["pipeline_http__port: PIPELINE_HTTP__PORT is set too; keep one of them"]


def test_half_of_the_s3_credentials_is_a_fault() -> None:
    """The usual chain would silently bring in the other half from elsewhere."""
    assert faults({"PIPELINE_S3__ACCESS_KEY_ID": "key"}) == [
        "PIPELINE_S3__SECRET_ACCESS_KEY: must be set together with PIPELINE_S3__ACCESS_KEY_ID, or neither of them"
    ]


def test_a_session_token_without_its_key_is_a_fault() -> None:
    """All credentials would silently come from elsewhere."""
    assert faults({"PIPELINE_S3__SESSION_TOKEN": "token"}) == [
        "PIPELINE_S3__SESSION_TOKEN: needs PIPELINE_S3__ACCESS_KEY_ID and PIPELINE_S3__SECRET_ACCESS_KEY as well"
    ]


def test_a_wrong_option_is_told_as_such() -> None:
    with pytest.raises(InvalidSettings, match=r"PIPELINE_WORKER__CONCURRENCY \(command line\): must be"):
        load_settings({}, overrides={"PIPELINE_WORKER__CONCURRENCY": 0})


def test_the_job_config_is_known_in_spite_of_faults() -> None:
    with pytest.raises(InvalidSettings) as caught:
        load_settings({"PIPELINE_NONSENSE": "1", "PIPELINE_JOB_CONFIG_FILE": "job.yaml"})

    assert caught.value.job_config_file == Path("job.yaml")
    assert (caught.value.exit_code, caught.value.kind) == (78, "invalid_settings")


@hypothesis.settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # first, Unicode tables are built
@given(
    st.dictionaries(
        st.sampled_from(sorted([*CONTRACT, *WEBHOOK])), st.text(st.characters(exclude_characters="\0"), max_size=40)
    )
)
def test_whatever_is_set_gives_settings_or_faults(environ: dict[str, str]) -> None:
    """Never another error, whatever people write."""
    with suppress(InvalidSettings):
        load_settings(environ)


# -- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("s3://exports", S3Location("exports")),
        ("s3://exports/", S3Location("exports")),
        ("s3://exports/a/b/", S3Location("exports", "a/b")),
        ("S3://exports/agency=1", S3Location("exports", "agency=1")),
        ("file:///var/exports", FileLocation(Path("/var/exports"))),
        ("file:///var/my%20exports", FileLocation(Path("/var/my exports"))),
    ],
)
def test_a_destination_is_a_bucket_with_a_prefix_or_a_folder(text: str, location: object) -> None:
    settings = load_settings({"PIPELINE_DESTINATION": text}).settings

    assert settings.require_destination() == location
    assert load_settings({"PIPELINE_DESTINATION": str(location)}).settings.destination == location


@pytest.mark.parametrize(
    "text",
    [
        "exports",
        "/exports",
        "http://exports",
        "s3:exports",
        "s3://",
        "s3:///prefix",
        "s3://UPPER/prefix",
        "s3://ab",
        "s3://key:tops3cret@exports/prefix",
        "s3://exports/a//b",
        "s3://exports/../b",
        "s3://exports/a\tb",
        "file://exports",
        "file://host/exports",
        "file:///a/../b",
        "file:///a%00b",
    ],
)
def test_any_other_destination_is_a_fault(text: str) -> None:
    (fault,) = faults({"PIPELINE_DESTINATION": text})

    assert fault.startswith("PIPELINE_DESTINATION: must be ")
    assert "tops3cret" not in fault


@pytest.mark.parametrize("text", ["inf", "nan", "", " ", "1e999", "0x10", "²", "१"])
def test_odd_numbers_are_refused(text: str) -> None:
    """What Python would take for a number and people don't mean."""
    if text:
        assert len(faults({"PIPELINE_WORKER__CONCURRENCY": text})) == 1
    if text in ("inf", "nan", "1e999"):
        assert len(faults({"PIPELINE_WORKER__LEASE_SECONDS": text})) == 1


@pytest.mark.parametrize(
    ("require", "remedy"),
    [
        ("require_source_dsn", "Set PIPELINE_SOURCE__DSN"),
        ("require_history_dsn", "Set PIPELINE_HISTORY__DSN"),
        ("require_destination", "Set PIPELINE_DESTINATION"),
        ("require_job_config_file", "--config or PIPELINE_JOB_CONFIG_FILE"),
    ],
)
def test_what_is_needed_and_missing_comes_with_its_remedy(require: str, remedy: str) -> None:
    settings = load_settings({}).settings

    with pytest.raises(SettingsError, match=remedy) as caught:
        getattr(settings, require)()
    assert caught.value.exit_code == 78
