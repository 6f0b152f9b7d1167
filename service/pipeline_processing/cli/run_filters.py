"""Options that select runs of the history, for `history`, `cancel` and `replay`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline_processing.cli import completion
from pipeline_processing.cli.options import MOMENT, moment, pairs_of, text

if TYPE_CHECKING:
    from pipeline_processing.agency_keys import AgencyId
    from pipeline_processing.model import RunState
    from pipeline_processing.runs.run_filter import RunFilter


def state_of(text: str) -> RunState:
    """Parse a run state. Raises BadParameter, which lists the valid ones."""
    from pipeline_processing.model import RunState

    try:
        return RunState(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} isn't a state; the states are {', '.join(RunState)}.") from None


StateOption = Annotated[
    list[Any] | None,  # of RunState, which isn't imported for `--help`
    typer.Option(
        metavar="S",
        parser=state_of,
        autocompletion=completion.states,
        help="Runs in this state only: queued, running, prepared, succeeded, failed or cancelled; may be repeated.",
    ),
]
ErrorKindOption = Annotated[
    list[str] | None,
    typer.Option(metavar="KIND", parser=text, help="Runs that failed with this kind of error; may be repeated."),
]
LabelOption = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", parser=text, help="Runs with this label; with all of them if repeated."),
]
RequestedByOption = Annotated[
    str | None, typer.Option(metavar="WHO", parser=text, help="Runs that this requester asked for.")
]
SearchOption = Annotated[
    str | None, typer.Option(metavar="TEXT", parser=text, help="Runs with this text in their run id.")
]
SinceOption = Annotated[
    datetime | None, typer.Option(metavar="T", parser=moment, help=f"Runs accepted since: {MOMENT}")
]
UntilOption = Annotated[
    datetime | None, typer.Option(metavar="T", parser=moment, help="Runs accepted before; like --since.")
]


def run_filter(
    *,
    agency_id: AgencyId | None = None,
    state: Sequence[RunState] | None = None,
    error_kind: Sequence[str] | None = None,
    label: Sequence[str] | None = None,
    requested_by: str | None = None,
    search: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> RunFilter:
    """Return the filter of these options. Raises BadParameter for a label that isn't KEY=VALUE."""
    from pipeline_processing.runs.run_filter import RunFilter

    return RunFilter(
        agency_id=agency_id,
        states=tuple(state or ()),
        labels=pairs_of(label or [], option="--label"),
        error_kinds=tuple(error_kind or ()),
        requested_by=requested_by,
        text=search,
        since=since,
        until=until,
    )
