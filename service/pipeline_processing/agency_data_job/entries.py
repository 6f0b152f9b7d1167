"""Source and destination entries of a job config, and the properties that each kind declares."""

from collections.abc import Sequence
from typing import Any

from pipeline_processing import plugins
from pipeline_processing.options.entry import Entry
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Columns


class SourceEntry(Entry):
    """Where a dataset's rows come from. For plugins, the properties have their defaults."""

    group = plugins.SOURCES
    noun = "source"
    suffix = "SourceEntry"

    @property
    def needs_source_database(self) -> bool:
        """Whether it reads from PIPELINE_SOURCE__DSN."""
        return self.asked("needs_source_database", False)

    @property
    def has_infinity(self) -> bool:
        """Whether a missing `since` or `until` becomes -infinity or infinity, as Postgres writes them."""
        return self.asked("has_infinity", False)

    @property
    def uses_agency(self) -> bool:
        """Whether its rows depend on `agency_id`."""
        return self.asked("uses_agency", True)

    @property
    def how_to_use_agency(self) -> str:
        """A sentence for messages: how to make the rows depend on `agency_id`."""
        return self.asked("how_to_use_agency", "")

    def columns_in(self, carry: str) -> Columns:
        """Return the columns that are known from the options, for values in the form `carry`."""
        columns_in: Any = self.asked("columns_in", None)
        columns: Columns = UNKNOWN_COLUMNS if columns_in is None else columns_in(carry)
        return columns


class DestinationEntry(Entry):
    """Where artifacts go. A plugin's destination never holds the manifest."""

    group = plugins.DESTINATIONS
    noun = "destination"
    suffix = "DestinationEntry"

    @property
    def holds_manifest(self) -> bool:
        """Whether it stores objects, the run's manifest among them."""
        return self.asked("holds_manifest", False)

    @property
    def holds_tables(self) -> bool:
        """Whether it has tables, and can hold the run's manifest if no destination stores objects."""
        return self.asked("holds_tables", False)

    @property
    def buffers_parts(self) -> bool:
        """Whether its uploads draw from `Limits.uploads`."""
        return self.asked("buffers_parts", False)

    @property
    def place(self) -> str | None:
        """Text that is equal for destinations that write to the same place; None if unknown."""
        return self.asked("place", None)

    @property
    def guarantee(self) -> str:
        """A phrase for messages: what readers can rely on."""
        return self.asked("guarantee", "what its package says")

    def check(self, datasets: Sequence[Any]) -> None:
        """Raises ValueError if it can't take the job's datasets."""
        check: Any = self.asked("check", None)
        if check is not None:
            check(datasets)
