"""`dead-letters list`, `dead-letters show` and `dead-letters redrive`: those in Kafka, and those in the database."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline_processing.cli.context import current_mask, current_settings
from pipeline_processing.cli.history import moment_of
from pipeline_processing.terminal import render
from pipeline_processing.terminal.exit_codes import FAILED, SUCCESS

if TYPE_CHECKING:
    from pipeline_processing.messaging.dead_letters import DeadLetter
    from pipeline_processing.messaging.port import Topics
    from pipeline_processing.messaging.topic_reading import Place
    from pipeline_processing.requests.redrive import DeadLetters, Redriven, Wanted
    from pipeline_processing.settings.settings import Settings

app = typer.Typer(help="Look at requests that couldn't be used, and resend them.")

DEFAULT_LIMIT = 50
_LONGEST_MESSAGE = 120
"""In characters, in a list."""

COLUMNS = (
    render.Column("PLACE"),
    render.Column("AT (UTC)"),
    render.Column("REASON"),
    render.Column("KEY"),
    render.Column("CAME FROM"),
    render.Column("MESSAGE", long=True),
)

_PLACE_HELP = "As `list` shows it: partition and offset, or db:NUMBER for a letter in the history's database."
PlaceArgument = Annotated[str, typer.Argument(metavar="P:O", help=_PLACE_HELP)]
ReasonOption = Annotated[
    str | None, typer.Option(metavar="R", help="Only for this reason, such as invalid_request or unknown_dataset.")
]
SinceOption = Annotated[
    str | None,
    typer.Option(
        metavar="T",
        help="Only those put aside since: an ISO time such as 2026-01-18T10:00Z (UTC if it names no zone), or so long "
        "ago: 90s, 15m, 2h, 7d.",
    ),
]


@app.command("list")
def list_letters(
    reason: ReasonOption = None,
    since: SinceOption = None,
    limit: Annotated[
        int, typer.Option(min=1, max=100_000, metavar="N", help="At most so many letters.")
    ] = DEFAULT_LIMIT,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per letter and line.")] = False,
) -> None:
    """Show dead letters, the newest first. Times are UTC."""
    from pipeline_processing.terminal.event_loop import run_async

    letters = run_async(_newest(_wanted(reason, since), limit))
    if as_json:
        for letter in letters:
            render.print_object(_object(letter))
    else:
        render.print_table(COLUMNS, map(_line, letters))


@app.command()
def show(
    place: PlaceArgument,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """
    Show one dead letter in full: its headers, and the request as it came.

    Exits with 65 if there is none at that place.
    """
    from pipeline_processing.terminal.event_loop import run_async

    letter = run_async(_one(_place(place)))
    if as_json:
        render.print_object(_full_object(letter))
        return
    for line in _details(letter):
        typer.echo(line)


@app.command()
def redrive(
    places: Annotated[list[str] | None, typer.Argument(metavar="P:O", help=_PLACE_HELP)] = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
) -> int:
    """
    Resend the requests of dead letters, as they came; all of them, unless something narrows it.

    Doing it twice makes no second run. Letters that say the same are sent once. Exits with 1 if a request couldn't be
    sent because it is gone or the broker refuses it, with 65 if a place has no dead letter.
    """
    from pipeline_processing.terminal.event_loop import run_async

    wanted = _wanted(reason, since, places or [])
    return run_async(_redriven(wanted))


# -- asking --------------------------------------------------------------------------------------


@asynccontextmanager
async def _letters() -> AsyncIterator[tuple[Settings, Topics, DeadLetters]]:
    from pipeline_processing.aio.clock import SystemClock
    from pipeline_processing.app import one_run as app
    from pipeline_processing.requests.redrive import DeadLetters
    from pipeline_processing.requests.submission import ask_brokers
    from pipeline_processing.telemetry.logs import configure_logs

    on_terminal = sys.stderr.isatty()
    configure_logs(json=not on_terminal, level="warning" if on_terminal else "info", mask=current_mask())
    settings = current_settings()
    async with AsyncExitStack() as stack:
        topics = await stack.enter_async_context(app.topics(settings))
        # Without a history there are those in Kafka, which need none.
        kept = None if settings.history_dsn is None else await stack.enter_async_context(app.letters(settings))
        # Where nobody has sent anything yet there are no dead letters, rather than an error.
        await ask_brokers(topics.ensure, clock=SystemClock())
        yield settings, topics, DeadLetters(topics=topics, topic=settings.kafka.dead_letters_topic, kept=kept)


async def _newest(wanted: Wanted, limit: int) -> list[DeadLetter]:
    async with _letters() as (_, _, letters):
        return await letters.newest(wanted, limit=limit)


async def _one(place: Place) -> DeadLetter:
    async with _letters() as (_, _, letters):
        return (await letters.at([place]))[0]


async def _redriven(wanted: Wanted) -> int:
    from pipeline_processing.app import one_run as app
    from pipeline_processing.requests.redrive import Redrive

    told = _Told()
    async with _letters() as (settings, topics, letters), app.events(settings) as events:
        redrive = Redrive(
            topics=topics,
            events=events,
            letters=letters,
            requests_topic=settings.kafka.requests_topic,
            tell=told.tell,
        )
        try:
            await redrive.run(wanted)
        except BaseException:
            if told.sent:
                typer.echo(f"{told.sent:,} sent so far. To send all of them again is harmless.", err=True)
            raise
    typer.echo(told.summary(repeated=redrive.repeated))
    return FAILED if told.stuck else SUCCESS


class _Told:
    """Prints what became of each letter, and counts."""

    def __init__(self) -> None:
        self.sent = 0
        self.stuck = 0

    def tell(self, redriven: Redriven) -> None:
        letter = redriven.letter
        about = f"{letter.place}  {letter.reason}  key {_short(letter.original_key)}"
        if redriven.obstacle is not None:
            self.stuck += 1
            what = f"not sent: {redriven.obstacle}"
        else:
            self.sent += 1
            asks = f"run {redriven.run_id}" if redriven.run_id else "though it still can't be read as a request"
            what = f"sent, {asks}"
        typer.echo(render.printable(f"{about}  {what}"))

    def summary(self, *, repeated: int) -> str:
        parts = [f"{self.sent:,} {'request' if self.sent == 1 else 'requests'} sent"]
        if repeated:
            parts.append(f"{repeated:,} {'letter says' if repeated == 1 else 'letters say'} the same as another")
        if self.stuck:
            parts.append(f"{self.stuck:,} could not be sent")
        return f"{'; '.join(parts)}."


# -- what is printed -----------------------------------------------------------------------------


def _line(letter: DeadLetter) -> tuple[str, ...]:
    """A letter's cells, one for each of COLUMNS."""
    message = letter.message
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[: _LONGEST_MESSAGE - 2]} …"
    came_from = f"{letter.topic} {letter.partition}:{letter.offset}"
    return letter.place, _moment(letter.at), letter.reason, _short(letter.original_key), came_from, message


def _object(letter: DeadLetter) -> dict[str, Any]:
    """As JSON, by the names of the headers."""
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
        # A list: a name may stand there twice.
        "headers": [{"name": name, **_named("value", value)} for name, value in record.headers],
        **_named("value", record.value),
    }


def _named(name: str, value: bytes | None) -> dict[str, str | None]:
    """Text as it is, and what isn't text as base64 under a name that says so."""
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}


def _details(letter: DeadLetter) -> Iterator[str]:
    """For people. The value comes last, and in full."""
    record = letter.record
    facts = [("place", letter.place), ("key", _exact(letter.original_key))]
    facts += [(name, _exact(value)) for name, value in record.headers]
    width = max(len(render.printable(name)) for name, _ in facts) + 2
    for name, value in facts:
        yield f"{render.printable(name):<{width}}{value}"
    yield ""
    yield _exact(record.value)


def _exact(value: bytes | None) -> str:
    """
    Text as it is. In quotes and with escapes if it has characters that a terminal would obey; base64 if it isn't text.
    """
    if value is None:
        return "(none)"
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(value).decode()}"
    return text if render.printable(text) == text else json.dumps(text)


def _short(key: bytes | None) -> str:
    """A key, for a column."""
    return render.NOTHING if key is None else _exact(key)[:40] or '""'


def _moment(text: str) -> str:
    try:
        return render.moment(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        return text


# -- options -------------------------------------------------------------------------------------


def _place(text: str) -> Place:
    from pipeline_processing.requests.redrive import letter_place

    try:
        return letter_place(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint="'P:O'") from None


def _wanted(reason: str | None, since: str | None, places: list[str] | None = None) -> Wanted:
    """Raises BadParameter."""
    from pipeline_processing.aio.clock import SystemClock
    from pipeline_processing.published.asyncapi import DEAD_LETTER_REASONS
    from pipeline_processing.requests.redrive import Wanted

    if places and (reason, since) != (None, None):
        raise typer.BadParameter("say already which letters: leave out --reason and --since.", param_hint="'P:O'")
    if reason is not None and reason not in DEAD_LETTER_REASONS:
        raise typer.BadParameter(
            f"{reason!r} isn't a reason; the reasons are {', '.join(DEAD_LETTER_REASONS)}.", param_hint="'--reason'"
        )
    return Wanted(
        reason=reason,
        since=None if since is None else moment_of(since, now=SystemClock().now()),
        places=tuple(dict.fromkeys(map(_place, places or []))),
    )
