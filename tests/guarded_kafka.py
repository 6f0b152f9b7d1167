"""A Kafka that lets nobody in without the right certificate or password."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._scram import (  # `admin` has these names, too, but not for mypy
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)
from pydantic import SecretStr

from pipeline_processing.embedded.kafka import KafkaServer
from pipeline_processing.embedded.ports import LOOPBACK
from pipeline_processing.settings.settings import KafkaSettings
from tests.certificates import CA, LOCAL, Certificate, issued

PASSWORDS = {"admin": "s3cret-admin", "nobody": "s3cret-nobody"}
"""`admin` may do everything, and `nobody` nothing. Both log in by password, or by a certificate with this name."""

_MECHANISMS = {"SCRAM-SHA-256": ScramMechanism.SCRAM_SHA_256, "SCRAM-SHA-512": ScramMechanism.SCRAM_SHA_512}
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"
_PASSWORD_ITERATIONS = 4096

# Listeners by name: protocol, and the certificate that each shows.
_LISTENERS: dict[str, tuple[str, Certificate | None]] = {
    "PASSWORD": ("SASL_SSL", LOCAL),
    "OPEN": ("SASL_PLAINTEXT", None),
    "MUTUAL": ("SSL", LOCAL),
    "EXPIRED": ("SSL", issued("127.0.0.1", expired=True)),
    "ELSEWHERE": ("SSL", issued("kafka.example")),
}


class GuardedKafka(KafkaServer):
    """
    As the other, with listeners for every kind of access. As most brokers do, it creates topics that are looked up.

    PASSWORD knows PLAIN and SCRAM, OPEN only SCRAM. MUTUAL wants a client's certificate. EXPIRED and ELSEWHERE show
    certificates that no client must accept.
    """

    port_count: ClassVar[int] = 2 + len(_LISTENERS)

    def wait_until_ready(self) -> None:
        super().wait_until_ready()
        self._add_scram_users()

    def at(self, listener: str) -> str:
        """Return the address of a listener."""
        return f"{LOOPBACK}:{self._ports[2 + list(_LISTENERS).index(listener)]}"

    def access(self, settings: KafkaSettings, listener: str, **access: Any) -> KafkaSettings:
        """Return settings that reach the brokers through this listener, with this access."""
        protocol, _ = _LISTENERS[listener]
        given = {"bootstrap_servers": (self.at(listener),), "security_protocol": protocol, **access}
        return settings.model_copy(update=given)

    def _configure(self, *, ports: Sequence[int]) -> None:
        super()._configure(ports=ports[:2])
        if len(ports) < self.port_count:
            return
        (self.directory / "ca.pem").write_text(CA)
        listeners = [f"PLAINTEXT://{LOOPBACK}:{ports[0]}"]
        protocols = ["PLAINTEXT:PLAINTEXT", "CONTROLLER:PLAINTEXT"]
        users = " ".join(f'user_{name}="{password}"' for name, password in PASSWORDS.items())
        lines = []
        for (name, (protocol, certificate)), port in zip(_LISTENERS.items(), ports[2:], strict=True):
            listeners.append(f"{name}://{LOOPBACK}:{port}")
            protocols.append(f"{name}:{protocol}")
            prefix = f"listener.name.{name.lower()}"
            if certificate is not None:
                keystore = self.directory / f"{name}.pem"
                keystore.write_text(certificate.chain)
                lines += [f"{prefix}.ssl.keystore.type=PEM", f"{prefix}.ssl.keystore.location={keystore}"]
            if protocol.startswith("SASL"):
                mechanisms = [*_MECHANISMS] if name == "OPEN" else ["PLAIN", *_MECHANISMS]
                lines.append(f"{prefix}.sasl.enabled.mechanisms={','.join(mechanisms)}")
                for each in mechanisms:
                    options = f"{_PLAIN} required {users}" if each == "PLAIN" else f"{_SCRAM} required"
                    lines.append(f"{prefix}.{each.lower()}.sasl.jaas.config={options};")
        with (self.directory / "server.properties").open("a") as file:
            file.write(f"""
listeners={",".join(listeners)},CONTROLLER://{LOOPBACK}:{ports[1]}
advertised.listeners={",".join(listeners)}
listener.security.protocol.map={",".join(protocols)}
inter.broker.listener.name=PLAINTEXT
listener.name.mutual.ssl.client.auth=required
listener.name.mutual.ssl.truststore.type=PEM
listener.name.mutual.ssl.truststore.location={self.directory / "ca.pem"}
ssl.principal.mapping.rules=RULE:^.*CN=([^,]+).*$/$1/
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:admin;User:ANONYMOUS
auto.create.topics.enable=true
{chr(10).join(lines)}
""")

    def _add_scram_users(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers})
        for mechanism in _MECHANISMS.values():  # one request can't give a user two
            credentials = ScramCredentialInfo(mechanism, _PASSWORD_ITERATIONS)
            given: list[UserScramCredentialAlteration] = [
                UserScramCredentialUpsertion(name, credentials, password.encode())
                for name, password in PASSWORDS.items()
            ]
            for result in admin.alter_user_scram_credentials(given).values():
                result.result(timeout=30)


def password_of(name: str, mechanism: str = "PLAIN") -> dict[str, Any]:
    """Return the settings with which this user logs in."""
    return {"sasl_mechanism": mechanism, "username": name, "password": SecretStr(PASSWORDS[name])}
