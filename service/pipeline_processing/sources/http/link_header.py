"""The header `Link` (RFC 8288), of which only the next page's URL is wanted."""

import re

_TARGET = re.compile(r"[\s,]*<([^>]*)>")
_PARAM = re.compile(r"""\s*;\s*([!#$%&'*+.^_`|~\w-]+)\s*(?:=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",;]*)))?""", re.ASCII)


def next_link(header: str) -> str | None:
    """The target of the first link whose `rel` has `next` among its words; None if there is none."""
    at = 0
    while (target := _TARGET.match(header, at)) is not None:
        at = target.end()
        relations: str | None = None
        while (param := _PARAM.match(header, at)) is not None:
            at = param.end()
            name, quoted, plain = param.groups()
            if name.lower() == "rel" and relations is None:  # only the first counts (3.3)
                relations = quoted if quoted is not None else plain
        if relations is not None and "next" in relations.lower().split():
            return target[1]
    return None
