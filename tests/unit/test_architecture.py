"""What import-linter can't hold."""

import ast
from pathlib import Path

import pytest

import pipeline_processing

PACKAGE = Path(pipeline_processing.__file__).parent
PORTS = [
    pytest.param(node, id=f"{path.relative_to(PACKAGE).as_posix()}:{node.name}")
    for path in sorted(PACKAGE.rglob("*.py"))
    if "(Protocol" in path.read_text("utf-8")
    for node in ast.walk(ast.parse(path.read_text("utf-8")))
    if isinstance(node, ast.ClassDef) and any(ast.unparse(base).startswith("Protocol") for base in node.bases)
]


def test_only_the_edges_read_the_environment() -> None:
    """`os.environ` is read where a command starts, and nowhere else."""
    readers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if "environ" in path.read_text("utf-8") and "os.environ" in path.read_text("utf-8")
    }
    assert {name for name in readers if not name.startswith(("cli/", "embedded/"))} == set()


@pytest.mark.parametrize("port", PORTS)
def test_a_port_is_small(port: ast.ClassDef) -> None:
    """At most ten methods: what more it offers, some callers don't need."""
    methods = [each for each in port.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert len(methods) <= 10
