"""Options that several commands share, and building requests from options or from the lines of a file."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline_processing.cli import completion
from pipeline_processing.cli.common import AS_JSON
from pipeline_processing.terminal.tables import Output

if TYPE_CHECKING:
    from pipeline_processing.agency_data_job.config import AgencyJobConfig
    from pipeline_processing.agency_keys import AgencyId
    from pipeline_processing.errors import RequestError
    from pipeline_processing.model import JobRequest

MOMENT = "an age (7d, 12h, 15m, 90s), a day (2026-01-18), or an ISO time (2026-01-18T10:00Z; UTC if it names no zone)."
"""The values that `moment` parses, for help texts."""


def moment(text: str) -> datetime:
    """
    Parse a time that has passed: `2h` is two hours ago; a time without a zone is in UTC.

    Raises BadParameter for anything else.
    """
    return _time(text, ahead=False)


def requested(text: str, *, ahead: bool = False) -> datetime | str:
    """Parse a time of a request like `moment`. Leaves what isn't one to `requests_of`, which reports all faults."""
    try:
        return _time(text, ahead=ahead)
    except typer.BadParameter:
        return text


def coming(text: str) -> datetime | str:
    """Parse a time of a request that is to come: like `requested`, but `2h` is in two hours."""
    return requested(text, ahead=True)


def _time(text: str, *, ahead: bool) -> datetime:
    from pipeline_processing.aio.clock import SystemClock
    from pipeline_processing.options.durations import parse_duration

    try:
        span: timedelta = parse_duration(text)
        now = SystemClock().now()
        return now + span if ahead else now - span
    except (ValueError, OverflowError):
        pass  # not a duration, so try it as a time
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is neither a time nor a duration: write 2026-01-18, 2026-01-18T10:00Z, 90s, 15m, 2h or 7d."
        ) from None


def _chosen(context: typer.Context, form: Output) -> Output:
    return Output.JSON if context.meta.get(AS_JSON) else form


OutputOption = Annotated[
    Output,
    typer.Option(
        "--output",
        "-o",
        metavar="FORM",
        callback=_chosen,
        help="How to print: table, with the columns that fit the terminal; wide, with all columns; or json.",
    ),
]
"""Commands that have it get `--json`, too."""

JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="The job: agency_data_job.", autocompletion=completion.jobs)
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="PATH", help="The job config, instead of PIPELINE_JOB_CONFIG_FILE."),
]
RunIdOption = Annotated[str | None, typer.Option("--run-id", metavar="ID", help="The run's id; generated if left out.")]
DatasetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--dataset", metavar="NAME", help="Only this dataset; may be repeated.", autocompletion=completion.datasets
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="F",
        help="ndjson, csv or parquet, instead of the config's.",
        autocompletion=completion.formats,
    ),
]
SinceOption = Annotated[
    datetime | None,
    typer.Option("--since", metavar="T", parser=requested, help=f"A time for the query: {MOMENT}"),
]
UntilOption = Annotated[
    datetime | None, typer.Option("--until", metavar="T", parser=requested, help="A time for the query; like --since.")
]
ParamOption = Annotated[
    list[str] | None,
    typer.Option("--param", metavar="KEY=VALUE", help="A value for the query; may be repeated."),
]

LabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY=VALUE", help="A label that the run carries; may be repeated."),
]


def text(given: str) -> str:
    """Return the text. Raises BadParameter if it isn't UTF-8, which a shell may pass on."""
    try:
        given.encode()
    except UnicodeEncodeError:
        raise typer.BadParameter(f"{given!r} isn't text in UTF-8") from None
    return given


def pairs_of(pairs: Iterable[str], *, option: str) -> dict[str, str]:
    """Parse the KEY=VALUE pairs of an option. Raises BadParameter if one isn't valid, or a key repeats."""
    values = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise typer.BadParameter(f"{pair!r} isn't KEY=VALUE", param_hint=option)
        if key in values:
            raise typer.BadParameter(f"{key!r} is given twice", param_hint=option)
        values[key] = value
    return values


def content_of(file: Path | str, *, option: str) -> bytes:
    """Read the file that an option names; `-` is stdin. Raises BadParameter."""
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else Path(file).read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{file} can't be read: {error.strerror}", param_hint=option) from None


def new_run_id() -> str:
    """Generate an id for a run without one."""
    return f"run-{secrets.token_hex(8)}"


def requests_of(agency_ids: Sequence[AgencyId], fields: Mapping[str, Any]) -> list[JobRequest]:
    """
    Build a request per agency from the fields that aren't None. Times may be datetimes.

    Raises UnknownJob, or InvalidRequest with the faults of all requests.
    """
    from pydantic import ValidationError

    from pipeline_processing.errors import InvalidRequest
    from pipeline_processing.model import JobRequest
    from pipeline_processing.options.validation import faults_of

    check_job(fields["job"])
    given = {name: value for name, value in fields.items() if value is not None}
    requests, faults = [], dict[str, None]()
    for agency_id in agency_ids:
        try:
            document = json.dumps(given | {"agency_id": agency_id}, default=datetime.isoformat)
            requests.append(JobRequest.model_validate_json(document))
        except ValidationError as error:
            # Report faults of other fields once: they are the same for every agency.
            which = "agency_id" if len(agency_ids) == 1 else f"agency_id {agency_id}"
            faults |= dict.fromkeys(
                which + fault.removeprefix("agency_id") if fault.startswith("agency_id:") else fault
                for fault in faults_of(error)
            )
    if faults:
        raise InvalidRequest("The request isn't valid:\n" + "\n".join(f"  {fault}" for fault in faults))
    return requests


def requests_in(content: bytes, *, name: str) -> list[JobRequest]:
    """
    Parse the JSON requests of a file, one per line. Skips blank lines.

    Raises InvalidRequest with the faults of all lines, so that a file with any fault is sent in no part.
    """
    from pipeline_processing.errors import InvalidRequest, RequestError
    from pipeline_processing.requests.job_messages import parse_request

    requests: list[JobRequest] = []
    faults: list[str] = []
    first: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            request = parse_request(line)
            check_job(request.job)
            check_size(request)
        except RequestError as error:
            faults.append(f"line {number}: {error}")
            continue
        requests.append(request)
        if request.run_id is None:
            continue
        other, digest = first.setdefault(request.run_id, (number, request.digest()))
        if digest != request.digest():
            faults.append(
                f"line {number}: run_id {request.run_id!r} is also used in line {other}, for a different request. "
                "A run id belongs to one request for good."
            )
    if faults:
        raise InvalidRequest(
            f"{name} isn't valid, and none of its requests was sent:\n" + "\n".join(f"  {fault}" for fault in faults)
        )
    return requests


def check_job(job: str) -> None:
    """Raises UnknownJob if this isn't the name of the job."""
    from pipeline_processing.errors import UnknownJob
    from pipeline_processing.model import JOB

    if job != JOB:
        raise UnknownJob(job, job=JOB)


def check_for_config(requests: Iterable[JobRequest], config: AgencyJobConfig | None) -> None:
    """
    Raises a RequestError, with each fault once, if workers with this job config would refuse a request.

    Without a job config, only keys of agencies are checked, which are integers then.
    """
    from pipeline_processing.agency_keys import AgencyKey
    from pipeline_processing.errors import InvalidRequest, RequestError

    faults: dict[str, tuple[AgencyId, RequestError]] = {}
    for request in requests:
        try:
            if config is not None:
                config.for_request(request)
            elif fault := AgencyKey.INTEGER.fault(request.agency_id):
                raise InvalidRequest(
                    f"The request isn't valid: agency_id: {fault}. For keys that aren't integers, name the job config, "
                    "in PIPELINE_JOB_CONFIG_FILE."
                )
        except RequestError as error:
            faults.setdefault(str(error), (request.agency_id, error))
    if len(faults) == 1:
        [(_, only)] = faults.values()
        raise only
    if faults:
        lines = "\n".join(f"  agency_id {agency_id}: {fault}" for agency_id, fault in faults.values())
        raise InvalidRequest(f"Some requests aren't valid, and none was sent:\n{lines}")


def check_size(request: JobRequest) -> None:
    """Raises RequestTooLarge if the request would become a dead letter for its size."""
    from pipeline_processing.errors import RequestTooLarge
    from pipeline_processing.requests.job_messages import MAX_REQUEST_BYTES

    size = len(request.model_dump_json(exclude_defaults=True).encode())
    if size > MAX_REQUEST_BYTES:
        raise RequestTooLarge(size, limit=MAX_REQUEST_BYTES)
