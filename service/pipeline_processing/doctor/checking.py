"""What a check is, and how the checks of one server are run."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from pipeline_processing.errors import PipelineError

S_contra = TypeVar("S_contra", contravariant=True)
T = TypeVar("T")

State = Literal["ok", "advice", "missing", "skipped"]

Verify = Callable[[], Awaitable[None]]
"""Raises ForeignPrefix if a destination belongs to another installation, or Skipped if that can't be known."""

UNREACHABLE = 69
UNFIT = 78
_SECONDS = 8.0
"""The longest time for one check. Healthy servers answer all checks in less."""


class Shortfall(Exception):
    """A server doesn't do what the service relies on. The text says what it does instead."""

    def __init__(self, what: str, *, remedy: str | None = None) -> None:
        super().__init__(what)
        self.remedy = remedy
        """Replaces the check's."""


class Advice(Shortfall):
    """A server could be set up better, but keeps every promise."""


class Skipped(Exception):
    """A check isn't possible, or doesn't apply. The text says why."""


@dataclass(frozen=True, slots=True)
class Check(Generic[S_contra]):
    """One property of a server. `run` returns what it saw, or raises Shortfall, Skipped or a PipelineError."""

    name: str
    run: Callable[[S_contra], Awaitable[str]]
    cost: str
    """What the service can't do, or can't promise, without it."""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check. `cost` and `remedy` are empty if nothing is missing."""

    server: str
    check: str
    state: State
    detail: str
    cost: str = ""
    remedy: str = ""
    exit_code: int = 0


async def examined(server: str, checks: Sequence[Check[T]], subject: T) -> list[Finding]:
    """Run the checks of one server, in order. If it can't be reached, or denies access altogether, skip the rest."""
    findings: list[Finding] = []
    for check in checks:
        finding = await _found(server, check, subject)
        findings.append(finding)
        if finding.exit_code == UNREACHABLE or (finding.exit_code and len(findings) == 1):
            why = "not tried, as the server can't be used"
            findings += [Finding(server, each.name, "skipped", why) for each in checks[len(findings) :]]
            break
    return findings


async def _found(server: str, check: Check[T], subject: T) -> Finding:
    def finding(state: State, detail: str, *, remedy: str | None = None, exit_code: int = 0) -> Finding:
        return Finding(server, check.name, state, detail, check.cost, remedy or check.remedy, exit_code)

    try:
        async with asyncio.timeout(_SECONDS):
            return Finding(server, check.name, "ok", await check.run(subject))
    except Skipped as skipped:
        return Finding(server, check.name, "skipped", str(skipped))
    except Advice as advice:
        return finding("advice", str(advice), remedy=advice.remedy)
    except Shortfall as shortfall:
        return finding("missing", str(shortfall), remedy=shortfall.remedy, exit_code=UNFIT)
    except TimeoutError:
        return finding("missing", f"no answer within {_SECONDS:g} s", exit_code=UNREACHABLE)
    except PipelineError as error:
        # Its message has a remedy of its own.
        return Finding(server, check.name, "missing", str(error), check.cost, exit_code=error.exit_code)
