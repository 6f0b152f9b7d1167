"""Base model of the parts of a job config."""

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A part of a config: frozen, and rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
