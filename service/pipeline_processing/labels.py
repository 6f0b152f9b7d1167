"""
Labels: short texts by name, chosen by the sender of a request, such as `{"team": "billing"}`.

A run carries them to its history, manifest, objects and completion event. They change nothing about the run.
"""

import re
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import quote, urlencode

from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema

MAX_LABELS = 16
MAX_ENCODED_BYTES = 1536
"""Limit of `encoded_labels`. S3 takes 2 KB of metadata per object; the run and its requester need the rest."""

_KEY = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$"


def _key(value: str) -> str:
    if not re.fullmatch(_KEY, value):
        raise ValueError("must begin with a letter or digit and have at most 63 letters, digits, `.`, `_`, `/`, `-`")
    return value


LabelKey = Annotated[str, AfterValidator(_key), WithJsonSchema({"type": "string", "pattern": _KEY})]
LabelValue = Annotated[
    str,
    # No control characters and no line ends: values are shown in terminals and on pages.
    StringConstraints(max_length=256, pattern=r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$"),
]


def encoded_labels(labels: Mapping[str, str]) -> str:
    """
    Return the labels as one line of ASCII without spaces, for the metadata of objects.

    The form is that of a URL's query: `order=A%2017&team=billing`, sorted by key.
    """
    return urlencode(sorted(labels.items()), quote_via=quote)


def _checked(labels: dict[str, str]) -> dict[str, str]:
    """Sort by key, because the database doesn't keep an order. Raises ValueError if objects can't carry the labels."""
    if (size := len(encoded_labels(labels))) > MAX_ENCODED_BYTES:
        raise ValueError(
            f"take {size:,} bytes in percent-encoding, and objects' metadata has room for {MAX_ENCODED_BYTES:,}: "
            "use fewer or shorter labels"
        )
    return dict(sorted(labels.items()))


Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=MAX_LABELS), AfterValidator(_checked)]
