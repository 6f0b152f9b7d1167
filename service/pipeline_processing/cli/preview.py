"""`preview`: the first rows of each dataset after its steps."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline_processing.cli.agencies import agencies_given, for_config
from pipeline_processing.cli.context import current_mask, log_to_stderr, settings_to_run
from pipeline_processing.cli.options import (
    ConfigOption,
    DatasetOption,
    JobArgument,
    OutputOption,
    ParamOption,
    SinceOption,
    UntilOption,
    pairs_of,
    requests_of,
)
from pipeline_processing.terminal.notes import note
from pipeline_processing.terminal.render import counted
from pipeline_processing.terminal.tables import Column, Output, Table, print_table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from pipeline_processing.agency_data_job.config import AgencyJobConfig
    from pipeline_processing.agency_data_job.preview import Preview
    from pipeline_processing.model import JobRequest
    from pipeline_processing.settings.settings import Settings

_MOST = 1000


def preview(
    job: JobArgument,
    agency_id: Annotated[str, typer.Option("--agency-id", metavar="N", help="The agency whose data to show.")],
    rows: Annotated[int, typer.Option("--rows", min=1, max=_MOST, help="Most rows of each dataset.")] = 10,
    config: ConfigOption = None,
    dataset: DatasetOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    param: ParamOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """
    Show the first rows of each dataset as they leave its steps. Writes nothing, and reads no further than needed.

    As json, prints each row as its line of NDJSON.
    """
    from pipeline_processing.terminal.event_loop import run_async

    fields = {
        "job": job,
        "dry_run": True,
        "datasets": dataset,
        "since": since,
        "until": until,
        "params": pairs_of(param or [], option="--param"),
    }
    requests = requests_of(agencies_given([agency_id], config=config), fields)
    settings, job_config = settings_to_run(config=config, dry=True)
    (request,) = for_config(requests, job_config)
    log_to_stderr(level="warning")
    run_async(show_previews(settings, job_config, request, rows=rows, output=output))


async def show_previews(
    settings: Settings, config: AgencyJobConfig, request: JobRequest, *, rows: int, output: Output
) -> None:
    """Print the first rows of each dataset of the request. Raises the errors of a run."""
    from pipeline_processing.agency_data_job.checking import require_sound

    asked = config.narrowed(request).model_copy(update={"destinations": None})
    require_sound(asked, secrets=settings.secrets, path=settings.job_config_file)
    asked = asked.for_request(request)
    async for shown in _previews(settings, asked, request, rows=rows):
        note(_heading(shown))
        if output is Output.JSON:
            for line in shown.lines:
                typer.echo(line.decode())
        elif shown.lines:
            _print(shown.lines, wide=output is Output.WIDE)


async def _previews(
    settings: Settings, config: AgencyJobConfig, request: JobRequest, *, rows: int
) -> AsyncIterator[Preview]:
    from pipeline_processing.agency_data_job.preview import previews
    from pipeline_processing.app.data_path import sources

    async with sources(settings, config, runs=1, mask=current_mask()) as (source, services):
        async for shown in previews(config, request, source=source, services=services, rows=rows):
            yield shown


def _heading(shown: Preview) -> str:
    """`records: the first 10 rows (2 filtered, 1 rejected on the way)`."""
    counts = shown.counts
    aside = [(counts.rows_filtered, "filtered"), (counts.rows_rejected, "rejected")]
    told = ", ".join(f"{rows:,} {what}" for rows, what in aside if rows)
    shows = counted(counts.rows_written, "row")
    if shown.more:
        shows = "the first row" if counts.rows_written == 1 else f"the first {shows}"
    return f"{counts.name}: {shows}{told and f' ({told} on the way)'}"


def _print(lines: Iterable[bytes], *, wide: bool) -> None:
    """Print rows as a table, with numbers as they are written."""
    rows: list[dict[str, Any]] = [json.loads(line, parse_int=_Number, parse_float=_Number) for line in lines]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table: Table[dict[str, Any]] = {
        # A narrow terminal has no room for the last columns, but always for the first.
        Column(name, right=any(isinstance(row.get(name), _Number) for row in rows), spare=place): partial(_cell, name)
        for place, name in enumerate(names)
    }
    print_table(table, rows, wide=wide)


class _Number(str):
    """A number, as JSON has it."""


def _cell(name: str, row: dict[str, Any]) -> str:
    value = row.get(name)
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    match value:
        case _Number():
            return value
        case dict():
            return "{" + ", ".join(f"{_json(key)}: {_json(each)}" for key, each in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_json, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
