"""The one error of the demo's own."""


class StoryUntrue(Exception):
    """What happened isn't what the demo tells. The message says what happened instead."""

    def __init__(self, what: str) -> None:
        super().__init__(f"The demo went otherwise than it tells: {what}.")


def expect(told: bool, otherwise: str) -> None:
    """Raises StoryUntrue unless what is about to be told is so."""
    if not told:
        raise StoryUntrue(otherwise)
