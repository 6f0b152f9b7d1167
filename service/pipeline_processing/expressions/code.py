"""
Python functions made of the parts of an expression, one function per expression.

No text of a user gets into their source: templates are strings of this package; constants, helpers and the names of
columns are globals with generated names.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline_processing.expressions.integers import out_of_range
from pipeline_processing.expressions.types import RowFault

Results = tuple[list[Any], dict[int, str]]
"""A value per row, None where it can't be computed, and why not, by position."""
Run = Callable[[Sequence[Any]], Results]
"""Computes the values of all rows of a batch."""

_DEEPEST = 40
"""Levels of a function's source. Python's parser has a limit of 200 parentheses, of which a level takes up to three."""
_BY_NAME: Mapping[str, Any] = {
    "__builtins__": {},
    "RowFault": RowFault,
    **{each.__name__: each for each in (filter, float, len, out_of_range)},
}
"""What templates may name."""


class Part:
    """A part of a function's source: an expression of Python."""

    __slots__ = ()
    nullable = True


@dataclass(frozen=True, slots=True, eq=False)
class Given(Part):
    """A constant, or a helper."""

    value: Any

    @property
    def nullable(self) -> bool:  # type: ignore[override]  # for constants, it is computed
        return self.value is None


@dataclass(frozen=True, slots=True, eq=False)
class Field(Part):
    """The carried value of a column."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Local(Part):
    """A local variable, once a `Bind` has set it."""


@dataclass(frozen=True, slots=True, eq=False)
class Bind(Part):
    """Sets a local variable, and has its value."""

    local: Local
    part: Part


@dataclass(frozen=True, slots=True, eq=False)
class Code(Part):
    """
    Source in which {0}, {1}, … are parts, and {new} is a new local variable.

    It may name what is in `_BY_NAME`. A variable that one of the parts sets may be used by the others, and nowhere
    else. If the code isn't `nullable`, its value is never None.
    """

    template: str
    parts: tuple[Part, ...]
    nullable: bool = True


def function_of(part: Part, places: Mapping[str, Any] | None = None) -> Run:
    """
    Return the function that computes a part for each row of a batch. It is compiled at the first call.

    Rows are mappings or, if `places` gives the index of each column, sequences.
    """
    compiled: Run | None = None

    def run(rows: Sequence[Any]) -> Results:
        nonlocal compiled
        if compiled is None:
            compiled = _Source(part, places).compiled("run")
        return compiled(rows)

    return run


def columns_of(part: Part) -> frozenset[str]:
    """Return the columns that a part reads."""
    return frozenset(each.name for each in _within(part) if isinstance(each, Field))


def evaluated(part: Part) -> Any:
    """Compute a part of constants. Raises RowFault."""
    (value,), faults = _Source(part, None).compiled("run")([None])
    if faults:
        raise RowFault(faults[0])
    return value


_RUN = """\
def run(rows):
    found = []
    faults = {{}}
    add = found.append
    for row in rows:
        try:
            add({0})
        except RowFault as fault:
            faults[len(found)] = fault.reason
            add(None)
    return found, faults
"""
_OUTLINED = """\
def {0}({1}):
    return {2}
"""


class _Source:
    """The source of one expression's functions."""

    def __init__(self, part: Part, places: Mapping[str, Any] | None) -> None:
        self._names: dict[str, Any] = dict(_BY_NAME)
        self._places = places
        self._named: dict[int, str] = {}
        self._locals: dict[Local, str] = {}
        self._outlined: list[tuple[str, str, Part]] = []
        functions = [_RUN.format(self._text(part, 0))]
        while self._outlined:  # writing one may add more
            name, parameters, inner = self._outlined.pop()
            functions.append(_OUTLINED.format(name, parameters, self._text(inner, 0)))
        self._text_of_all = "".join(functions)

    def compiled(self, name: str) -> Any:
        exec(compile(self._text_of_all, "<expression>", "exec"), self._names)  # noqa: S102 - made of our own templates
        return self._names[name]

    def _text(self, part: Part, depth: int) -> str:
        match part:
            case Given():
                return self._global(part.value)
            case Field():
                return f"row[{self._global(self._places[part.name] if self._places else part.name)}]"
            case Local():
                return self._local(part)
            case Bind():
                return f"({self._local(part.local)} := {self._text(part.part, depth + 1)})"
            case Code():
                if depth > _DEEPEST:
                    return self._call(part)
                new = self._local(Local()) if "{new}" in part.template else ""
                texts = [self._text(each, depth + 1) for each in part.parts]
                return f"({part.template.format(*texts, new=new)})"
        raise AssertionError(f"no such part: {type(part).__name__}")

    def _global(self, value: Any) -> str:
        if value is None or value is True or value is False:
            return str(value)
        name = self._named.setdefault(id(value), f"g{len(self._named)}")
        self._names[name] = value
        return name

    def _local(self, local: Local) -> str:
        return self._locals.setdefault(local, f"v{len(self._locals)}")

    def _call(self, part: Part) -> str:
        """Put a part into a function of its own, and return a call of it."""
        name = f"f{len(self._names)}"
        self._names[name] = None  # so that the next one has another name
        arguments = ", ".join(["row", *map(self._local, _free(part))])
        self._outlined.append((name, arguments, part))
        return f"{name}({arguments})"


def _free(part: Part) -> list[Local]:
    """Return the local variables of a part that are set outside of it."""
    parts = list(_within(part))
    bound = {each.local for each in parts if isinstance(each, Bind)}
    return list(dict.fromkeys(each for each in parts if isinstance(each, Local) and each not in bound))


def _within(part: Part) -> Iterator[Part]:
    waiting = [part]
    while waiting:
        each = waiting.pop()
        yield each
        match each:
            case Code():
                waiting += each.parts
            case Bind():
                waiting.append(each.part)
