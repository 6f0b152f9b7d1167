"""`topics`: checks the service's topics, and with --execute creates those that are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline_processing.cli.context import current_settings, log_to_stderr, print_errors
from pipeline_processing.cli.options import OutputOption
from pipeline_processing.terminal import render, tables
from pipeline_processing.terminal.tables import Output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline_processing.errors import PipelineError
    from pipeline_processing.messaging.service_topics import Deviation, TopicResult
    from pipeline_processing.settings.settings import KafkaSettings


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
    items = [(result, _values(result, settings.kafka)) for result in results]
    tables.print_items(items, _TABLE, output=output, as_object=_object)
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


_Item = tuple["TopicResult", dict[str, Any]]
"""A topic, and its `_values`."""


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


def _retention(item: _Item) -> str:
    from datetime import timedelta

    from pipeline_processing.options.durations import duration_in_words

    kept = item[1]["retention_ms"]
    if item[1]["cleanup_policy"] == "compact" or kept is None:
        return tables.NOTHING
    return "for ever" if kept < 0 else duration_in_words(timedelta(milliseconds=kept))


_TABLE: tables.Table[_Item] = {
    tables.Column("TOPIC"): lambda item: item[0].topic.name,
    tables.Column("CONTENT", spare=5): lambda item: item[0].topic.content,
    tables.Column("STATE"): lambda item: item[0].state,
    tables.Column("PARTITIONS", right=True, spare=1): lambda item: render.number(item[1]["partitions"]),
    tables.Column("REPLICAS", right=True, spare=2): lambda item: render.number(item[1]["replicas"]),
    tables.Column("CLEAN-UP", spare=4): lambda item: item[1]["cleanup_policy"] or tables.NOTHING,
    tables.Column("RETENTION", spare=3): _retention,
    tables.Column("MESSAGES UP TO", right=True, spare=6): lambda item: render.number(item[1]["max_message_bytes"]),
}


def _object(item: _Item) -> dict[str, Any]:
    result, values = item
    deviations = [{"what": each.what, "cost": each.cost, "remedy": each.remedy} for each in result.deviations]
    about = {"topic": result.topic.name, "content": result.topic.content, "state": result.state}
    return about | values | {"deviations": deviations}
