"""Who may import whom."""

import ast
from pathlib import Path

import pytest

import pipeline_processing

PACKAGE = Path(pipeline_processing.__file__).parent
ADAPTERS = ("postgres", "s3", "files", "http", "kafka", "web", "memory", "embedded")
DRIVERS = ("asyncpg", "aiobotocore", "botocore", "aiohttp", "aiokafka")

# What knows every adapter, what shows the whole on embedded servers, and each adapter itself.
COMPOSITION = ("app.py", "app_data.py", "app_serve.py", "app_checks.py", "demo/", "cli/demo.py")


def imports(module: Path) -> set[str]:
    """Full names of the modules that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def modules() -> list[Path]:
    """Every module of the package but the adapters and what composes them."""
    return [
        path
        for path in sorted(PACKAGE.rglob("*.py"))
        if not (relative := path.relative_to(PACKAGE).as_posix()).startswith(
            (*COMPOSITION, *(f"{a}/" for a in ADAPTERS))
        )
        and relative
    ]


@pytest.mark.parametrize("module", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_the_composition_root_imports_adapters_and_drivers(module: Path) -> None:
    """The core knows ports, and neither the adapters behind them nor the drivers behind those."""
    names = imports(module)
    adapters = {name for name in names if name.startswith(tuple(f"pipeline_processing.{a}" for a in ADAPTERS))}
    drivers = {name for name in names if name.split(".")[0] in DRIVERS}
    assert not adapters | drivers


def test_one_adapter_does_not_import_another() -> None:
    """Adapters meet in the composition root only."""
    for adapter in ("postgres", "s3", "files", "http", "kafka", "web", "memory"):
        for module in (PACKAGE / adapter).rglob("*.py"):
            others = tuple(f"pipeline_processing.{other}." for other in ADAPTERS if other != adapter)
            assert not [name for name in imports(module) if f"{name}.".startswith(others)], module


def test_only_the_edges_read_the_environment() -> None:
    """`os.environ` is read where a command starts, and nowhere else."""
    readers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if "environ" in path.read_text("utf-8") and "os.environ" in path.read_text("utf-8")
    }
    assert {name for name in readers if not name.startswith(("cli/", "embedded/"))} == set()
