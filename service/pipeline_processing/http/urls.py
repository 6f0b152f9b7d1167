"""URLs of upstream APIs: their syntax, placeholders `{name}`, and origin."""

import re
from collections.abc import Mapping
from urllib.parse import quote, urljoin, urlsplit

Origin = tuple[str, str, int]
"""Scheme, host and port: the server that a secret may be sent to."""

_PORTS = {"http": 80, "https": 443}
_LEGAL = "-._~:/?#[]@!$&'()*+,;=%"
_ILLEGAL = re.compile(rf"[^A-Za-z0-9{re.escape(_LEGAL)}]|%(?![0-9A-Fa-f]{{2}})")
_HOST = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?|[0-9a-f:.]*:[0-9a-f:.]*")
_NAME = re.compile(r"\{([^{}/?#]+)\}")


def check_url(url: str) -> str:
    """Return the URL if a request may be sent there. Raises ValueError, which never quotes the URL."""
    origin_of(url)
    return url


def origin_of(url: str) -> Origin:
    """Return a URL's origin. Raises ValueError if it isn't http or https, or contains user info or a fragment."""
    if _ILLEGAL.search(url):
        # Strict, so that every other parser finds the same host in the URL.
        raise ValueError("the URL has characters that must be percent-encoded")
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.netloc:
        raise ValueError("the URL must begin with http:// or https:// and a host")
    if "@" in parts.netloc:
        raise ValueError("the URL holds a user or a password: name the secret in `auth` instead")
    if "#" in url:
        raise ValueError("the URL has a fragment (`#…`), which is never sent")
    host = parts.hostname or ""
    if not _HOST.fullmatch(host):
        raise ValueError("the URL's host is invalid: it may have letters, digits, `-` and `.`")
    return parts.scheme, host.removesuffix("."), _PORTS[parts.scheme] if parts.port is None else parts.port


def without_user(url: str) -> str:
    """Return the URL without its user and password."""
    return re.sub(r"^(https?://)[^/?#@]*@", r"\1", url)


def shown(url: str) -> str:
    """Return the URL for messages: without its query, which may contain data or an access token."""
    return url.partition("?")[0]


def encoded(value: str) -> str:
    """
    Percent-encode a value, so that it can't affect the URL's syntax. Raises ValueError for a lone surrogate.

    All characters except letters, digits and `-._~` are percent-encoded, as in RFC 3986 (2.3).
    """
    return quote(value, safe="", errors="strict")


def with_query(url: str, query: Mapping[str, str]) -> str:
    """Return the URL with these query parameters, which replace others with the same names."""
    if not query:
        return url
    path, _, present = url.partition("?")
    names = {encoded(name) for name in query}
    kept = [pair for pair in present.split("&") if pair and pair.partition("=")[0] not in names]
    return f"{path}?{'&'.join([*kept, *(f'{encoded(name)}={encoded(value)}' for name, value in query.items())])}"


def joined(base: str, link: str) -> str:
    """Resolve a link in the response from `base`. Raises ValueError as `origin_of` does."""
    legal = _ILLEGAL.sub(lambda found: quote(found[0], safe="", errors="strict"), link.strip())
    return check_url(urljoin(base, legal).partition("#")[0])


class UrlTemplate:
    """
    A URL with placeholders `{name}` in its path and query. A value can't add a segment, parameter, fragment or host.

    The constructor raises ValueError, whose message says what is wrong with the URL.
    """

    def __init__(self, text: str) -> None:
        self._front, self._rest = _divided(text)
        if "{" in self._front:
            raise ValueError("names in braces are allowed in the path and the query, not in the scheme or the host")
        origin_of(_NAME.sub("x", text))
        self.names = frozenset(_NAME.findall(text))
        path = _NAME.sub("x", self._rest).partition("?")[0]
        if any(segment in (".", "..") for segment in path.split("/")):
            raise ValueError("the URL's path contains `.` or `..`: write the resolved path")

    def filled(self, values: Mapping[str, str]) -> str:
        """
        Return the URL with these values. Raises ValueError, which doesn't quote the value, if one would change the
        path: some servers read `/a/../b` as `/b`, and `/a//b` as `/a/b`.
        """
        text = {name: encoded(values[name]) for name in self.names}
        path, mark, query = self._rest.partition("?")
        segments = [_NAME.sub(lambda found: text[found[1]], segment) for segment in path.split("/")]
        for before, after in zip(path.split("/"), segments, strict=True):
            if before != after and after in ("", ".", ".."):
                raise ValueError(f"{before} would become {after or 'nothing'!r}, and lead to another path")
        return self._front + "/".join(segments) + mark + _NAME.sub(lambda found: text[found[1]], query)


def _divided(text: str) -> tuple[str, str]:
    """Split a URL after the host."""
    scheme, _, rest = text.partition("://")
    end = re.search("[/?]|$", rest)
    assert end is not None, "`$` always matches"
    return f"{scheme}://{rest[: end.start()]}", rest[end.start() :]
