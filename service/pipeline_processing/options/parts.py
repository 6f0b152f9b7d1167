"""Base model of the parts of a job config, with the names of secrets, and paths, in it."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

from pipeline_processing.options.words import saying

SecretName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$"),
    saying(
        "must be the name of a secret, such as warehouse_dsn: lower-case letters, digits and `_`. The secret itself "
        "belongs into the setting PIPELINE_SECRETS__WAREHOUSE_DSN"
    ),
]
"""The name of a secret in the settings (PIPELINE_SECRETS__…). A job config never contains the secret itself."""

Path = Annotated[
    str,
    StringConstraints(pattern=r"^[^.]+(\.[^.]+)*$"),
    saying("must be a path of keys with dots between them, such as address.city"),
]
"""Keys of nested objects, separated by dots, e.g. `data.items`."""


class Part(BaseModel):
    """A part of a config: frozen, and rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
