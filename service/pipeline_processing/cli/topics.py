"""`topics`: checks the service's topics, and with --execute creates those that are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline_processing.cli.context import current_settings, log_to_stderr, print_errors
from pipeline_processing.cli.options import OutputOption
from pipeline_processing.terminal import render
from pipeline_processing.terminal.render import Output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline_processing.errors import PipelineError
    from pipeline_processing.messaging.service_topics import Deviation, TopicResult
    from pipeline_processing.settings.settings import KafkaSettings

_COLUMNS = (
    render.Column("TOPIC"),
    render.Column("CONTENT", spare=5),
    render.Column("STATE"),
    render.Column("PARTITIONS", right=True, spare=1),
    render.Column("REPLICAS", right=True, spare=2),
    render.Column("CLEAN-UP", spare=4),
    render.Column("RETENTION", spare=3),
    render.Column("MESSAGES UP TO", right=True, spare=6),
)


def topics(
    execute: Annotated[bool, typer.Option("--execute", help="Create the missing topics.")] = False,
    output: OutputOption = Output.TABLE,
) -> int:
    """
    Check the service's topics: whether they exist, and whether they could lose or refuse messages.

    For clusters where services may create no topics: let an administrator run it with --execute. It never changes a
    topic that exists, but prints the command that would. The topics of `triggers` count if PIPELINE_TRIGGERS_FILE is
    set.

    Exits with 78 if a topic is missing or unfit, 69 if Kafka can't be reached, and 77 if it denies access. As json,
    one object per topic and line.
    """
    from pipeline_processing.app.kafka import check_topics
    from pipeline_processing.terminal.event_loop import run_async

    log_to_stderr(level="warning")
    settings = current_settings()
    results = run_async(check_topics(settings, create=execute))
    render.print_items(
        results,
        output=output,
        columns=_COLUMNS,
        line=lambda result: _line(result, settings.kafka),
        as_object=lambda result: _object(result, settings.kafka),
    )
    if output is not Output.JSON:
        for result in results:
            for each in result.deviations:
                if each.harmless:
                    typer.echo(f"Note: {_described(result, each)}")
    return print_errors(_errors(results))


def _errors(results: Sequence[TopicResult]) -> list[PipelineError]:
    from pipeline_processing.errors import SettingsError

    errors: list[PipelineError] = []
    missing = [result.topic.name for result in results if result.state == "missing"]
    if missing:
        errors.append(
            SettingsError(f"Kafka has no topic {', '.join(missing)}. The same command with --execute creates them.")
        )
    errors += [
        SettingsError(_described(result, each)) for result in results for each in result.deviations if not each.harmless
    ]
    return errors


def _described(result: TopicResult, deviation: Deviation) -> str:
    return f"The topic {result.topic.name}: {deviation}"


def _line(result: TopicResult, settings: KafkaSettings) -> tuple[str, ...]:
    from datetime import timedelta

    from pipeline_processing.options.durations import duration_in_words

    values = _values(result, settings)
    kept = values["retention_ms"]
    if values["cleanup_policy"] == "compact" or kept is None:
        retention = render.NOTHING
    else:
        retention = "for ever" if kept < 0 else duration_in_words(timedelta(milliseconds=kept))
    return (
        result.topic.name,
        result.topic.content,
        result.state,
        render.number(values["partitions"]),
        render.number(values["replicas"]),
        values["cleanup_policy"] or render.NOTHING,
        retention,
        render.number(values["max_message_bytes"]),
    )


def _values(result: TopicResult, settings: KafkaSettings) -> dict[str, Any]:
    """Return what the topic has or, if it is missing, will have; None is the brokers' default."""
    from pipeline_processing.messaging import service_topics as names

    found, config = result.found, result.topic.created_with()
    if found is not None:
        config = dict(found.config)
    kept, size = config.get(names.RETENTION), config.get(names.SIZE)
    return {
        "partitions": settings.partitions if found is None else found.partitions,
        "replicas": settings.replication_factor if found is None else found.replicas,
        "cleanup_policy": config.get(names.CLEANUP),
        "retention_ms": None if kept is None else int(kept),
        "max_message_bytes": None if size is None else int(size),
    }


def _object(result: TopicResult, settings: KafkaSettings) -> dict[str, Any]:
    deviations = [{"what": each.what, "cost": each.cost, "remedy": each.remedy} for each in result.deviations]
    about = {"topic": result.topic.name, "content": result.topic.content, "state": result.state}
    return about | _values(result, settings) | {"deviations": deviations}
