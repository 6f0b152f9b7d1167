"""Finds records in a JSON response, parsing only the requested parts."""

from codecs import BOM_UTF8

import msgspec
from msgspec import Raw

from pipeline_processing.errors import SourceDataInvalid

_any = msgspec.json.Decoder(Raw)
_list = msgspec.json.Decoder(list[Raw])
_object = msgspec.json.Decoder(dict[str, Raw])


def records_of(body: bytes, path: str | None) -> list[Raw]:
    """
    Return the list of records at `path` in the response, or the whole response if None. Null is an empty list.

    Raises SourceDataInvalid if the body isn't JSON, or has no list there.
    """
    body = body.removeprefix(BOM_UTF8)  # some servers send one
    try:
        if not body.isascii():
            body.decode()  # checks all of it: the code below decodes only parts
        # Remove line ends, because fragments go into lines of NDJSON.
        found = at(_any.decode(msgspec.json.format(body, indent=-1)), path)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = error.reason if isinstance(error, UnicodeDecodeError) else error
        raise SourceDataInvalid(
            f"the answer isn't JSON in UTF-8: {why}. Check `url`, and what the API answers there."
        ) from None
    if found is not None and bytes(found) == b"null":
        return []
    try:
        return _list.decode(found if found is not None else b"")
    except msgspec.DecodeError:
        where = "it" if path is None else f"{path!r} in it"
        raise SourceDataInvalid(
            f"the answer is JSON, but {where} isn't a list of records. Set `records` to the path of the list, "
            "such as `data.items`."
        ) from None


def at(document: Raw, path: str | None) -> Raw | None:
    """Return the value at a path; None if there is none."""
    for name in path.split(".") if path is not None else ():
        try:
            found = _object.decode(document).get(name)
        except msgspec.DecodeError:  # not an object
            return None
        if found is None:
            return None
        document = found
    return document


def is_object(record: Raw) -> bool:
    """Return whether the record is a JSON object."""
    return bytes(record).startswith(b"{")
