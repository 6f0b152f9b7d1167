"""The steps as a job config writes them: each a mapping with the one key that names it, and perhaps a `timeout`."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    Tag,
)

from pipeline_processing import plugins
from pipeline_processing.options.durations import Duration
from pipeline_processing.options.one_key import one_key
from pipeline_processing.options.plugin_entry import PluginEntry
from pipeline_processing.steps.add import names_in
from pipeline_processing.steps.dedupe import DedupeOptions
from pipeline_processing.steps.enrich_http import EnrichHttpOptions
from pipeline_processing.steps.enrich_table import EnrichTableOptions
from pipeline_processing.steps.flatten import FlattenOptions
from pipeline_processing.steps.mask import MaskOptions
from pipeline_processing.steps.validate import ValidateOptions


def _exact_in_any_format(constant: Any) -> Any:
    if isinstance(constant, int) and constant.bit_length() > 63:
        raise ValueError("an integer of more than 64 bits: write it as text, in quotes")
    if isinstance(constant, float) and not math.isfinite(constant):
        raise ValueError("not a finite number: write it as text, in quotes")
    return constant


Constant = Annotated[str | int | float | bool | None, BeforeValidator(_exact_in_any_format)]


Timeout = Annotated[Duration | None, Field(description="Longest time for one batch, e.g. 30s; none by default.")]


class _Step(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    timeout: Timeout = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """Names of the secrets that it needs."""
        options = next(value for name, value in self if name != "timeout")
        return tuple(getattr(options, "secrets", ()))

    @property
    def names(self) -> frozenset[str]:
        """Names of the values that it uses: built-in ones, and the request's params."""
        return frozenset()


class SelectConfig(_Step):
    """Keep these columns, in this order."""

    select: tuple[str, ...] = Field(min_length=1)


class DropConfig(_Step):
    """Leave these columns out."""

    drop: tuple[str, ...] = Field(min_length=1)


class RenameConfig(_Step):
    """Give columns other names: old → new."""

    rename: dict[str, str] = Field(min_length=1)


class AddConfig(_Step):
    """Add constant columns. Text may hold {agency_id}, {run_id}, {since}, {until} or {a param of the request}."""

    add: dict[str, Constant] = Field(min_length=1)

    @property
    def names(self) -> frozenset[str]:
        """Those in braces. Text that can't be read has none: building the step tells what is wrong with it."""
        return frozenset(name for constant in self.add.values() for name in names_in(constant))


class CastConfig(_Step):
    """Change columns' types, as CAST does: column → type. A value that can't be cast is a row error."""

    cast: dict[str, str] = Field(min_length=1)


class FilterConfig(_Step):
    """Keep the rows for which a SQL condition is true; where it is null, the row is dropped, as in SQL."""

    filter: str = Field(min_length=1)


class DeriveConfig(_Step):
    """Compute columns by SQL expressions: name → expression. A name that is there already is replaced."""

    derive: dict[str, str] = Field(min_length=1)


class MaskConfig(_Step):
    """Mask columns, in the artifacts and among the rejected rows."""

    mask: MaskOptions


class FlattenConfig(_Step):
    """Make columns of the fields of a json column."""

    flatten: FlattenOptions


class DedupeConfig(_Step):
    """Keep the first row of each key, in bounded memory."""

    dedupe: DedupeOptions


class ValidateConfig(_Step):
    """Check rows against a JSON Schema or a pydantic model. A row that breaks it is a row error."""

    validate_: ValidateOptions = Field(alias="validate")


class EnrichTableConfig(_Step):
    """Add columns looked up in a table."""

    enrich_table: EnrichTableOptions


class EnrichHttpConfig(_Step):
    """Add columns looked up at an HTTP API."""

    enrich_http: EnrichHttpOptions


class PythonConfig(_Step):
    """Call your own code: `module:function`, list of rows → list of rows, never more than it got."""

    python: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")]


class PluginConfig(PluginEntry):
    """A step of another package: its name has a dot."""

    group = plugins.STEPS

    timeout: Timeout = None


_CONFIGS: Mapping[str, type[BaseModel]] = {
    "select": SelectConfig,
    "drop": DropConfig,
    "rename": RenameConfig,
    "add": AddConfig,
    "cast": CastConfig,
    "filter": FilterConfig,
    "derive": DeriveConfig,
    "mask": MaskConfig,
    "flatten": FlattenConfig,
    "dedupe": DedupeConfig,
    "validate": ValidateConfig,
    "enrich_table": EnrichTableConfig,
    "enrich_http": EnrichHttpConfig,
    "python": PythonConfig,
    "plugin": PluginConfig,
}
STEP_NAMES = tuple(name for name in _CONFIGS if name != "plugin")


StepConfig = Annotated[
    Annotated[SelectConfig, Tag("select")]
    | Annotated[DropConfig, Tag("drop")]
    | Annotated[RenameConfig, Tag("rename")]
    | Annotated[AddConfig, Tag("add")]
    | Annotated[CastConfig, Tag("cast")]
    | Annotated[FilterConfig, Tag("filter")]
    | Annotated[DeriveConfig, Tag("derive")]
    | Annotated[MaskConfig, Tag("mask")]
    | Annotated[FlattenConfig, Tag("flatten")]
    | Annotated[DedupeConfig, Tag("dedupe")]
    | Annotated[ValidateConfig, Tag("validate")]
    | Annotated[EnrichTableConfig, Tag("enrich_table")]
    | Annotated[EnrichHttpConfig, Tag("enrich_http")]
    | Annotated[PythonConfig, Tag("python")]
    | Annotated[PluginConfig, Tag("plugin")],
    one_key("step", _CONFIGS, beside=("timeout",)),
]
