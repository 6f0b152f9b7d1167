"""From the settings to what aiokafka takes; files that don't do are found before anything is connected."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from pipeline_processing.errors import SettingsError
from pipeline_processing.messaging.kafka.connection import Connection
from pipeline_processing.messaging.kafka.events import KafkaEvents
from pipeline_processing.messaging.kafka.requests import KafkaRequests
from pipeline_processing.messaging.kafka.topics import KafkaTopics
from pipeline_processing.settings.settings import KafkaSettings
from tests.certificates import CA, ENCRYPTED_KEY, LOCAL, STRANGERS_CA

SASL = {"sasl_mechanism": "SCRAM-SHA-512", "username": "app", "password": SecretStr("tops3cret")}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    contents = {
        "ca": CA,
        "cert": LOCAL.certificate,
        "key": LOCAL.key,
        "encrypted": ENCRYPTED_KEY,
        "rubbish": "none of that",
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    return {name: tmp_path / name for name in contents}


def options(**settings: Any) -> dict[str, Any]:
    return Connection.of(KafkaSettings(**settings)).options()


def test_plain_text_needs_nothing() -> None:
    """But the brokers."""
    given = options(bootstrap_servers="a:9092, b:9093")
    assert given["bootstrap_servers"] == ["a:9092", "b:9093"]
    assert given["security_protocol"] == "PLAINTEXT"
    assert given["ssl_context"] is None
    assert "sasl_mechanism" not in given


def test_sasl_brings_user_and_password() -> None:
    """In plain text, as aiokafka wants them: in what is handed to it alone."""
    given = options(security_protocol="SASL_PLAINTEXT", **SASL)
    assert (given["sasl_mechanism"], given["sasl_plain_username"], given["sasl_plain_password"]) == (
        "SCRAM-SHA-512",
        "app",
        "tops3cret",
    )


def test_tls_trusts_the_authorities_of_the_system_or_those_of_the_file(files: dict[str, Path]) -> None:
    """It checks names, too; and shows a certificate of ours if there is one."""
    context = options(security_protocol="SSL")["ssl_context"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname

    context = options(security_protocol="SSL", ca_file=files["ca"], cert_file=files["cert"], key_file=files["key"])[
        "ssl_context"
    ]
    (trusted,) = context.get_ca_certs()
    assert (("organizationName", "test authority"),) in trusted["subject"]


async def test_a_refused_broker_says_more_than_a_silent_one(tmp_path: Path) -> None:
    """Whichever comes first."""
    (tmp_path / "stranger").write_text(STRANGERS_CA)
    context = LOCAL.server_side(tmp_path / "server")
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context) as server:
        brokers = ["127.0.0.1:1", f"127.0.0.1:{server.sockets[0].getsockname()[1]}"]
        for each in (brokers, brokers[::-1]):
            settings = KafkaSettings(
                bootstrap_servers=tuple(each), security_protocol="SSL", ca_file=tmp_path / "stranger"
            )
            assert isinstance(await Connection.of(settings).refusal(), ssl.SSLCertVerificationError)


@pytest.mark.parametrize("adapter", [KafkaEvents, KafkaRequests, KafkaTopics])
def test_no_secret_in_a_repr(adapter: type[Any]) -> None:
    """Neither of the settings' bundle nor of those who hold it."""
    settings = KafkaSettings(security_protocol="SASL_SSL", **SASL)
    held = adapter(settings=settings)
    for shown in (repr(Connection.of(settings)), repr(held), repr(vars(held))):
        assert "tops3cret" not in shown


@pytest.mark.parametrize("missing", ["sasl_mechanism", "username", "password"])
def test_what_sasl_lacks_is_named(missing: str) -> None:
    """By its variable, before aiokafka stumbles over it."""
    given = {**SASL, missing: None}
    with pytest.raises(SettingsError, match=f"SASL_SSL needs PIPELINE_KAFKA__{missing.upper()}. Set it"):
        options(security_protocol="SASL_SSL", **given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ca": "rubbish"}, r"PIPELINE_KAFKA__CA_FILE: .*/rubbish holds no certificates"),
        ({"ca": "nowhere"}, r"PIPELINE_KAFKA__CA_FILE: .*/nowhere can't be read \(No such file"),
        (
            {"cert": "rubbish", "key": "key"},
            r"PIPELINE_KAFKA__CERT_FILE: .*/rubbish, or PIPELINE_KAFKA__KEY_FILE: .*/key",
        ),
        ({"cert": "cert", "key": "nowhere"}, r"PIPELINE_KAFKA__KEY_FILE: .*/nowhere can't be read"),
        ({"cert": "cert", "key": "rubbish"}, r"PIPELINE_KAFKA__KEY_FILE: .*/rubbish, can't be used"),
        ({"cert": "ca", "key": "key"}, r"can't be used \(.*MISMATCH.*belong together"),
        ({"cert": "cert", "key": "encrypted"}, r"must not be encrypted"),
        ({"cert": "cert"}, r"PIPELINE_KAFKA__CERT_FILE: .*/cert can't be used"),
        ({"key": "key"}, r"PIPELINE_KAFKA__KEY_FILE needs PIPELINE_KAFKA__CERT_FILE"),
    ],
)
def test_a_file_that_does_not_do_is_named(files: dict[str, Path], given: dict[str, str], said: str) -> None:
    """With its variable. An encrypted key doesn't make OpenSSL ask for its password at the terminal."""
    paths = {f"{kind}_file": files.get(name, files["ca"].with_name(name)) for kind, name in given.items()}
    with pytest.raises(SettingsError, match=said):
        options(security_protocol="SSL", **paths)


def test_files_are_left_alone_without_tls(files: dict[str, Path]) -> None:
    """They may stand in settings that several environments share."""
    assert options(security_protocol="PLAINTEXT", ca_file=files["rubbish"])["ssl_context"] is None
