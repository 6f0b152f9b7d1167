"""What each kind of destination promises, as `config check` and the docs tell it."""

from collections.abc import Mapping

GUARANTEES: Mapping[str, str] = {
    "s3": "exactly once: whole objects under the run's own keys, none of a lost attempt, never overwritten",
    "file": "exactly once: whole files under the run's own paths, none of a lost attempt, never overwritten",
    "postgres": "exactly once: one transaction a table, keyed by run; visible before the manifest, and not undone if "
    "that can't be published",
}
OF_A_PLUGIN = "what its package says"


def guarantee(kind: str) -> str:
    """Of a destination, by the name that the job config calls it by."""
    return GUARANTEES.get(kind, OF_A_PLUGIN)
