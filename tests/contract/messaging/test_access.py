"""A Kafka that wants TLS, certificates, passwords and permissions: who is refused learns why."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from pydantic import SecretStr

from pipeline_processing.app.triggers import triggers_process
from pipeline_processing.embedded.servers import EmbeddedServers
from pipeline_processing.errors import AccessDenied, KafkaUnavailable, PipelineError, SettingsError, TopicMissing
from pipeline_processing.history.postgres.migrate import migrate
from pipeline_processing.messaging.kafka.creation import TopicAdmin, ensure_topics
from pipeline_processing.messaging.kafka.events import KafkaEvents
from pipeline_processing.messaging.kafka.requests import KafkaRequests
from pipeline_processing.messaging.kafka.topics import KafkaTopics
from pipeline_processing.messaging.port import Outgoing
from pipeline_processing.messaging.service_topics import ServiceTopic
from pipeline_processing.settings.settings import HttpSettings, KafkaSettings, Settings
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.metering import Metering
from pipeline_processing.telemetry.tracing import IdsOnlyTracer
from pipeline_processing.triggers.config import Triggers
from pipeline_processing.triggers.matching import Terms
from tests.certificates import CA, STRANGER, STRANGERS_CA, issued
from tests.contract.messaging.messaging_backends import message, nothing_left, own_settings, take, values
from tests.guarded_kafka import PASSWORDS, GuardedKafka, password_of

WRONG = "wr0ng-password"


@pytest.fixture(scope="module")
def guarded() -> Iterator[GuardedKafka]:
    with GuardedKafka() as server:
        yield server


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with authorities, and certificates of clients."""
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "ca.crt").write_text(CA)
    (folder / "stranger.crt").write_text(STRANGERS_CA)
    for name in PASSWORDS:
        issued(owner=name).written(folder, name)
    issued(owner="admin", expired=True).written(folder, "expired")
    issued(owner="admin", by=STRANGER).written(folder, "strangers")
    return folder


Access = Callable[..., KafkaSettings]


@pytest.fixture
def access(guarded: GuardedKafka, files: Path) -> Access:
    """Returns settings for a listener, with topics of this test's own: by a password, a certificate, or neither."""
    own = own_settings(guarded.bootstrap_servers)

    def through(
        listener: str, *, by: str | None = None, password: str | None = None, ca: str = "ca", certificate: str = ""
    ) -> KafkaSettings:
        given: dict[str, Any] = {"ca_file": files / f"{ca}.crt" if ca else None}
        if by is not None:
            given |= password_of("admin", by)
        if password is not None:
            given["password"] = SecretStr(password)
        if certificate:
            given |= {"cert_file": files / f"{certificate}.crt", "key_file": files / f"{certificate}.key"}
        return guarded.access(own, listener, **given)

    return through


ALLOWED: dict[str, tuple[str, dict[str, str]]] = {
    "PLAIN over TLS": ("PASSWORD", {"by": "PLAIN"}),
    "SCRAM-SHA-256 over TLS": ("PASSWORD", {"by": "SCRAM-SHA-256"}),
    "SCRAM-SHA-512 without TLS": ("OPEN", {"by": "SCRAM-SHA-512"}),
    "a client's certificate": ("MUTUAL", {"certificate": "admin"}),
}


@pytest.mark.parametrize(("listener", "given"), ALLOWED.values(), ids=ALLOWED)
async def test_all_of_it_with(access: Access, listener: str, given: dict[str, str]) -> None:
    """Topics, events, requests and the group."""
    settings = access(listener, **given)
    with nothing_left():
        await ensure_topics(settings)
        async with KafkaEvents(settings=settings) as events:
            await events.send([message(settings.requests_topic, 1)])
        async with KafkaRequests(settings=settings) as stream:
            assert values(await take(stream, 1)) == [1]
            await stream.commit()
        topics = KafkaTopics(settings=settings)
        assert await topics.committed(settings.requests_topic) == await topics.ends(settings.requests_topic)


@pytest.mark.parametrize("way", ["SCRAM-SHA-256 over TLS", "a client's certificate"])
async def test_triggers_with(access: Access, way: str) -> None:
    """Faust has clients of its own, which get the same credentials."""
    listener, given = ALLOWED[way]
    kafka = access(listener, **given)
    topic = f"{kafka.group_id}.events"
    with nothing_left():
        await ensure_topics(kafka, others=[ServiceTopic(topic, "events")])
        async with KafkaEvents(settings=kafka) as events:
            await events.send([Outgoing(topic=topic, key=None, value=b'{"agency_id": 7}')])
        triggers = Triggers.model_validate(
            {"triggers": [{"name": "t", "topic": topic, "agency_id": "data.agency_id", "since": None}]}
        )
        settings = Settings(kafka=kafka, http=HttpSettings(port=0))
        stop = asyncio.Event()
        tracer, mask = IdsOnlyTracer(), Mask()
        async with triggers_process(
            settings, triggers, terms=Terms(), tracer=tracer, mask=mask, metering=Metering()
        ) as process:
            running = asyncio.create_task(process.run(stop))
            requests = KafkaTopics(settings=kafka)
            async with asyncio.timeout(60):
                while not sum((await requests.ends(kafka.requests_topic)).values()):
                    assert not running.done(), await running
                    await asyncio.sleep(0.1)
            stop.set()
            await running


OUR_CERTIFICATE = r"PIPELINE_KAFKA__CERT_FILE and __KEY_FILE"
REFUSED: dict[str, tuple[str, dict[str, str], type[PipelineError], str]] = {
    "a wrong password": ("PASSWORD", {"by": "PLAIN", "password": WRONG}, AccessDenied, "PIPELINE_KAFKA__USERNAME"),
    "a wrong password of SCRAM": (
        *("PASSWORD", {"by": "SCRAM-SHA-512", "password": WRONG}),
        *(AccessDenied, "PIPELINE_KAFKA__USERNAME and __PASSWORD"),
    ),
    "no certificate": ("MUTUAL", {}, AccessDenied, OUR_CERTIFICATE),
    "an expired certificate": ("MUTUAL", {"certificate": "expired"}, AccessDenied, OUR_CERTIFICATE),
    "a certificate of an unknown authority": ("MUTUAL", {"certificate": "strangers"}, AccessDenied, OUR_CERTIFICATE),
    "brokers of an unknown authority": (
        *("PASSWORD", {"by": "PLAIN", "ca": "stranger"}),
        *(SettingsError, "Set PIPELINE_KAFKA__CA_FILE"),
    ),
    "brokers of no public authority": ("PASSWORD", {"by": "PLAIN", "ca": ""}, SettingsError, "PIPELINE_KAFKA__CA_FILE"),
    "brokers whose certificate has expired": (
        *("EXPIRED", {}),
        *(KafkaUnavailable, r"certificate has expired .*\. Renew the server's certificate"),
    ),
    "brokers with another name": (
        *("ELSEWHERE", {}),
        *(SettingsError, r"not valid for '127.0.0.1'.* Use a host name that .* in PIPELINE_KAFKA__BOOTSTRAP_SERVERS"),
    ),
}


@pytest.mark.parametrize(("listener", "given", "error", "says"), REFUSED.values(), ids=REFUSED)
async def test_refused(
    access: Access, listener: str, given: dict[str, str], error: type[PipelineError], says: str
) -> None:
    """By every client of ours, at once. aiokafka itself would say that no broker can be reached."""
    settings = access(listener, **given)
    (brokers,) = settings.bootstrap_servers

    async def send() -> None:
        async with KafkaEvents(settings=settings) as events:
            await events.send([Outgoing("t", b"k", b"v")])

    async def read() -> None:
        async with KafkaRequests(settings=settings):
            pass

    for using in (ensure_topics(settings), KafkaTopics(settings=settings).ends("t"), send(), read()):
        with nothing_left(), pytest.raises(error, match=f"Kafka at {brokers} .*{says}") as raised:
            await using
        assert type(raised.value) is error
        assert WRONG not in str(raised.value)


async def test_what_an_identity_may_do_with_a_topic_is_told(access: Access) -> None:
    """Without trying it, for `doctor`. An identity that may do nothing is told nothing."""
    settings = access("OPEN", by="SCRAM-SHA-512")
    await ensure_topics(settings)
    async with TopicAdmin.open(settings) as admin:
        assert await admin.allowed([settings.requests_topic]) == {settings.requests_topic: frozenset({"read", "write"})}
    nobody = settings.model_copy(update={"username": "nobody", "password": SecretStr(PASSWORDS["nobody"])})
    async with TopicAdmin.open(nobody) as admin:
        with pytest.raises(AccessDenied):
            await admin.allowed([settings.requests_topic])


async def test_an_unknown_mechanism_is_a_setting_to_correct(access: Access) -> None:
    """The broker says which it has."""
    settings = access("OPEN", by="PLAIN")
    with nothing_left(), pytest.raises(SettingsError, match="PIPELINE_KAFKA__SASL_MECHANISM"):
        await ensure_topics(settings)


SUBMIT = ("submit", "agency_data_job", "--agency-id", "7")
COMMANDS = {
    "submit to a stranger": (SUBMIT, "brokers with another name", 78),
    "serve with a wrong password": (("serve", "--once"), "a wrong password of SCRAM", 77),
    "triggers without a certificate": (("triggers",), "no certificate", 77),
}


@pytest.mark.parametrize(("command", "way", "code"), COMMANDS.values(), ids=COMMANDS)
def test_a_command_ends(
    command: tuple[str, ...], way: str, code: int, access: Access, history: str, files: Path
) -> None:
    """With the contract's exit code, and one message without the password."""
    job, triggers = files / "job.yaml", files / "triggers.yaml"
    job.write_text(
        "datasets: [{name: records, source: {postgres: {query: SELECT 1 AS id WHERE $1 > 0, args: [agency_id]}}}]"
    )
    triggers.write_text("triggers: [{topic: events, agency_id: data.agency_id}]")
    listener, given, _, says = REFUSED[way]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline_processing.cli.main", *command],
        env={
            **{name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ},
            "PIPELINE_SOURCE__DSN": history,
            "PIPELINE_DESTINATION": f"file://{files}",
            "PIPELINE_JOB_CONFIG_FILE": str(job),
            "PIPELINE_TRIGGERS_FILE": str(triggers),
            "PIPELINE_HTTP__PORT": "0",
            **variables(access(listener, **given)),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    assert re.search(says, done.stderr), done.stderr
    assert WRONG not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def history(servers: EmbeddedServers) -> str:
    """The DSN of a database with a run history."""
    name = "kafka_access"
    servers.postgres.create_database(name)

    async def migrated() -> None:
        connection = await asyncpg.connect(servers.postgres.dsn(name))
        await migrate(connection, "pipeline")
        await connection.close()

    asyncio.run(migrated())
    return servers.postgres.dsn(name)


def variables(settings: KafkaSettings) -> dict[str, str]:
    """Return the environment that sets these settings."""
    given = {
        **settings.model_dump(mode="json", exclude_defaults=True),
        "bootstrap_servers": settings.bootstrap_servers[0],
    }
    if settings.password is not None:
        given["password"] = settings.password.get_secret_value()
    return {f"PIPELINE_KAFKA__{name.upper()}": str(value) for name, value in given.items()}


async def test_tls_with_a_port_that_has_none(guarded: GuardedKafka, access: Access) -> None:
    """And the other way round: in time, and with the setting to look at."""
    settings = access("PASSWORD", by="PLAIN")
    plain = (guarded.bootstrap_servers,)
    with nothing_left(), pytest.raises(KafkaUnavailable, match="__SECURITY_PROTOCOL"):
        await ensure_topics(settings.model_copy(update={"bootstrap_servers": plain}))
    with nothing_left(), pytest.raises(KafkaUnavailable, match=guarded.at("PASSWORD")):
        await ensure_topics(settings.model_copy(update={"security_protocol": "PLAINTEXT"}))


async def test_who_may_do_nothing_learns_what_he_may_not(access: Access) -> None:
    """The topic is named. That it is there isn't for him to know, nor that it isn't."""
    allowed = access("PASSWORD", by="PLAIN")
    await ensure_topics(allowed)
    settings = allowed.model_copy(update={"username": "nobody", "password": SecretStr(PASSWORDS["nobody"])})
    topic = settings.requests_topic
    with nothing_left():
        with pytest.raises(AccessDenied, match=f"to the topic {topic}"):
            async with KafkaRequests(settings=settings):
                pass
        with pytest.raises(AccessDenied, match=f"to the topic {topic}"):
            await KafkaTopics(settings=settings).ends(topic)
        with pytest.raises(AccessDenied, match="to the topic"):
            await KafkaTopics(settings=settings).ensure()
        async with KafkaEvents(settings=settings) as events:
            with pytest.raises(AccessDenied, match=r"to the cluster .*Write on any topic"):
                await events.send([message(topic, 1)])


async def test_a_deleted_topic_stays_deleted(guarded: GuardedKafka) -> None:
    """Though this broker creates what clients look up, and ours look again and again."""
    settings = own_settings(guarded.bootstrap_servers)
    await ensure_topics(settings)
    topic = settings.requests_topic
    admin = AIOKafkaAdminClient(bootstrap_servers=guarded.bootstrap_servers)
    await admin.start()
    try:
        async with KafkaEvents(settings=settings) as events, KafkaRequests(settings=settings) as stream:
            await events.send([message(topic, 1)])
            await take(stream, 1)
            await admin.delete_topics([topic])
            with pytest.raises(TopicMissing, match=topic):
                await take(stream, 1)
            with pytest.raises(TopicMissing, match=topic):
                await events.send([message(topic, 2)])
            with pytest.raises(TopicMissing, match=topic):
                await KafkaTopics(settings=settings).ends(topic)
    finally:
        await admin.close()
