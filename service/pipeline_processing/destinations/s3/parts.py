"""
The size of the parts of a multipart upload.

S3 takes 10,000 parts an upload, each of 5 MiB or more except the last. A part is whole in memory while it is filled and
sent, so the memory budget limits the part, and the part limits the artifact.

Uploads can't deadlock over the budget. An upload reserves a part's bytes before it fills the part. While it waits for
them, it holds only parts that are being sent, which end by themselves. A run has several uploads open, at all S3
destinations together: one of the current artifact at each, and one of the rejected rows. A run that waits does so for a
part of one of them, so once its parts are sent, it holds at most one half-filled part of each of the others. Even if
every run waits, those are `runs * (uploads_per_run - 1)` parts, and with room for one more some run goes on. A sealed
upload holds nothing, however long its block stays open.

This needs a budget that only uploads use, and destinations that all count the same runs and uploads.
"""

from dataclasses import dataclass

from pipeline_processing.aio.budget import ByteBudget
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

    With the default 8 MiB, 256 MiB for parts and 4 runs of 2 uploads each, `largest` is 51 MiB and an artifact can
    have 403 GiB; with 3 uploads each (2 destinations and rejected rows) 28 MiB and 242 GiB; with 1 GiB for parts
    and 2 uploads each 204 MiB and 1.2 TiB. S3's own 5 TiB take 8 GiB.
    """

    first: int
    largest: int

    @classmethod
    def within(cls, budget: ByteBudget, *, part_size: int, runs: int, uploads_per_run: int) -> "PartSizes":
        """
        Sizes with which `runs` runs of so many uploads each never deadlock over `budget`; below `part_size` if need be.

        Raises SettingsError when the budget is too small for that.
        """
        # 2 at least, so that one part is filled while another is on its way.
        shares = max(2, runs * (uploads_per_run - 1) + 1)
        largest = budget.limit // shares // MIB * MIB
        if largest < SMALLEST_PART:
            raise SettingsError(
                f"{budget.limit / MIB:,.0f} MiB for the parts of uploads are too few for {runs} runs at once with "
                f"{uploads_per_run} uploads each: they take {shares * SMALLEST_PART // MIB}, since S3 accepts no part "
                "under 5 MiB. Raise PIPELINE_WORKER__MEMORY_BUDGET_MIB, or lower PIPELINE_WORKER__CONCURRENCY."
            )
        return cls(first=max(SMALLEST_PART, min(part_size, largest)), largest=largest)

    def of(self, number: int) -> int:
        """The size of part `number`, counted from 1."""
        return min(self.largest, self.first << ((number - 1) // _DOUBLES_EVERY))

    @property
    def largest_artifact(self) -> int:
        """Bytes that all parts together hold; a sum over all of them, so not for every part."""
        return min(LARGEST_OBJECT, sum(self.of(number) for number in range(1, MOST_PARTS + 1)))
