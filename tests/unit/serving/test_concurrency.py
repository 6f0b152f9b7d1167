"""How many runs a worker takes at once while a database has no connections left."""

from pipeline_processing.errors import PipelineError, SourceBusy, SourceUnavailable, TooManyConnections
from pipeline_processing.serving.concurrency import Concurrency

FULL = TooManyConnections("full")


def learned(concurrency: Concurrency, error: PipelineError | None, *, began_at: float, now: float) -> int:
    concurrency.learn(error, began_at=began_at, now=now)
    return concurrency.limit


def test_it_is_halved_down_to_one_and_comes_back_by_one() -> None:
    """Never to more than it began with."""
    it = Concurrency(8)
    assert [learned(it, FULL, began_at=now, now=now + 0.5) for now in range(4)] == [4, 2, 1, 1]
    assert [learned(it, None, began_at=now, now=now + 0.5) for now in range(10, 20)] == [2, 3, 4, 5, 6, 7, 8, 8, 8, 8]


def test_attempts_that_found_it_full_together_halve_it_once() -> None:
    """Those that began before tell nothing new."""
    it = Concurrency(8)
    assert [learned(it, FULL, began_at=0, now=now) for now in (1, 1.1, 1.2)] == [4, 4, 4]
    assert learned(it, FULL, began_at=2, now=3) == 2


def test_other_errors_change_nothing() -> None:
    """They say nothing about connections."""
    it = Concurrency(8)
    learned(it, FULL, began_at=0, now=1)
    for error in (SourceBusy("a deadlock"), SourceUnavailable("gone"), PipelineError("x")):
        assert learned(it, error, began_at=2, now=3) == 4
