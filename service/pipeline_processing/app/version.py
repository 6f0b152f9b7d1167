"""What `--version` prints. Part of the composition root."""

from collections.abc import Mapping
from importlib.metadata import version

from pipeline_processing.history.postgres.migrate import MIGRATIONS
from pipeline_processing.sources.postgres.copy_reader import chosen_reader


def version_lines(program: str, environ: Mapping[str, str]) -> list[str]:
    """Return the version, in an image its revision, the history schema's version, and the reader of Postgres."""
    revision = environ.get("IMAGE_REVISION")
    return [
        f"{program} {version(program)}" + (f", image revision {revision}" if revision else ""),
        f"history schema {MIGRATIONS[-1].version}",
        chosen_reader().description,
    ]
