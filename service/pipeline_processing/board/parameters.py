"""Query parameters of the API. An error names the valid values."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from urllib.parse import unquote

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from starlette.datastructures import QueryParams

from pipeline_processing.agency_keys import AgencyKey
from pipeline_processing.board.models import Fault
from pipeline_processing.labels import Labels
from pipeline_processing.model import Moment, RunState
from pipeline_processing.runs.run_filter import RunFilter, RunPlace

P = TypeVar("P", bound="Parameters")

_LONGEST = 200
_MOST_AGENCIES = 100

WINDOWS = {
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
WIDTHS = {"1h": timedelta(minutes=1), "24h": timedelta(minutes=15), "7d": timedelta(hours=2)}
"""Windows of the throughput, with the width of their buckets."""


class InvalidParameters(Exception):
    """The request's parameters can't be used."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"{fault.parameter}: {fault.message}" for fault in faults))
        self.faults = list(faults)


class Parameters(BaseModel):
    """Base of the parameters of one endpoint. Unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    repeatable: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls: type[P], query: QueryParams, agency_key: AgencyKey = AgencyKey.INTEGER) -> P:
        """Parse a query. An empty parameter counts as absent. Raises InvalidParameters with all faults."""
        texts = [(name, value) for name, value in query.multi_items() if value != ""]
        given: dict[str, Any] = {
            name: [text for other, text in texts if other == name] if name in cls.repeatable else value
            for name, value in texts
        }
        faults = [
            Fault(parameter=name, message="is given more than once; give it once")
            for name, value in given.items()
            if isinstance(value, str) and len(query.getlist(name)) > 1
        ]
        try:
            parsed = cls.model_validate(given, context=agency_key)
        except ValidationError as error:
            faults += [cls._fault(each) for each in error.errors(include_url=False, include_context=False)]
        if faults:
            raise InvalidParameters(faults)
        return parsed

    @classmethod
    def _fault(cls, error: Any) -> Fault:
        name = str(error["loc"][0])
        if error["type"] == "extra_forbidden":
            known = ", ".join(cls.model_fields) or "none"
            return Fault(parameter=name, message=f"isn't a parameter here; the parameters are {known}")
        message = error["msg"].removeprefix("Value error, ")
        return Fault(parameter=name, message=f"{message[0].lower()}{message[1:]}")


class NoParameters(Parameters):
    """For endpoints without parameters."""


_moment = TypeAdapter[datetime](Moment)


def _cursor(value: Any) -> Any:
    try:
        moment, _, run_id = base64.urlsafe_b64decode(str(value).encode()).decode().partition(" ")
        place = RunPlace(_moment.validate_python(moment), run_id)
    except (ValueError, binascii.Error):
        place = None
    if place is None or not place.run_id or "\0" in place.run_id:
        raise ValueError("isn't a cursor; pass `next_cursor` of the page before, or leave it out for the first page")
    return place


def cursor_of(place: RunPlace) -> str:
    """Return the opaque text of a place."""
    return base64.urlsafe_b64encode(f"{place.queued_at.isoformat()} {place.run_id}".encode()).decode()


def _agency_ids(value: Any) -> Any:
    return [unquote(each.strip()) for each in value.split(",")] if isinstance(value, str) else value


def _agency_id(value: Any, integer: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    if info.context in (None, AgencyKey.INTEGER):
        return integer(value)
    try:
        return info.context.key_of(value)
    except ValueError as error:
        raise ValueError(f"must be {error}") from None


def _as_it_is(key: Any) -> Any:
    return key


Agency = Annotated[int, Field(ge=1, le=2**63 - 1), WrapValidator(_agency_id), PlainSerializer(_as_it_is)]
"""As the validation's context, an AgencyKey, says."""


def _labels(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    labels: dict[str, str] = {}
    for text in value:
        key, separator, wanted = text.partition("=")
        if not separator or labels.get(key, wanted) != wanted:
            raise ValueError("must be KEY=VALUE, such as team=billing, and each key may have one value")
        labels[key] = wanted
    return labels


Text = Annotated[str, Field(max_length=_LONGEST, pattern=r"^[^\x00]*$")]


class RunsQuery(Parameters):
    repeatable = ("label",)

    state: RunState | None = Field(None, description="Runs in this state only.")
    agency_id: Agency | None = Field(None, description="Runs of this agency only.")
    label: Annotated[
        Labels, BeforeValidator(_labels), WithJsonSchema({"type": "array", "items": {"type": "string"}})
    ] = Field(
        default_factory=dict,
        description="KEY=VALUE: runs with this label only. Repeat it for runs with several labels.",
    )
    error_kind: Text | None = Field(None, description="Runs that failed with this kind of error only.")
    q: Text | None = Field(None, description="Part of a run id, or an agency id.")
    since: Moment | None = Field(None, description="Runs accepted at this time or later.")
    until: Moment | None = Field(None, description="Runs accepted before this time.")
    limit: int = Field(50, ge=1, le=200, description="Runs of a page.")
    cursor: Annotated[Any, BeforeValidator(_cursor)] = Field(
        None, description="`next_cursor` of the page before.", json_schema_extra={"type": "string"}
    )

    def filters(self, agency_key: AgencyKey = AgencyKey.INTEGER) -> list[RunFilter]:
        """Return the filters whose runs are wanted. `q` may be part of a run id, or an agency id."""
        wanted = RunFilter(
            agency_id=self.agency_id,
            states=() if self.state is None else (self.state,),
            labels=self.label,
            error_kinds=() if self.error_kind is None else (self.error_kind,),
            text=self.q,
            since=self.since,
            until=self.until,
            after=self.cursor,
        )
        try:
            agency = agency_key.key_of(self.q)
        except ValueError:
            return [wanted]
        if self.agency_id not in (None, agency):
            return [wanted]
        return [wanted, replace(wanted, text=None, agency_id=agency)]


class AgencyPath(Parameters):
    """The parameters in a path."""

    agency_id: Agency


class DurationsQuery(Parameters):
    agency_id: Annotated[list[Agency], BeforeValidator(_agency_ids), Field(min_length=1, max_length=_MOST_AGENCIES)] = (
        Field(
            description="Agency ids, each percent-encoded, with commas between.",
            json_schema_extra={"type": "string"},
        )
    )


class FailuresQuery(Parameters):
    window: Literal["1h", "24h", "7d", "30d"] = Field("24h", description="Runs that failed within this time.")


class ThroughputQuery(Parameters):
    window: Literal["1h", "24h", "7d"] = Field("24h", description="Runs that finished within this time.")


class DeadLettersQuery(Parameters):
    limit: int = Field(20, ge=1, le=100, description="Dead letters to return.")
