"""The mark `_installation.json`, which says which installation a prefix belongs to."""

from uuid import UUID

from pydantic import ValidationError

from pipeline_processing.errors import ForeignPrefix
from pipeline_processing.model import Message

INSTALLATION_KEY = "_installation.json"


class Installation(Message):
    """The content of the mark."""

    installation_id: UUID


def mark_of(installation: UUID) -> bytes:
    """Return the bytes of an installation's mark."""
    return Installation(installation_id=installation).model_dump_json().encode()


def check_mark(mark: bytes, *, installation: UUID, url: str) -> None:
    """Raise ForeignPrefix unless `mark`, found below `url`, is that of `installation`."""
    try:
        owner = Installation.model_validate_json(mark).installation_id
    except ValidationError:
        raise ForeignPrefix(
            f"{url}/{INSTALLATION_KEY} isn't an installation's mark. Use another prefix, or remove that object "
            "if you know that no other installation writes below this one."
        ) from None
    if owner != installation:
        raise ForeignPrefix(
            f"{url} belongs to the installation with history {owner}, and this one's is {installation}. Two "
            "histories can't share a prefix: give each its own, or set PIPELINE_HISTORY__DSN to that history."
        )
