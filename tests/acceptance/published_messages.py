"""Validates messages against the published AsyncAPI document."""

from __future__ import annotations

from functools import cache
from typing import Any

import yaml
from jsonschema_rs import Draft202012Validator

from tests.acceptance.kafka_side import Message
from tests.acceptance.service import SCHEMAS


def valid_as(name: str, message: Message) -> None:
    """Validate key, headers and value of a message against the document's message of that name."""
    published = _document()["components"]["messages"][name]
    headers = {key: value.decode(errors="replace") for key, value in message.headers if value is not None}
    _validate(f"#/components/messages/{name}/headers", headers)
    if "bindings" in published:
        assert message.key is not None
        _validate(f"#/components/messages/{name}/bindings/kafka/key", message.key.decode())
    if "contentType" in published:
        _validate(f"#/components/messages/{name}/payload", message.json)


def _validate(reference: str, value: object) -> None:
    schema = {**_document(), "$ref": reference}
    Draft202012Validator(schema, validate_formats=True).validate(value)


@cache
def _document() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((SCHEMAS / "asyncapi.yaml").read_text())
    return document
