"""Checks that a request's datasets use all of its values, because unused ones would be silently ignored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline_processing.agency_data_job.params import DeclaredParams
from pipeline_processing.errors import InvalidRequest
from pipeline_processing.model import JobRequest
from pipeline_processing.options.validation import shown

_MOST_FAULTS = 20
"""Per message: messages travel in events and headers, and a request may have thousands of params."""


@dataclass(frozen=True, slots=True)
class Uses:
    """The names of the built-in values and params that datasets use."""

    names: frozenset[str]
    anything: bool = False
    """Whether they may use other names too: plugins get every value."""

    def __contains__(self, name: object) -> bool:
        return self.anything or name in self.names

    def __or__(self, other: "Uses") -> "Uses":
        return Uses(self.names | other.names, self.anything or other.anything)


def check_values(request: JobRequest, *, uses: Uses, datasets: Sequence[str], declared: DeclaredParams | None) -> None:
    """
    Check the values of a request for these datasets.

    Raises InvalidRequest for a value that no dataset uses and, if params are declared, for params that are undeclared,
    of the wrong type, or missing.
    """
    unused = f"is not used by {', '.join(datasets)}"
    faults = [
        f"{name}: {unused}" for name in ("since", "until") if getattr(request, name) is not None and name not in uses
    ]
    if declared is None:
        faults += [f"params.{shown(name)}: {unused}" for name in request.params if name not in uses]
    else:
        faults += _faults_of_declared(request, uses, declared, unused)
    if faults:
        more = [f"and {len(faults) - _MOST_FAULTS:,} more"] if len(faults) > _MOST_FAULTS else []
        said = "; ".join([*faults[:_MOST_FAULTS], *more])
        raise InvalidRequest(f"The request isn't valid: {said}. {_remedy(uses, declared)}")


def _faults_of_declared(request: JobRequest, uses: Uses, declared: DeclaredParams, unused: str) -> Iterator[str]:
    for name, sent in request.params.items():
        if name not in declared:
            yield f"params.{shown(name)}: isn't declared"
            continue
        try:
            declared[name].value_of(sent)
        except ValueError as error:
            yield f"params.{shown(name)}: {error}"
        else:
            if name not in uses:
                yield f"params.{shown(name)}: {unused}"
    for name, param in declared.items():
        # If no requested dataset uses it, sending it would be a fault.
        if param.required and name in uses and request.params.get(name) is None:
            yield f"params.{shown(name)}: is required"


def _remedy(uses: Uses, declared: DeclaredParams | None) -> str:
    if declared is not None:
        return f"The job config declares {described(declared)}."
    names = ", ".join(sorted(uses.names)) or "nothing"
    return f"These datasets use: {names}. Correct the request, or name a dataset that uses it."


def described(declared: DeclaredParams) -> str:
    """List the declared params with their types, for messages."""
    return ", ".join(f"{name} ({param})" for name, param in declared.items()) or "no params"
