"""Types of values in the triggers file. The message for an invalid one says what it must be."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, WithJsonSchema

from pipeline_processing.agency_keys import AgencyId
from pipeline_processing.model import ParamValue
from pipeline_processing.options.durations import Duration
from pipeline_processing.options.json_schema import SCALAR

_LONGEST_NAME = 64
"""Characters. A run id holds the name, an agency id and a window, and has 128 at most."""
_NAME = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{_LONGEST_NAME - 1}}}")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_EVENT_PATH = re.compile(r"key|[a-z0-9]{1,64}|data(\.[^.\s]+)*")
_BODY_PATH = re.compile(r"[^.\s]+(\.[^.\s]+)*")
_LONGEST_PERIOD = timedelta(days=30)


def check_name(value: str) -> str:
    """Raises ValueError if it can't name a trigger."""
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"must be at most {_LONGEST_NAME} lower-case letters, digits, `.`, `_` and `-`, and start with a letter "
            "or digit"
        )
    return value


def _topic(value: str) -> str:
    if not _TOPIC.fullmatch(value):
        raise ValueError("isn't a topic: a topic's name has at most 249 letters, digits, `.`, `_` and `-`")
    return value


def _event_path(value: str) -> str:
    if not _EVENT_PATH.fullmatch(value):
        raise ValueError(
            f"{value!r} isn't a path into an event: write data.… for a value of its JSON body, such as "
            "data.agency_id, or else key, subject or another CloudEvents attribute"
        )
    return value


def _body_path(value: str) -> str:
    if not _BODY_PATH.fullmatch(value):
        raise ValueError(
            f"{value!r} isn't a path: write keys with dots between them, such as status or address.country"
        )
    return value


def _scalar(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError("must be text, a number, true, false or null; write a date or time in quotes")


def _bounded(value: timedelta) -> timedelta:
    if not timedelta(0) < value <= _LONGEST_PERIOD:
        raise ValueError("must be more than 0s and at most 30d")
    return value


def _cron(value: str) -> str:
    if len(value.split()) != 5:
        raise ValueError(f"{value!r} isn't a cron expression: it has five fields, such as 0 3 * * *")
    try:
        next(CronSim(value, datetime(2000, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        raise ValueError(f"{value!r} isn't a cron expression: {str(error).lower()}") from None
    except StopIteration:
        raise ValueError(f"{value!r} never comes") from None
    return value


def _time_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):  # an unknown name, a path, a folder of zones
        raise ValueError(
            f"{value!r} isn't a time zone: write a name of the tz database, such as Europe/Zurich"
        ) from None
    return value


def _differ(agencies: tuple[AgencyId, ...]) -> tuple[AgencyId, ...]:
    if twice := [each for each, times in Counter(agencies).items() if times > 1]:
        raise ValueError(f"agency {twice[0]} is listed twice")
    return agencies


def _texts(value: Any) -> Any:
    if not isinstance(value, str | list | tuple):
        raise ValueError("must be text, or a list of texts")
    return (value,) if isinstance(value, str) else value


def _values(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _written(pattern: re.Pattern[str]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^({pattern.pattern})$"})


Name = Annotated[str, AfterValidator(check_name), _written(_NAME)]
Topic = Annotated[str, AfterValidator(_topic), _written(_TOPIC)]
EventPath = Annotated[str, AfterValidator(_event_path), _written(_EVENT_PATH)]
"""`key`, a CloudEvents attribute such as `subject`, or `data` and keys or list indexes with dots between."""
BodyPath = Annotated[str, AfterValidator(_body_path)]
Cron = Annotated[str, AfterValidator(_cron)]
TimeZone = Annotated[str, AfterValidator(_time_zone)]
AgencyList = Annotated[
    tuple[Annotated[AgencyId, Field(strict=True)], ...], Field(min_length=1), AfterValidator(_differ)
]
Scalar = Annotated[ParamValue, BeforeValidator(_scalar)]
Period = Annotated[Duration, AfterValidator(_bounded)]

_TEXT: Mapping[str, Any] = {"type": "string", "minLength": 1}
_ONE_OR_MORE_TEXTS: Mapping[str, Any] = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}
_ONE_OR_MORE_VALUES: Mapping[str, Any] = {
    "anyOf": [*SCALAR["anyOf"], {"type": "array", "items": SCALAR, "minItems": 1}]
}

EventTypes = Annotated[
    tuple[Annotated[str, StringConstraints(min_length=1)], ...],
    Field(min_length=1),
    BeforeValidator(_texts),
    WithJsonSchema(dict(_ONE_OR_MORE_TEXTS)),
]
Values = Annotated[
    tuple[Scalar, ...], Field(min_length=1), BeforeValidator(_values), WithJsonSchema(dict(_ONE_OR_MORE_VALUES))
]
