"""What the parts of a job config have in common."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """Base of every part of the config: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Entry(Part):
    """
    A source or a destination: a mapping with one key, which says of what kind it is, and its options.

    Each kind is a class of its own, whose one field is named as its key is.
    """

    @property
    def kind(self) -> str:
        """What the job config calls it by."""
        return next(iter(type(self).model_fields))

    @property
    def options(self) -> Any:
        """What it is opened with."""
        return getattr(self, self.kind)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Names of the secrets that it needs, as far as its options tell."""
        return tuple(getattr(self.options, "secrets", ()))

    @property
    def names(self) -> frozenset[str]:
        """Names of the values that it uses: built-in ones, and the request's params."""
        return frozenset(getattr(self.options, "names", ()))
