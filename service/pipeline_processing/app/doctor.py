"""Open every configured server for the checks of `doctor`. Part of the composition root."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.agency_data_job.identity import destination_entries
from pipeline_processing.aio.clock import Clock, SystemClock
from pipeline_processing.app import checks, history, kafka
from pipeline_processing.app.data_path import Context, destinations, limits
from pipeline_processing.doctor import files, postgres, s3
from pipeline_processing.doctor import kafka as cluster
from pipeline_processing.doctor.checking import UNREACHABLE, Check, Finding, Skipped, examined
from pipeline_processing.errors import PipelineError
from pipeline_processing.settings.settings import Settings
from pipeline_processing.telemetry.masking import Mask

Examining = Coroutine[Any, Any, list[Finding]]

_OTHERS = "other destinations"
_HISTORY_SECONDS = 3.0
"""How long another server's check waits for the history, so that a silent one isn't told as that server's fault."""
_LONGEST_RUN = (
    "SELECT max(coalesce(finished_at, clock_timestamp()) - started_at) FROM runs "
    "WHERE queued_at > clock_timestamp() - interval '30 days'"
)


async def examine_all(
    settings: Settings, config: AgencyJobConfig | None, *, only: Collection[str], mask: Mask
) -> list[Finding]:
    """
    Check every configured server, all at once. `only` are the groups to check, of GROUPS; empty for all.

    What is written for the checks is removed again, unless a finding says otherwise.
    """
    doctor = _Doctor(settings, config, mask)
    return await _together({name: group() for name, group in doctor.groups(only or GROUPS).items()})


GROUPS = ("kafka", "source", "history", "destinations", "others")


async def _together(examining: Mapping[str, Examining]) -> list[Finding]:
    """Run what examines servers, by their names. A server that can't even be opened hides no other."""

    async def opened(server: str, work: Examining) -> list[Finding]:
        try:
            return await work
        except PipelineError as error:
            return [Finding(server, "opens", "missing", str(error), "it can't be used", exit_code=error.exit_code)]

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(opened(server, work)) for server, work in examining.items()]
    return [finding for task in running for finding in task.result()]


def _not_set(server: str, variable: str) -> list[Finding]:
    return [Finding(server, "opens", "skipped", f"{variable} isn't set")]


class _Doctor:
    """Opens servers, each for its group of checks."""

    def __init__(self, settings: Settings, config: AgencyJobConfig | None, mask: Mask) -> None:
        self._settings = settings
        self._config = config
        self._mask = mask
        self._clock: Clock = SystemClock()

    def groups(self, names: Collection[str]) -> dict[str, Callable[[], Examining]]:
        each = (self._kafka, self._source, self._history, self._destinations, self._others)
        return {name: group for name, group in zip(GROUPS, each, strict=True) if name in names}

    async def _kafka(self) -> list[Finding]:
        settings = self._settings
        where = f"Kafka at {', '.join(settings.kafka.bootstrap_servers)}"

        async def missing(names: Sequence[str]) -> Sequence[str]:
            async with kafka.topic_admin(settings) as admin:
                return await admin.missing(names)

        async def allowed(names: Sequence[str]) -> Mapping[str, frozenset[str]]:
            async with kafka.topic_admin(settings) as admin:
                return await admin.allowed(names)

        async with kafka.topics(settings) as topics, kafka.events(settings) as events:
            subject = cluster.Cluster(
                settings=settings.kafka,
                names=[topic.name for topic in kafka.needed_topics(settings)],
                topics=topics,
                events=events,
                missing=missing,
                judged=partial(kafka.check_topics, settings),
                allowed=allowed,
            )
            findings = await examined(where, cluster.CHECKS, subject)
        if findings[0].exit_code == UNREACHABLE and "bootstrap_servers" not in settings.kafka.model_fields_set:
            why = "PIPELINE_KAFKA__BOOTSTRAP_SERVERS isn't set, and nothing answers there; `run` needs no Kafka"
            return [Finding(where, findings[0].check, "skipped", why)]
        return findings

    async def _source(self) -> list[Finding]:
        settings = self._settings
        if settings.source.dsn is None:
            return _not_set("source", "PIPELINE_SOURCE__DSN")
        from pipeline_processing.sources.postgres.copy_reader import chosen_reader
        from pipeline_processing.sources.postgres.source import SESSION_SETTINGS, source_database

        reader = chosen_reader(settings.source.reader)
        async with source_database(settings.source.dsn, connections=2) as client:
            subject = postgres.SourceDatabase(
                client=client,
                clock=self._clock,
                session_settings=SESSION_SETTINGS,
                reader=reader.description,
                copies=reader.decoder is not None,
            )
            return await examined(f"source {client.where}", postgres.SOURCE_CHECKS, subject)

    async def _history(self) -> list[Finding]:
        if self._settings.history_dsn is None:
            return _not_set("history", "PIPELINE_HISTORY__DSN")
        from pipeline_processing.history.postgres.migrate import check_encoding, pending

        async with history.database(self._settings, connections=2) as client:
            subject = postgres.HistoryDatabase(
                client=client,
                clock=self._clock,
                schema=self._settings.history.schema_name,
                encoding=check_encoding,
                pending=pending,
            )
            return await examined(f"history {client.where}", postgres.HISTORY_CHECKS, subject)

    async def _destinations(self) -> list[Finding]:
        """Check all destinations at once."""
        settings, config = self._settings, self._config
        if settings.destination is None and (config is None or config.destinations is None):
            return _not_set("destinations", "PIPELINE_DESTINATION")
        by_kind: dict[str, Callable[[Any], Examining]] = {"s3": self._bucket, "file": self._folder}
        examining: dict[str, Examining] = {}
        for entry in destination_entries(settings, config):
            if entry.kind in by_kind:
                examining[entry.options.place] = by_kind[entry.kind](entry.options)
            elif _OTHERS not in examining:
                examining[_OTHERS] = self._other_destinations()
        return await _together(examining)

    async def _bucket(self, options: Any) -> list[Finding]:
        from pipeline_processing.destinations.s3.client import s3_client
        from pipeline_processing.destinations.s3.strict import StrictS3Client

        context = Context(self._settings, self._mask, clock=self._clock, limits=limits(self._settings, runs=1))
        async with s3_client(self._settings.s3, options, learned=context.learn, kind=StrictS3Client) as client:
            bucket = s3.Bucket(
                client, options, verify=partial(self._verify, options.place), longest_run=self._longest_run
            )
            async with s3.doctors_place(bucket):
                return await examined(options.place.rstrip("/"), s3.CHECKS, bucket)

    async def _folder(self, options: Any) -> list[Finding]:
        from pipeline_processing.destinations.files.destination import FileDestination

        folder = files.Folder(
            FileDestination(path=options.path), options.path, verify=partial(self._verify, options.place)
        )
        try:
            return await examined(options.place, files.CHECKS, folder)
        finally:
            await folder.remove_all()

    async def _other_destinations(self) -> list[Finding]:
        findings = []
        names = [] if self._config is None else [dataset.name for dataset in self._config.datasets]
        async with destinations(self._settings, self._config, runs=1, mask=self._mask) as where:
            for destination in where.all:
                if not destination.url.startswith(("s3:", "file:")):
                    check = partial(checks.check_destination, destination, names)
                    cost = "no run can be published there"
                    findings += await examined(destination.url, [_single("accepts the datasets", check, cost)], None)
        return findings

    async def _others(self) -> list[Finding]:
        """Check what can only be looked up: the queries and steps of the job config, APIs, webhooks."""
        settings, config = self._settings, self._config
        results = [result async for result in checks.check_webhooks(settings)]
        if config is not None:
            results += [result async for result in checks.check_inputs(settings, config, columns={}, mask=self._mask)]
        return [_as_finding(result) for result in results]

    async def _verify(self, place: str) -> None:
        installation = await self._installation()
        async with destinations(self._settings, self._config, runs=1, mask=self._mask) as where:
            for destination in where.all:
                if destination.url == place.rstrip("/"):
                    await destination.verify_installation(installation)

    async def _installation(self) -> UUID:
        if self._settings.history_dsn is None:
            raise Skipped("no history is configured")
        try:
            async with asyncio.timeout(_HISTORY_SECONDS), history.run_store(self._settings, connections=1) as runs:
                return await runs.history.installation_id()
        except (PipelineError, TimeoutError) as error:
            why = error.kind if isinstance(error, PipelineError) else "no answer"
            raise Skipped(f"the history doesn't tell its id ({why})") from error

    async def _longest_run(self) -> timedelta | None:
        if self._settings.history_dsn is None:
            return None
        try:
            async with (
                asyncio.timeout(_HISTORY_SECONDS),
                history.database(self._settings, connections=1) as client,
                client.connection() as connection,
            ):
                longest: timedelta | None = await connection.fetchval(_LONGEST_RUN)
        except (PipelineError, TimeoutError):
            return None  # the history's own checks tell why
        return longest


def _single(name: str, run: Callable[[], Awaitable[str]], cost: str) -> Check[None]:
    return Check(name, lambda _: run(), cost)


_LOOKED_UP = {
    "temp files": ("this machine", "`dedupe` and `expect.unique` fail their runs"),
    "source": ("job config", "runs of this dataset fail"),
    "api": ("job config", "runs that ask it fail"),
    "webhook": ("webhooks", "its events wait, and are given up after 3 days"),
}
"""What `checks` looks up → the server that it is shown as, and the cost."""


def _as_finding(result: checks.CheckResult) -> Finding:
    server, cost = _LOOKED_UP[result.name]
    if result.error is None:
        return Finding(server, result.name, "ok", result.detail)
    return Finding(server, result.name, "missing", str(result.error), cost, exit_code=result.error.exit_code)
