"""How to reach the brokers: translates the settings to aiokafka's options."""

import asyncio
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from aiokafka.conn import create_conn
from aiokafka.errors import KafkaError
from aiokafka.helpers import create_ssl_context
from pydantic import SecretStr

from pipeline_processing.errors import SettingsError
from pipeline_processing.messaging.kafka.errors import Where
from pipeline_processing.settings.settings import KafkaSettings

_CLIENT_ID = "pipeline-processing"
_REASON_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Connection:
    """The brokers, and this service's credentials."""

    brokers: tuple[str, ...]
    security_protocol: str
    sasl_mechanism: str | None = None
    username: str | None = None
    password: SecretStr | None = None
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)

    @classmethod
    def of(cls, settings: KafkaSettings) -> Self:
        """Read the certificates. Raises SettingsError if they, or the options for SASL, are missing or invalid."""
        protocol = settings.security_protocol
        if protocol.startswith("SASL"):
            _require_sasl(settings)
        return cls(
            brokers=settings.bootstrap_servers,
            security_protocol=protocol,
            sasl_mechanism=settings.sasl_mechanism,
            username=settings.username,
            password=settings.password,
            ssl_context=_ssl_context(settings) if protocol in ("SSL", "SASL_SSL") else None,
        )

    @property
    def where(self) -> Where:
        return Where(brokers=", ".join(self.brokers))

    def options(self) -> dict[str, Any]:
        """Return keyword arguments for any aiokafka client. They hold the password in plain text: don't log them."""
        return {"bootstrap_servers": list(self.brokers), "client_id": _CLIENT_ID, **self._security()}

    def _security(self) -> dict[str, Any]:
        options: dict[str, Any] = {"security_protocol": self.security_protocol, "ssl_context": self.ssl_context}
        if self.security_protocol.startswith("SASL") and self.password is not None:
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.username
            options["sasl_plain_password"] = self.password.get_secret_value()
        return options

    async def refusal(self) -> Exception | None:
        """
        Return why no broker can be reached, or None if one can.

        aiokafka doesn't report causes such as a wrong password or certificate, so connect again to find out.
        """
        reason: Exception | None = None
        for broker in self.brokers:
            host, _, port = broker.rpartition(":")
            try:
                async with asyncio.timeout(_REASON_SECONDS):
                    connection = await create_conn(
                        host.strip("[]"), int(port), client_id=_CLIENT_ID, **self._security()
                    )
            except (KafkaError, OSError) as error:
                # A refusal, of or by a broker, says more than another broker's silence.
                if reason is None or isinstance(error, KafkaError | ssl.SSLError):
                    reason = error.__cause__ if isinstance(error.__cause__, KafkaError | ssl.SSLError) else error
            else:
                connection.close()
                return None
        return reason


def _require_sasl(settings: KafkaSettings) -> None:
    needed = {"SASL_MECHANISM": settings.sasl_mechanism, "USERNAME": settings.username, "PASSWORD": settings.password}
    missing = [f"PIPELINE_KAFKA__{name}" for name, value in needed.items() if value is None]
    if missing:
        raise SettingsError(
            f"PIPELINE_KAFKA__SECURITY_PROTOCOL={settings.security_protocol} needs {' and '.join(missing)}. "
            "Set it, or choose PLAINTEXT or SSL."
        )


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    if settings.key_file is not None and settings.cert_file is None:
        raise SettingsError(
            "PIPELINE_KAFKA__KEY_FILE needs PIPELINE_KAFKA__CERT_FILE: set the certificate of that key."
        )
    for variable, file in (("CA", settings.ca_file), ("CERT", settings.cert_file), ("KEY", settings.key_file)):
        if file is not None:
            _check_readable(f"PIPELINE_KAFKA__{variable}_FILE", file)
    try:
        context: ssl.SSLContext = create_ssl_context(cafile=settings.ca_file)
    except (ssl.SSLError, ValueError) as error:
        raise SettingsError(
            f"PIPELINE_KAFKA__CA_FILE: {settings.ca_file} holds no certificates in PEM form ({_reason(error)}). "
            "Name the file with the certificates of the authorities to trust."
        ) from error
    if settings.cert_file is not None:
        _load_certificate(context, certificate=settings.cert_file, key=settings.key_file)
    return context


def _load_certificate(context: ssl.SSLContext, *, certificate: Path, key: Path | None) -> None:
    try:
        # Pass a wrong password: without any, OpenSSL would prompt at the terminal if the key is encrypted.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        named = f"PIPELINE_KAFKA__CERT_FILE: {certificate}"
        if key is not None:
            named += f", or PIPELINE_KAFKA__KEY_FILE: {key},"
        raise SettingsError(
            f"{named} can't be used ({_reason(error)}). Both must be in PEM form and belong together, and the key must "
            "not be encrypted."
        ) from error


def _check_readable(variable: str, file: Path) -> None:
    # OpenSSL's own error names neither variable nor file.
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise SettingsError(
            f"{variable}: {file} can't be read ({error.strerror}). Correct the path, or its permissions."
        ) from error


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error) or type(error).__name__
