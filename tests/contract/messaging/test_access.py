"""A Kafka that wants TLS, a password and permissions: who is refused learns why."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from pydantic import SecretStr

from pipeline_processing.app.triggers import triggers_process
from pipeline_processing.embedded.kafka import KafkaServer
from pipeline_processing.errors import AccessDenied, KafkaUnavailable, SettingsError, TopicMissing
from pipeline_processing.messaging.kafka.creation import ensure_topics
from pipeline_processing.messaging.kafka.events import KafkaEvents
from pipeline_processing.messaging.kafka.requests import KafkaRequests
from pipeline_processing.messaging.kafka.topics import KafkaTopics
from pipeline_processing.messaging.port import Outgoing
from pipeline_processing.messaging.service_topics import ServiceTopic
from pipeline_processing.settings.settings import HttpSettings, KafkaSettings, Settings
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.tracing import IdsOnlyTracer
from pipeline_processing.triggers.config import Triggers
from tests.certificates import CA, CERTIFICATE, KEY
from tests.contract.messaging.messaging_backends import message, nothing_left, own_settings, take, values

PASSWORDS = {"admin": "s3cret-admin", "nobody": "s3cret-nobody"}


class GuardedKafka(KafkaServer):
    """
    As the other, with one more listener: behind it, `admin` may do everything, and `nobody` nothing. And as most
    brokers do, it creates the topics that somebody asks for.
    """

    port_count: ClassVar[int] = 3

    @property
    def guarded_servers(self) -> str:
        return f"127.0.0.1:{self._ports[2]}"

    def _configure(self, *, ports: Sequence[int]) -> None:
        super()._configure(ports=ports[:2])
        if len(ports) < 3:
            return
        broker, controller, guarded = ports
        (self.directory / "server.pem").write_text(KEY + CERTIFICATE)
        users = " ".join(f'user_{name}="{password}"' for name, password in PASSWORDS.items())
        listeners = f"PLAINTEXT://127.0.0.1:{broker},SASL_SSL://127.0.0.1:{guarded}"
        with (self.directory / "server.properties").open("a") as file:
            file.write(f"""
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={listeners}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_ssl.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required {users};
ssl.keystore.type=PEM
ssl.keystore.location={self.directory / "server.pem"}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:admin;User:ANONYMOUS
auto.create.topics.enable=true
""")


@pytest.fixture(scope="module")
def guarded() -> Iterator[GuardedKafka]:
    with GuardedKafka() as server:
        yield server


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    file = tmp_path / "ca.pem"
    file.write_text(CA)
    return file


def as_user(server: GuardedKafka, name: str, authority: Path | None, **more: Any) -> KafkaSettings:
    return own_settings(server.guarded_servers).model_copy(
        update={
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "PLAIN",
            "username": name,
            "password": SecretStr(PASSWORDS[name]),
            "ca_file": authority,
            **more,
        }
    )


async def test_all_of_it_over_tls_with_a_password(guarded: GuardedKafka, authority: Path) -> None:
    """Topics, events, requests and the group."""
    settings = as_user(guarded, "admin", authority)
    with nothing_left():
        await ensure_topics(settings)
        async with KafkaEvents(settings=settings) as events:
            await events.send([message(settings.requests_topic, 1)])
        async with KafkaRequests(settings=settings) as stream:
            assert values(await take(stream, 1)) == [1]
            await stream.commit()
        topics = KafkaTopics(settings=settings)
        assert await topics.committed(settings.requests_topic) == await topics.ends(settings.requests_topic)


async def test_triggers_over_tls_with_a_password(guarded: GuardedKafka, authority: Path) -> None:
    """Faust has clients of its own, which get the same credentials."""
    kafka = as_user(guarded, "admin", authority)
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
        async with triggers_process(settings, triggers, declared=None, tracer=tracer, mask=mask) as process:
            running = asyncio.create_task(process.run(stop))
            requests = KafkaTopics(settings=kafka)
            async with asyncio.timeout(60):
                while not sum((await requests.ends(kafka.requests_topic)).values()):
                    assert not running.done(), await running
                    await asyncio.sleep(0.1)
            stop.set()
            await running


async def test_a_wrong_password_is_denied_access(guarded: GuardedKafka, authority: Path) -> None:
    """aiokafka itself would say that no broker can be reached. The password isn't repeated."""
    settings = as_user(guarded, "admin", authority, password=SecretStr("wr0ng"))
    with nothing_left(), pytest.raises(AccessDenied, match="PIPELINE_KAFKA__USERNAME") as raised:
        await ensure_topics(settings)
    assert guarded.guarded_servers in str(raised.value)
    assert "wr0ng" not in str(raised.value)
    async with KafkaEvents(settings=settings) as events:
        with pytest.raises(AccessDenied):
            await events.send([Outgoing("t", b"k", b"v")])
    with nothing_left(), pytest.raises(AccessDenied):
        async with KafkaRequests(settings=settings):
            pass


async def test_an_unknown_mechanism_is_a_setting_to_correct(guarded: GuardedKafka, authority: Path) -> None:
    """The broker says which it has."""
    settings = as_user(guarded, "admin", authority, sasl_mechanism="SCRAM-SHA-512")
    with nothing_left(), pytest.raises(SettingsError, match="PIPELINE_KAFKA__SASL_MECHANISM"):
        await ensure_topics(settings)


async def test_an_unknown_authority_is_a_setting_to_correct(guarded: GuardedKafka) -> None:
    """Not a broker that can't be reached."""
    with nothing_left(), pytest.raises(SettingsError, match="PIPELINE_KAFKA__CA_FILE"):
        await ensure_topics(as_user(guarded, "admin", None))


async def test_tls_with_a_port_that_has_none(guarded: GuardedKafka, authority: Path) -> None:
    """And the other way round: in time, and with the setting to look at."""
    settings = as_user(guarded, "admin", authority)
    plain = (guarded.bootstrap_servers,)
    with nothing_left(), pytest.raises(KafkaUnavailable, match="__SECURITY_PROTOCOL"):
        await ensure_topics(settings.model_copy(update={"bootstrap_servers": plain}))
    with nothing_left(), pytest.raises(KafkaUnavailable, match=guarded.guarded_servers):
        await ensure_topics(settings.model_copy(update={"security_protocol": "PLAINTEXT"}))


async def test_who_may_do_nothing_learns_what_he_may_not(guarded: GuardedKafka, authority: Path) -> None:
    """The topic is named. That it is there isn't for him to know, nor that it isn't."""
    allowed = as_user(guarded, "admin", authority)
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
