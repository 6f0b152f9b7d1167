"""Templates in a job config: text with names in braces, such as `{run_id}`. `{{` and `}}` are literal braces."""

from string import Formatter


def pieces_of(text: str) -> list[tuple[str, str | None]]:
    """Split into literals, each with the name that follows it. Raises ValueError for malformed braces."""
    try:
        pieces = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"{text!r} can't be read: {error}. Write {{{{ and }}}} for plain braces") from None
    if any(name is not None and (not name or spec or conversion) for _, name, spec, conversion in pieces):
        raise ValueError(f"{text!r} must have a plain name in its braces; write {{{{ and }}}} for plain braces")
    return [(literal, name) for literal, name, _, _ in pieces]


def names_in(text: str) -> frozenset[str]:
    """Return the names in braces. Raises ValueError for malformed braces."""
    return frozenset(name for _, name in pieces_of(text) if name is not None)
