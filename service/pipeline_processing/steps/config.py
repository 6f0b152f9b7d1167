"""A step in a job config: a mapping from its name to its options, with an optional `timeout`."""

from typing import Annotated

from pydantic import Field

from pipeline_processing import plugins
from pipeline_processing.errors import InvalidStep
from pipeline_processing.options.durations import Duration
from pipeline_processing.options.entry import Entry
from pipeline_processing.steps.step import Step, StepContext
from pipeline_processing.user_code import user_code


class StepEntry(Entry):
    """One step of a dataset."""

    group = plugins.STEPS
    noun = "step"
    suffix = "Config"

    timeout: Annotated[Duration | None, Field(description="Longest time for one batch, e.g. 30s; none by default.")] = (
        None
    )

    @property
    def needs_source_database(self) -> bool:
        """Whether it uses PIPELINE_SOURCE__DSN."""
        return self.asked("needs_source_database", False)

    @property
    def needs_temporary_files(self) -> bool:
        """Whether it stores the keys of all rows in a temporary file."""
        return self.asked("needs_temporary_files", False)

    def build(self, context: StepContext) -> Step:
        """Build the step without opening it. Raises UnknownColumn or InvalidStep."""
        if not self.is_plugin:
            built: Step = self.plugin.build(self.options, context=context)
            return built
        with user_code(lambda what: InvalidStep(f"Step {self.kind!r} can't be built: {what}.")):
            step = self.plugin.build(self.options, context=context)
        if not isinstance(step, Step):
            raise InvalidStep(f"The plugin {self.kind!r} built a {type(step).__name__}, not a Step.")
        if missing := [attribute for attribute in ("name", "columns") if not hasattr(step, attribute)]:
            raise InvalidStep(
                f"The plugin {self.kind!r} built a step without {' and '.join(missing)}, which every step has to set."
            )
        return step
