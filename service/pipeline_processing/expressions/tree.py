"""The tree of an expression: four kinds of nodes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from pipeline_processing.expressions.types import Target


@dataclass(frozen=True, slots=True)
class Node:
    """A part of an expression. `at` is its position in the text, from 0."""

    at: int


@dataclass(frozen=True, slots=True)
class Name(Node):
    """A column."""

    name: str
    quoted: bool


@dataclass(frozen=True, slots=True)
class Literal(Node):
    """A constant. The type of text depends on its context. None is NULL."""

    value: str | int | Decimal | bool | None


@dataclass(frozen=True, slots=True)
class Cast(Node):
    operand: Node
    target: Target


@dataclass(frozen=True, slots=True)
class Call(Node):
    """
    A function, its name in lower case, or an operator, in capitals: `lower`, `+`, `AND`, `NOT BETWEEN`, `IS NULL`.

    AND and OR have two or more arguments. `CASE` has alternating conditions and results, then the default; `CASE OF`
    has its subject before them.
    """

    name: str
    arguments: tuple[Node, ...]


def height(root: Node) -> int:
    """Return the number of levels of a tree, without recursion, so that it can measure any tree."""
    return sum(1 for _ in _levels(root))


def names_in(root: Node) -> set[Name]:
    """Return the columns that a tree reads."""
    return {node for nodes in _levels(root) for node in nodes if isinstance(node, Name)}


def _levels(root: Node) -> Iterator[Sequence[Node]]:
    nodes: Sequence[Node] = [root]
    while nodes:
        yield nodes
        nodes = [child for node in nodes for child in _children(node)]


def _children(node: Node) -> tuple[Node, ...]:
    match node:
        case Cast():
            return (node.operand,)
        case Call():
            return node.arguments
    return ()
