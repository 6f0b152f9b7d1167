"""From a step as the job config writes it to the step."""

from pipeline_processing import plugins
from pipeline_processing.errors import InvalidStep
from pipeline_processing.steps.add import Add
from pipeline_processing.steps.cast import Cast
from pipeline_processing.steps.config import (
    AddConfig,
    CastConfig,
    DedupeConfig,
    DeriveConfig,
    DropConfig,
    EnrichHttpConfig,
    EnrichTableConfig,
    FilterConfig,
    FlattenConfig,
    MaskConfig,
    PluginConfig,
    PythonConfig,
    RenameConfig,
    SelectConfig,
    StepConfig,
    ValidateConfig,
)
from pipeline_processing.steps.dedupe import Dedupe
from pipeline_processing.steps.derive import Derive
from pipeline_processing.steps.drop import Drop
from pipeline_processing.steps.enrich_http import EnrichHttp
from pipeline_processing.steps.enrich_table import EnrichTable
from pipeline_processing.steps.filter import Filter
from pipeline_processing.steps.flatten import Flatten
from pipeline_processing.steps.mask import Mask
from pipeline_processing.steps.python import Python
from pipeline_processing.steps.rename import Rename
from pipeline_processing.steps.select import Select
from pipeline_processing.steps.step import Step, StepContext
from pipeline_processing.steps.validate import Validate
from pipeline_processing.user_code import user_code


def build(config: StepConfig, context: StepContext) -> Step:
    """The step, not opened yet. Raises UnknownColumn or InvalidStep."""
    match config:
        case SelectConfig():
            return Select(config.select, context)
        case DropConfig():
            return Drop(config.drop, context)
        case RenameConfig():
            return Rename(config.rename, context)
        case AddConfig():
            return Add(config.add, context)
        case CastConfig():
            return Cast(config.cast, context)
        case FilterConfig():
            return Filter(config.filter, context)
        case DeriveConfig():
            return Derive(config.derive, context)
        case MaskConfig():
            return Mask(config.mask, context)
        case FlattenConfig():
            return Flatten(config.flatten, context)
        case DedupeConfig():
            return Dedupe(config.dedupe, context)
        case ValidateConfig():
            return Validate(config.validate_, context)
        case EnrichTableConfig():
            return EnrichTable(config.enrich_table, context)
        case EnrichHttpConfig():
            return EnrichHttp(config.enrich_http, context)
        case PythonConfig():
            return Python(config.python, context)
        case PluginConfig():
            return _plugged(config, context)


def _plugged(config: PluginConfig, context: StepContext) -> Step:
    with user_code(lambda what: InvalidStep(f"Step {config.name!r} can't be built: {what}.")):
        step = plugins.plugin(plugins.STEPS, config.name).build(config.options, context=context)
    if not isinstance(step, Step):
        raise InvalidStep(f"The plugin {config.name!r} built a {type(step).__name__}, not a Step.")
    if missing := [attribute for attribute in ("name", "columns") if not hasattr(step, attribute)]:
        raise InvalidStep(
            f"The plugin {config.name!r} built a step without {' and '.join(missing)}, which every step has to set."
        )
    return step
