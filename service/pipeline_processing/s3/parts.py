"""
How large the parts of a multipart upload are.

S3 takes 10,000 parts an upload, of 5 MiB or more each except the last. Every part is whole in memory while
it is filled and sent, so the memory budget bounds the part, and the part bounds the artifact.

Deadlock is ruled out by arithmetic. An upload takes a part's bytes from the budget before it fills the
part, and while it waits for them it holds only parts on their way, which end without anybody's help. A run
writes to one of its uploads at a time, and has two at most: an artifact and the rejected rows beside it. So
a run that waits holds, once its parts have ended, one half-filled part of its other upload. Even if every
run waits, that is a part a run: with `limit / (runs + 1)` as the largest part there is always room for one
more, whose run goes on. This holds for a budget that only uploads draw from; who buffers rows needs one of
his own.
"""

from dataclasses import dataclass

from pipeline_processing.budget import ByteBudget
from pipeline_processing.errors import SettingsError

MIB = 1024 * 1024
SMALLEST_PART = 5 * MIB
MOST_PARTS = 10_000
LARGEST_OBJECT = 5 * 1024 * 1024 * MIB
_DOUBLES_EVERY = 1_000


@dataclass(frozen=True, slots=True)
class PartSizes:
    """
    Bytes of each part: `first`, doubled after every 1,000 parts up to `largest`.

    With the default 8 MiB, a budget of 256 MiB and 4 runs, `largest` is 51 MiB and an artifact can have 403 GiB;
    with 1 GiB, 204 MiB and 1.2 TiB. S3's own 5 TiB take a budget of 8 GiB.
    """

    first: int
    largest: int

    @classmethod
    def within(cls, budget: ByteBudget, *, part_size: int, runs: int) -> "PartSizes":
        """
        Sizes with which the uploads of `runs` runs never deadlock over `budget`; below `part_size` if need be.

        Raises SettingsError when the budget is too small for that.
        """
        largest = budget.limit // (runs + 1) // MIB * MIB
        if largest < SMALLEST_PART:
            raise SettingsError(
                f"{budget.limit / MIB:,.0f} MiB for the parts of uploads are too few for {runs} runs at once: they "
                f"take {(runs + 1) * SMALLEST_PART // MIB}, since S3 accepts no part under 5 MiB. Raise "
                "PIPELINE_WORKER__MEMORY_BUDGET_MIB, or lower PIPELINE_WORKER__CONCURRENCY."
            )
        return cls(first=max(SMALLEST_PART, min(part_size, largest)), largest=largest)

    def of(self, number: int) -> int:
        """The size of part `number`, counted from 1."""
        return min(self.largest, self.first << ((number - 1) // _DOUBLES_EVERY))

    @property
    def largest_artifact(self) -> int:
        """Bytes that all parts together hold; a sum over all of them, so not for every part."""
        return min(LARGEST_OBJECT, sum(self.of(number) for number in range(1, MOST_PARTS + 1)))
