"""Sign webhooks by the Standard Webhooks specification 1.0, so that receivers can verify them with its libraries."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime

_PREFIX = "whsec_"


def signing_key(text: str) -> bytes:
    """
    Return the bytes of a key: base64 after the prefix `whsec_`, else the text itself.

    Raises ValueError if what follows the prefix isn't base64.
    """
    if not text.startswith(_PREFIX):
        return text.encode()
    try:
        return base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("not base64") from None


def message_id(event_id: str) -> str:
    """Return the `webhook-id` of an event. It has no full stop, which the signature uses as the separator."""
    return f"msg_{hashlib.sha256(event_id.encode()).hexdigest()[:32]}"


def signature(id_: str, timestamp: str, body: bytes, *, key: bytes) -> str:
    """Return the `webhook-signature`."""
    digest = hmac.digest(key, b".".join((id_.encode(), timestamp.encode(), body)), "sha256")
    return f"v1,{base64.b64encode(digest).decode()}"


def signature_headers(event_id: str, body: bytes, *, key: bytes, at: datetime) -> Mapping[str, str]:
    """Return the headers that identify and sign a message. `at` is the time of this try."""
    id_, timestamp = message_id(event_id), str(int(at.timestamp()))
    return {
        "webhook-id": id_,
        "webhook-timestamp": timestamp,
        "webhook-signature": signature(id_, timestamp, body, key=key),
    }
