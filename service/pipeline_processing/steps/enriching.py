"""Base of the lookup steps: collects the distinct keys of a batch, and fetches those that aren't cached."""

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import compress
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from pipeline_processing.options.parts import Part
from pipeline_processing.ports import Rows
from pipeline_processing.rows.columns import check_absent
from pipeline_processing.steps.lookup_cache import Found, LookupCache, Misfit, Outcome
from pipeline_processing.steps.lookup_keys import Matching
from pipeline_processing.steps.step import Batch, Step, StepContext

Answers = Mapping[Hashable, Found | Misfit]
"""Key → result. Keys without a record are left out."""

Name = Annotated[str, StringConstraints(min_length=1)]
On = Annotated[Name, Field(description="A column of the rows: the key to look for.")]
Missing = Annotated[
    Literal["fail", "drop"] | None,
    Field(
        description="What becomes of a row whose key is null or not found: null adds nulls, `fail` makes it a row "
        "error, `drop` leaves it out."
    ),
]
CacheRows = Annotated[int, Field(ge=0, description="Most keys whose records, or absence, are remembered.")]


class LookupOptions(Part):
    """Base of the options. Also accepts `on` as the key `true`, because tools for YAML 1.1 may write it like that."""

    if TYPE_CHECKING:  # each subclass declares them, in its own order
        on: On
        missing: Missing
        cache_rows: CacheRows
        add: Mapping[Name, Any]

    @model_validator(mode="before")
    @classmethod
    def _with_on(cls, options: Any) -> Any:
        if isinstance(options, Mapping) and True in options and "on" not in options:
            return {"on" if name is True else name: value for name, value in options.items()}
        return options


class Enriching(Step):
    """
    Adds columns looked up by the key in the column `on`.

    `missing` applies to rows whose key is null or has no record. A row whose key can't be read, or whose record is a
    misfit, is a row error.
    """

    matching: Matching
    """How keys are read. Subclasses set it before the first batch."""

    def __init__(self, kind: str, options: LookupOptions, context: StepContext) -> None:
        self.name = f"{kind}: {options.on}"
        self.on = context.columns.require(options.on, step=self.name)
        self._added = tuple(options.add)
        self.touches = frozenset((options.on,))
        self._missing = options.missing
        self._known = LookupCache(max_rows=options.cache_rows)
        self._row_errors = context.row_errors
        self._reaching = context.columns
        self._stack = AsyncExitStack()
        """Closes what the subclass has opened."""

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.__aexit__(*error)

    @abstractmethod
    async def fetch(self, wanted: Mapping[Hashable, Any]) -> Answers:
        """Look up keys: key → the value to look for."""

    async def __call__(self, batch: Batch) -> Batch:
        if not self._reaching.complete:
            self._reaching.require_in(batch.rows, [self.on.name], step=self.name)
            for row in batch.rows:
                check_absent(self._added, row, step=self.name)
        keys, faults, wanted = self._keys_of(batch.rows)
        found = await self._found(wanted)
        outcomes = [None if key is None else found[key] for key in keys]
        faults = self._faults_of(keys, outcomes) | faults
        batch = self._row_errors.reject(batch, faults, step=self.name)
        added = [each for at, each in enumerate(outcomes) if at not in faults and not isinstance(each, Misfit)]
        if self._missing == "drop" and None in added:
            has_record = [each is not None for each in added]
            self.filtered += len(has_record) - sum(has_record)
            added, batch = list(compress(added, has_record)), batch.kept(has_record)
        names, nulls = self._added, (None,) * len(self._added)
        return batch.changed(
            [
                row | dict(zip(names, nulls if each is None else each, strict=True))
                for row, each in zip(batch.rows, added, strict=True)
            ]
        )

    def _keys_of(self, rows: Rows) -> tuple[list[Hashable | None], dict[int, str], dict[Hashable, Any]]:
        """Return each row's key or None, faults by position, and key → the value to look for."""
        key_of, asked, name = self.matching.of_row, self.matching.asked, self.on.name
        keys: list[Hashable | None] = []
        faults: dict[int, str] = {}
        wanted: dict[Hashable, Any] = {}
        for row in rows:
            key: Hashable | None = None
            if (carried := row[name]) is not None:
                try:
                    key = key_of(carried)
                except ValueError:
                    faults[len(keys)] = f"its {name!r} isn't of the type of the key that it is looked up by"
                else:
                    if key not in wanted:
                        wanted[key] = asked(carried, key)
            keys.append(key)
        return keys, faults, wanted

    async def _found(self, wanted: Mapping[Hashable, Any]) -> dict[Hashable, Outcome]:
        found: dict[Hashable, Outcome] = {**self._known.known(wanted)}
        unknown = {key: ask for key, ask in wanted.items() if key not in found}
        if unknown:
            answers = await self.fetch(unknown)
            for key in unknown:
                found[key] = answers.get(key)
                self._known.remember(key, found[key])
        return found

    def _faults_of(self, keys: Sequence[Hashable | None], outcomes: Sequence[Outcome]) -> dict[int, str]:
        """Return faults by position."""
        faults: dict[int, str] = {}
        for at, outcome in enumerate(outcomes):
            if isinstance(outcome, Misfit):
                faults[at] = outcome.why
            elif outcome is None and self._missing == "fail":
                why = "is null" if keys[at] is None else "is the key of no record"
                faults[at] = f"its {self.on.name!r} {why}, and `missing` is fail"
        return faults
