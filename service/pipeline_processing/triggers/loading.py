"""Reads the triggers file, and finds all of its faults at once, each with its place."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.errors import InvalidTriggers
from pipeline_processing.options.config_file import ConfigFile, Fault, UnusableFile
from pipeline_processing.settings.settings import KafkaSettings
from pipeline_processing.triggers.checking import faults_between, faults_of_trigger
from pipeline_processing.triggers.config import (
    EVENT,
    SCHEDULE,
    AnyTrigger,
    EventTrigger,
    ScheduleTrigger,
    Trigger,
    Triggers,
    default_name,
)

_TRIGGER: TypeAdapter[Trigger] = TypeAdapter(AnyTrigger)


def load_triggers(path: Path, *, job_config: AgencyJobConfig | None, kafka: KafkaSettings) -> Triggers:
    """
    Read a triggers file. Every trigger of the result has a name, and none has `since: auto`.

    Raises InvalidTriggers with all faults if the file can't be read, isn't YAML, breaks the schema, watches a topic of
    this service (`kafka`), or doesn't fit the job config.
    """
    try:
        file = ConfigFile.read(
            path, what="triggers file", remedy="Name an existing file, or correct PIPELINE_TRIGGERS_FILE."
        )
    except UnusableFile as error:
        raise InvalidTriggers(str(error)) from None
    if not isinstance(file.document.value, dict):
        raise InvalidTriggers(f"The triggers file {path} must be a mapping with `triggers`, a list.")
    listed = _listed(file.document.value)
    sound = [(at, trigger) for at, trigger, complete in listed if complete]
    faults = [*_faults_of_schema(file), *faults_between(sound)]
    for at, trigger, _ in listed:
        of_trigger = faults_of_trigger(trigger, job_config=job_config, kafka=kafka)
        faults += [replace(fault, location=("triggers", at, *fault.location)) for fault in of_trigger]
    if faults:
        raise InvalidTriggers(f"The triggers file {path} isn't valid:\n" + "\n".join(file.lines(faults)))
    return Triggers(triggers=tuple(_resolved(trigger, job_config) for _, trigger in sound))


def _faults_of_schema(file: ConfigFile) -> list[Fault]:
    try:
        Triggers.model_validate(file.document.value)
    except ValidationError as error:
        return file.faults(error, Triggers, told=_told)
    return []


def _listed(document: Mapping[str, Any]) -> list[tuple[int, Trigger, bool]]:
    """
    Return each trigger with its index, and whether it is complete. Keys with faults are left out of the others, so that
    their other faults are found, too.
    """
    values = document.get("triggers")
    listed: list[tuple[int, Trigger, bool]] = []
    for at, value in enumerate(values if isinstance(values, list) else ()):
        try:
            listed.append((at, _named(_TRIGGER.validate_python(value)), True))
        except ValidationError as error:
            faulty = {fault["loc"][1] for fault in error.errors() if len(fault["loc"]) > 1}
            stand_in = {"agency_id": "key"} if "agency_id" in faulty else {}
            try:
                rest = {key: each for key, each in value.items() if key not in faulty} | stand_in
                listed.append((at, _named(_TRIGGER.validate_python(rest)), False))
            except (ValidationError, AttributeError):  # no topic or schedule, or not a mapping
                continue
    return listed


def _told(fault: ErrorDetails) -> str | None:
    """Say what differs between triggers by events and by the clock."""
    kind, location = fault["type"], fault["loc"]
    if kind == "missing" and location[-2:] == (EVENT, "topic"):
        return "needs `topic` or `schedule`"
    if kind != "extra_forbidden" or len(location) < 2 or location[-2] not in (EVENT, SCHEDULE):
        return None
    other = ScheduleTrigger if location[-2] == EVENT else EventTrigger
    if location[-1] == "schedule":
        return "a trigger has either `topic` or `schedule`: make two triggers of this one"
    if location[-1] in other.model_fields:
        return f"is for triggers with a `{'schedule' if other is ScheduleTrigger else 'topic'}` only"
    return None


def _named(trigger: Trigger) -> Trigger:
    return trigger if trigger.name else trigger.model_copy(update={"name": default_name(trigger)})


def _resolved(trigger: Trigger, job_config: AgencyJobConfig | None) -> Trigger:
    """Decide `since: auto`."""
    if not isinstance(trigger, EventTrigger) or trigger.since != "auto":
        return trigger
    datasets = [
        each
        for each in (job_config.datasets if job_config is not None else ())
        if trigger.datasets is None or each.name in trigger.datasets
    ]
    by_event = any("since" in each.uses for each in datasets) and all(each.since is None for each in datasets)
    return trigger.model_copy(update={"since": "event_time" if by_event else None})
