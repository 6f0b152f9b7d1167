"""What import-linter can't hold."""

from pathlib import Path

import pipeline_processing

PACKAGE = Path(pipeline_processing.__file__).parent


def test_only_the_edges_read_the_environment() -> None:
    """`os.environ` is read where a command starts, and nowhere else."""
    readers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if "environ" in path.read_text("utf-8") and "os.environ" in path.read_text("utf-8")
    }
    assert {name for name in readers if not name.startswith(("cli/", "embedded/"))} == set()
