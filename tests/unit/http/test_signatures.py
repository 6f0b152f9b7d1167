"""Signatures by Standard Webhooks."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipeline_processing.http.signatures import message_id, signature, signature_headers, signing_key

AT = datetime.fromtimestamp(1614265330, UTC)


def test_keys_are_text_or_base64() -> None:
    """As the specification writes them, or as people do."""
    assert signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw") == bytes.fromhex(
        "31f290f6bf06298aab4f08d43c3f082cf648a362da2da4b0"
    )
    assert signing_key("a plain text of a key") == b"a plain text of a key"
    with pytest.raises(ValueError, match="not base64"):
        signing_key("whsec_~")


def test_an_id_is_stable_and_has_no_full_stop() -> None:
    """The signed text is divided by full stops, and users choose run ids."""
    assert message_id("a.1.b:failed") == message_id("a.1.b:failed") != message_id("a.1.c:failed")
    assert "." not in message_id("a.1.b:failed")
    assert message_id("a.1.b:failed").startswith("msg_")


def test_a_signature_is_that_of_the_specification() -> None:
    """The example that libraries of the specification are tested with."""
    key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

    signed = signature("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}', key=key)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_headers_identify_and_sign_a_message() -> None:
    """The time is that of the try, so that receivers can refuse old messages."""
    headers = signature_headers("r:failed", b"{}", key=b"0" * 24, at=AT)

    assert headers == {
        "webhook-id": message_id("r:failed"),
        "webhook-timestamp": "1614265330",
        "webhook-signature": signature(message_id("r:failed"), "1614265330", b"{}", key=b"0" * 24),
    }
