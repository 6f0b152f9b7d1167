"""UUIDs as text in lower case with four hyphens: their value here."""

import re

from pipeline_processing.expressions.refusals import RowFault

_INPUT = re.compile(r"(?P<open>\{)?(?P<digits>(?:[0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4})(?(open)\})")


def uuid_of(text: str) -> str:
    """In the forms that Postgres reads: any case, braces around it, hyphens after any four digits. Raises RowFault."""
    match = _INPUT.fullmatch(text)
    if match is None:
        raise RowFault("the text isn't a uuid")
    digits = match["digits"].replace("-", "").lower()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
