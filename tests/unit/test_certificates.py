"""What is wrong with a certificate, and what to do about it."""

from __future__ import annotations

import ssl

import pytest

from pipeline_processing.certificates import refusal_of_ours, remedy_for_server, verification_of


def raised(error: ssl.SSLError, **about: object) -> ssl.SSLError:
    for name, value in about.items():
        setattr(error, name, value)
    return error


def caused(by: BaseException) -> Exception:
    error = RuntimeError("closed")
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("code", "says"),
    [(10, "Renew"), (9, "clock"), (62, "in the DSN"), (64, "in the DSN"), (20, "Set CA_FILE"), (None, "Set CA_FILE")],
)
def test_the_remedy_follows_from_what_is_wrong(code: int | None, says: str) -> None:
    """OpenSSL says it by a number."""
    error = ssl.SSLCertVerificationError("certificate verify failed")
    raised(error, verify_code=code)
    assert says in remedy_for_server(error, authorities="CA_FILE", names="the DSN")


@pytest.mark.parametrize(
    ("reason", "is_ours"),
    [
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", True),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", True),
        ("TLSV1_ALERT_UNKNOWN_CA", True),
        ("TLSV1_ALERT_PROTOCOL_VERSION", False),
        ("CERTIFICATE_VERIFY_FAILED", False),
        (None, False),
    ],
)
def test_a_servers_alert_about_certificates_is_about_ours(reason: str | None, is_ours: bool) -> None:
    """Wherever it stands among the causes."""
    alert = raised(ssl.SSLError("alert"), reason=reason)
    assert (refusal_of_ours(caused(caused(alert))) is alert) is is_ours


def test_a_refused_certificate_is_found_among_the_causes() -> None:
    """Libraries wrap it in errors of their own."""
    refused = ssl.SSLCertVerificationError("expired")
    assert verification_of(caused(refused)) is refused
    assert verification_of(caused(OSError("refused"))) is None
