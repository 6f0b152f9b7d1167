"""Reads the triggers file, and finds all of its faults at once, each with its place."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.errors import InvalidTriggers
from pipeline_processing.options.validation import shown
from pipeline_processing.options.yaml_documents import InvalidYaml, YamlDocument, parse_yaml
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
_MOST_FAULTS = 100


class _Line(NamedTuple):
    line: int
    column: int
    text: str


def load_triggers(path: Path, *, job_config: AgencyJobConfig | None, kafka: KafkaSettings) -> Triggers:
    """
    Read a triggers file. Every trigger of the result has a name, and none has `since: auto`.

    Raises InvalidTriggers with all faults if the file can't be read, isn't YAML, breaks the schema, watches a topic of
    this service (`kafka`), or doesn't fit the job config.
    """
    try:
        document = parse_yaml(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidTriggers(
            f"Can't read the triggers file {path}: {error.strerror}. Name an existing file, or correct "
            "PIPELINE_TRIGGERS_FILE."
        ) from None
    except InvalidYaml as error:
        raise InvalidTriggers(f"The triggers file {path} isn't YAML: {error}") from None
    except ValueError as error:  # not UTF-8
        raise InvalidTriggers(f"The triggers file {path} isn't UTF-8: {error}") from None
    if not isinstance(document.value, dict):
        raise InvalidTriggers(f"The triggers file {path} must be a mapping with `triggers`, a list.")
    lines, listed = _faults_of_schema(document), _listed(document)
    sound = [(at, trigger) for at, trigger, complete in listed if complete]
    faults = [*faults_between(sound)]
    for at, trigger, _ in listed:
        of_trigger = faults_of_trigger(trigger, job_config=job_config, kafka=kafka)
        faults += [replace(fault, location=("triggers", at, *fault.location)) for fault in of_trigger]
    lines += [_line(document, fault.location, fault.message, at_key=fault.at_key) for fault in faults]
    if lines:
        raise InvalidTriggers(f"The triggers file {path} isn't valid:\n" + "\n".join(_shown(path, lines)))
    return Triggers(triggers=tuple(_resolved(trigger, job_config) for _, trigger in sound))


def _faults_of_schema(document: YamlDocument) -> list[_Line]:
    try:
        Triggers.model_validate(document.value)
    except ValidationError as error:
        return list(_lines(document, error))
    return []


def _listed(document: YamlDocument) -> list[tuple[int, Trigger, bool]]:
    """
    Return each trigger with its index, and whether it is complete. Keys with faults are left out of the others, so that
    their other faults are found, too.
    """
    values = document.value.get("triggers")
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


def _lines(document: YamlDocument, error: ValidationError) -> Iterator[_Line]:
    faults = error.errors(include_url=False, include_input=False)
    # Pydantic also reports a list with invalid items as too short, which is redundant.
    around = {fault["loc"][:depth] for fault in faults for depth in range(len(fault["loc"]))}
    for fault in faults:
        location, kind = fault["loc"], fault["type"]
        if kind == "too_short" and location in around:
            continue
        if kind == "extra_forbidden":
            yield _line(document, location, _unknown_key(location), at_key=True)
        elif kind == "missing":
            yield _line(document, location, f"needs `{location[-1]}`{_instead(location)}")
        elif kind in ("model_type", "model_attributes_type", "dict_type"):
            yield _line(document, location, "must be a mapping")
        elif kind == "tuple_type":
            yield _line(document, location, "must be a list")
        elif kind == "too_short":
            yield _line(document, location, "must have at least one")
        else:
            at_key = location[-1:] == ("[key]",)
            yield _line(document, location, fault["msg"].removeprefix("Value error, "), at_key=at_key)


def _unknown_key(location: Sequence[str | int]) -> str:
    key, other = location[-1], ScheduleTrigger if EVENT in location else EventTrigger
    of_a_trigger = len(location) > 1 and location[-2] in (EVENT, SCHEDULE)
    if of_a_trigger and key == "schedule":
        return "a trigger has either `topic` or `schedule`: make two triggers of this one"
    if of_a_trigger and key in other.model_fields:
        return f"is for triggers with a `{'schedule' if other is ScheduleTrigger else 'topic'}` only"
    return "unknown key"


def _instead(location: Sequence[str | int]) -> str:
    return " or `schedule`" if location[-1] == "topic" and location[-2] == EVENT else ""


def _line(document: YamlDocument, location: Sequence[str | int], message: str, *, at_key: bool = False) -> _Line:
    found, place = document.locate(location, at_key=at_key)
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{shown(part)}" for part in found).removeprefix(".")
    return _Line(*place, f"{path}: {message}" if path else message)


def _shown(path: Path, lines: list[_Line]) -> list[str]:
    lines = sorted(dict.fromkeys(lines))
    more = [f"  and {len(lines) - _MOST_FAULTS:,} more"] if len(lines) > _MOST_FAULTS else []
    return [*(f"  {path.name}:{line}:{column}: {text}" for line, column, text in lines[:_MOST_FAULTS]), *more]


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
