"""What an expression is made of. `at` is where in the text a node stands, from 0."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from decimal import Decimal

from pipeline_processing.expressions.types import Target


@dataclass(frozen=True, slots=True)
class Node:
    at: int


@dataclass(frozen=True, slots=True)
class Name(Node):
    """A column."""

    name: str
    quoted: bool


@dataclass(frozen=True, slots=True)
class Literal(Node):
    """Text has no type of its own: what it is used for decides. None is NULL."""

    value: str | int | Decimal | bool | None


@dataclass(frozen=True, slots=True)
class Signed(Node):
    """`operator` is + or -."""

    operator: str
    operand: Node


@dataclass(frozen=True, slots=True)
class Binary(Node):
    """Arithmetic, a comparison, || or an arrow."""

    operator: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Joined(Node):
    """AND or OR of two or more."""

    operator: str
    terms: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Negated(Node):
    """NOT."""

    operand: Node


@dataclass(frozen=True, slots=True)
class IsNull(Node):
    operand: Node
    negated: bool


@dataclass(frozen=True, slots=True)
class IsTruth(Node):
    """IS TRUE, IS FALSE, and with `truth` None IS UNKNOWN."""

    operand: Node
    truth: bool | None
    negated: bool


@dataclass(frozen=True, slots=True)
class IsDistinct(Node):
    left: Node
    right: Node
    negated: bool


@dataclass(frozen=True, slots=True)
class Between(Node):
    operand: Node
    low: Node
    high: Node
    negated: bool


@dataclass(frozen=True, slots=True)
class In(Node):
    operand: Node
    items: tuple[Node, ...]
    negated: bool


@dataclass(frozen=True, slots=True)
class Like(Node):
    operand: Node
    pattern: Node
    any_case: bool
    negated: bool


@dataclass(frozen=True, slots=True)
class Case(Node):
    """`whens` are pairs of condition (or value, where there is a `subject`) and result, one after the other."""

    subject: Node | None
    whens: tuple[Node, ...]
    default: Node | None


@dataclass(frozen=True, slots=True)
class Call(Node):
    """A function, its name in lower case. EXTRACT has its field as the first argument."""

    name: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Cast(Node):
    operand: Node
    target: Target


def children(node: Node) -> Iterator[Node]:
    """The nodes right below one."""
    for field in fields(node):
        value = getattr(node, field.name)
        if isinstance(value, Node):
            yield value
        elif isinstance(value, tuple):
            yield from value


def height(root: Node) -> int:
    """How many nodes stand one below the other. It doesn't recurse, so that any tree can be measured."""
    level, nodes = 0, [root]
    while nodes:
        level += 1
        nodes = [child for node in nodes for child in children(node)]
    return level


def reads_columns(root: Node) -> bool:
    """Whether there is a column somewhere in it."""
    nodes = [root]
    while nodes:
        if any(isinstance(node, Name) for node in nodes):
            return True
        nodes = [child for node in nodes for child in children(node)]
    return False
