"""The base of everything in a job config."""

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A part of a config: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
