"""What to do about certificates that one side of a TLS connection doesn't accept."""

import ssl
from collections.abc import Iterator

from pipeline_processing.errors import PipelineError

# OpenSSL's codes of X509_V_ERR_….
_INVALID_NOW = (9, 10)  # CERT_NOT_YET_VALID, CERT_HAS_EXPIRED
_ELSEWHERE = (62, 64)  # HOSTNAME_MISMATCH, IP_ADDRESS_MISMATCH
_OF_OURS = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")
"""Parts of the names of TLS's alerts about certificates. A server that sends one refuses the client's."""


def remedy_for_server(error: ssl.SSLCertVerificationError, *, authorities: str, names: str) -> str:
    """
    Return what to do about a server's certificate that isn't accepted.

    `authorities` is where the authorities to trust are set, and `names` where the server's host name is.
    """
    if has_expired(error):
        return "Renew the server's certificate, or correct this machine's clock."
    if getattr(error, "verify_code", None) in _ELSEWHERE:
        return f"Use a host name that the server's certificate lists, in {names}."
    return f"Set {authorities} to the certificate of the authority that signed the server's."


def has_expired(error: ssl.SSLCertVerificationError) -> bool:
    """Whether the certificate isn't valid now, as this machine's clock has it."""
    return getattr(error, "verify_code", None) in _INVALID_NOW


def refusal_of_ours(error: BaseException) -> ssl.SSLError | None:
    """Return the server's refusal of the client's certificate, or of having none, if that is what caused `error`."""
    for each in _causes(error):
        reason = str(getattr(each, "reason", None) or "")
        if isinstance(each, ssl.SSLError) and "ALERT" in reason and any(part in reason for part in _OF_OURS):
            return each
    return None


def verification_of(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """Return the refusal of the server's certificate, if that is what caused `error`."""
    found = [each for each in _causes(error) if isinstance(each, ssl.SSLCertVerificationError)]
    return found[-1] if found else None  # aiohttp's own, which is one too, doesn't say what is wrong


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    # An error of this service may be the one that is being handled, such as another server's.
    while error is not None and not isinstance(error, PipelineError):
        yield error
        error = error.__cause__ or error.__context__
