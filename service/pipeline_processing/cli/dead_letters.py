"""`dead-letters list`, `show` and `redrive`: dead letters in Kafka, and those in the database."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline_processing.cli.context import current_settings, log_to_stderr
from pipeline_processing.cli.options import MOMENT, OutputOption, moment
from pipeline_processing.terminal import render, tables
from pipeline_processing.terminal.exit_codes import FAILED, SUCCESS
from pipeline_processing.terminal.notes import note_length
from pipeline_processing.terminal.tables import Output

if TYPE_CHECKING:
    from pipeline_processing.messaging.dead_letters import DeadLetter
    from pipeline_processing.messaging.port import Topics
    from pipeline_processing.messaging.topic_reading import Place
    from pipeline_processing.requests.redrive import DeadLetters, Filter, Redriven
    from pipeline_processing.settings.settings import Settings

app = typer.Typer(help="Inspect and resend requests that couldn't be used.")

DEFAULT_LIMIT = 50
_LONGEST_MESSAGE = 120
"""Characters of a message that `list` shows."""

_PLACE_HELP = "As `list` shows it: partition and offset, or db:NUMBER for a letter in the history's database."
PlaceArgument = Annotated[str, typer.Argument(metavar="P:O", help=_PLACE_HELP)]
ReasonOption = Annotated[
    str | None, typer.Option(metavar="R", help="Only for this reason, such as invalid_request or unknown_dataset.")
]
SinceOption = Annotated[
    datetime | None, typer.Option(metavar="T", parser=moment, help=f"Only letters written since: {MOMENT}")
]


@app.command("list")
def list_letters(
    reason: ReasonOption = None,
    since: SinceOption = None,
    limit: Annotated[
        int, typer.Option(min=1, max=100_000, metavar="N", help="Show at most N letters.")
    ] = DEFAULT_LIMIT,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show dead letters, newest first. Times are UTC. As json, one object per letter and line."""
    from pipeline_processing.terminal.event_loop import run_async

    async def newest(wanted: Filter) -> list[DeadLetter]:
        async with _letters() as (_, _, letters):
            return await letters.newest(wanted, limit=limit + 1)

    found = run_async(newest(_filter(reason, since)))
    tables.print_items(found[:limit], _TABLE, output=output, as_object=_object)
    note_length(len(found[:limit]), "dead letter", more=len(found) > limit)


@app.command()
def show(
    place: PlaceArgument,
    output: OutputOption = Output.TABLE,
) -> None:
    """
    Show one dead letter in full: its headers and the original request.

    Exits with 65 if there is none at that place.
    """
    from pipeline_processing.terminal.event_loop import run_async

    async def one(place: Place) -> DeadLetter:
        async with _letters() as (_, _, letters):
            return (await letters.at([place]))[0]

    letter = run_async(one(_place(place)))
    if output is Output.JSON:
        tables.print_object(_full_object(letter))
        return
    for line in _details(letter):
        typer.echo(line)


@app.command()
def redrive(
    places: Annotated[list[str] | None, typer.Argument(metavar="P:O", help=_PLACE_HELP)] = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    output: OutputOption = Output.TABLE,
) -> int:
    """
    Resend the original requests of dead letters: all of them, or those selected by place, reason and time.

    Safe to repeat: no request starts a second run. Letters with the same content are sent once. Exits with 1 if a
    request couldn't be sent because it is gone or the broker refuses it, with 65 if a place has no dead letter. As
    json, one object per letter and line.
    """
    from pipeline_processing.terminal.event_loop import run_async

    as_json = output is Output.JSON
    return run_async(_redriven(_filter(reason, since, places or []), as_json=as_json))


def _filter(reason: str | None, since: datetime | None, places: list[str] | None = None) -> Filter:
    """Raises BadParameter if the options are invalid or can't be combined."""
    from pipeline_processing.published.asyncapi import DEAD_LETTER_REASONS
    from pipeline_processing.requests.redrive import Filter

    if places and (reason, since) != (None, None):
        raise typer.BadParameter("already selects the letters: leave out --reason and --since.", param_hint="'P:O'")
    if reason is not None and reason not in DEAD_LETTER_REASONS:
        raise typer.BadParameter(
            f"{reason!r} isn't a reason; the reasons are {', '.join(DEAD_LETTER_REASONS)}.", param_hint="'--reason'"
        )
    return Filter(reason=reason, since=since, places=tuple(dict.fromkeys(map(_place, places or []))))


def _place(text: str) -> Place:
    """Raises BadParameter if the text isn't a place."""
    from pipeline_processing.requests.redrive import letter_place

    try:
        return letter_place(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint="'P:O'") from None


@asynccontextmanager
async def _letters() -> AsyncIterator[tuple[Settings, Topics, DeadLetters]]:
    from pipeline_processing.aio.clock import SystemClock
    from pipeline_processing.app import history, kafka
    from pipeline_processing.requests.redrive import DeadLetters
    from pipeline_processing.requests.submission import ask_brokers

    log_to_stderr()
    settings = current_settings()
    async with AsyncExitStack() as stack:
        topics = await stack.enter_async_context(kafka.topics(settings))
        # Letters in Kafka can be read without a history.
        kept = None if settings.history_dsn is None else await stack.enter_async_context(history.letters(settings))
        # Create missing topics: before the first message, show no dead letters rather than an error.
        await ask_brokers(topics.ensure, clock=SystemClock())
        yield settings, topics, DeadLetters(topics=topics, topic=settings.kafka.dead_letters_topic, kept=kept)


# -- redriving -----------------------------------------------------------------------------------


async def _redriven(wanted: Filter, *, as_json: bool) -> int:
    from pipeline_processing.app import kafka
    from pipeline_processing.requests.redrive import Redrive

    report = _Report(as_json=as_json)
    async with _letters() as (settings, topics, letters), kafka.events(settings) as events:
        redrive = Redrive(
            topics=topics,
            events=events,
            letters=letters,
            requests_topic=settings.kafka.requests_topic,
            report=report.add,
        )
        try:
            await redrive.run(wanted)
        except BaseException:
            if report.sent:
                typer.echo(f"{report.sent:,} sent so far. Sending all of them again is harmless.", err=True)
            raise
    typer.echo(report.summary(repeated=redrive.repeated), err=as_json)
    return FAILED if report.stuck else SUCCESS


class _Report:
    """Prints and counts the outcomes of letters."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self.sent = 0
        self.stuck = 0

    def add(self, redriven: Redriven) -> None:
        letter = redriven.letter
        if redriven.obstacle is not None:
            self.stuck += 1
            outcome = f"not sent: {redriven.obstacle}"
        else:
            self.sent += 1
            asks = f"run {redriven.run_id}" if redriven.run_id else "but it still can't be read as a request"
            outcome = f"sent, {asks}" if redriven.topic is None else f"sent to {redriven.topic}"
        if self._as_json:
            tables.print_object(
                {
                    "place": letter.place,
                    "dlq_reason": letter.reason,
                    **_named("key", letter.original_key),
                    "sent": redriven.obstacle is None,
                    "obstacle": redriven.obstacle,
                    "run_id": redriven.run_id,
                    "topic": redriven.topic,
                }
            )
            return
        line = f"{letter.place}  {letter.reason}  key {_short(letter.original_key)}  {outcome}"
        typer.echo(tables.printable(line))

    def summary(self, *, repeated: int) -> str:
        parts = [f"{render.counted(self.sent, 'request')} sent"]
        if repeated:
            parts.append(f"{repeated:,} {'letter says' if repeated == 1 else 'letters say'} the same as another")
        if self.stuck:
            parts.append(f"{self.stuck:,} could not be sent")
        return f"{'; '.join(parts)}."


# -- showing -------------------------------------------------------------------------------------


def _at(letter: DeadLetter) -> str:
    try:
        return render.moment(datetime.fromisoformat(letter.at))
    except (ValueError, OverflowError):  # another program wrote the header
        return letter.at


def _message(letter: DeadLetter) -> str:
    message = letter.message
    return message if len(message) <= _LONGEST_MESSAGE else f"{message[: _LONGEST_MESSAGE - 2]} …"


_TABLE: tables.Table[DeadLetter] = {
    tables.Column("PLACE"): lambda letter: letter.place,
    tables.Column("AT (UTC)"): _at,
    tables.Column("REASON"): lambda letter: letter.reason,
    tables.Column("KEY"): lambda letter: _short(letter.original_key),
    tables.Column("CAME FROM"): lambda letter: f"{letter.topic} {letter.partition}:{letter.offset}",
    tables.Column("MESSAGE", long=True): _message,
}


def _object(letter: DeadLetter) -> dict[str, Any]:
    """Return a letter as JSON, with the names of its headers."""
    return {
        "place": letter.place,
        **_named("key", letter.original_key),
        "dlq_reason": letter.reason,
        "dlq_message": letter.message,
        "dlq_topic": letter.topic,
        "dlq_partition": letter.partition,
        "dlq_offset": letter.offset,
        "dlq_at": letter.at,
        "dlq_timestamp": letter.timestamp_ms,
    }


def _full_object(letter: DeadLetter) -> dict[str, Any]:
    from pipeline_processing.messaging.dead_letters import STORED

    record = letter.record
    return {
        "place": letter.place,
        "topic": record.topic,
        "partition": None if record.partition == STORED else record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        **_named("key", letter.original_key),
        # A list, because names may repeat.
        "headers": [{"name": name, **_named("value", value)} for name, value in record.headers],
        **_named("value", record.value),
    }


def _named(name: str, value: bytes | None) -> dict[str, str | None]:
    """Return text unchanged, and anything else as base64 under the name `{name}_base64`."""
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}


def _details(letter: DeadLetter) -> Iterator[str]:
    """Yield human-readable lines. The value comes last, in full."""
    record = letter.record
    facts = [("place", letter.place), ("key", _exact(letter.original_key))]
    facts += [(tables.printable(name), _exact(value)) for name, value in record.headers]
    width = max(len(name) for name, _ in facts) + 2
    for name, value in facts:
        yield f"{name:<{width}}{value}"
    yield ""
    yield _exact(record.value)


def _exact(value: bytes | None) -> str:
    """Return text unchanged, or quoted and escaped if it has control characters; anything else as base64."""
    if value is None:
        return "(none)"
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(value).decode()}"
    return text if tables.printable(text) == text else json.dumps(text)


def _short(key: bytes | None) -> str:
    """Return a key, shortened to fit a column."""
    return tables.NOTHING if key is None else _exact(key)[:40] or '""'
