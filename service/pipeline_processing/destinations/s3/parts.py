"""
The size of the parts of a multipart upload.

S3 accepts up to 10,000 parts per upload, each of at least 5 MiB except the last. A whole part is in memory while it is
filled and sent, so the memory budget limits the size of a part, and the part size limits the size of an artifact.

Uploads can't deadlock over the budget. An upload reserves a part's bytes before it fills the part. While it waits for
them, it holds only parts that are being sent, which are released when sent. A run has several uploads open across all
S3 destinations: one for the current artifact at each, and one for the rejected rows. A waiting run waits for a part of
one of them, so once its parts are sent, it holds at most one half-filled part for each of the others. Even if every run
waits, that is `runs * (uploads_per_run - 1)` parts, and with room for one more, some run continues. A sealed upload
holds nothing, however long its block stays open.

This requires a budget used by uploads only, and destinations that all assume the same number of runs and uploads.
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
    The size of each part in bytes: `first`, doubled after every 1,000 parts up to `largest`.

    With the default 8 MiB, 256 MiB for parts and 4 runs of 2 uploads each, `largest` is 51 MiB and an artifact can
    have 403 GiB; with 3 uploads each (2 destinations and rejected rows) 28 MiB and 242 GiB; with 1 GiB for parts
    and 2 uploads each 204 MiB and 1.2 TiB. S3's limit of 5 TiB needs 8 GiB.
    """

    first: int
    largest: int

    @classmethod
    def within(cls, budget: ByteBudget, *, part_size: int, runs: int, uploads_per_run: int) -> "PartSizes":
        """
        Return sizes with which `runs` runs of `uploads_per_run` each can't deadlock over `budget`.

        If necessary, parts are smaller than `part_size`. Raises SettingsError if the budget is too small even so.
        """
        # At least 2, so that one part can be filled while another is sent.
        shares = max(2, runs * (uploads_per_run - 1) + 1)
        largest = budget.limit // shares // MIB * MIB
        if largest < SMALLEST_PART:
            raise SettingsError(
                f"{budget.limit / MIB:,.0f} MiB for the parts of uploads isn't enough for {runs} concurrent runs with "
                f"{uploads_per_run} uploads each: they need {shares * SMALLEST_PART // MIB} MiB, since S3 accepts no "
                "part under 5 MiB. Raise PIPELINE_WORKER__MEMORY_BUDGET_MIB, or lower PIPELINE_WORKER__CONCURRENCY."
            )
        return cls(first=max(SMALLEST_PART, min(part_size, largest)), largest=largest)

    def of(self, number: int) -> int:
        """Return the size of part `number`, counted from 1."""
        return min(self.largest, self.first << ((number - 1) // _DOUBLES_EVERY))

    @property
    def largest_artifact(self) -> int:
        """Total bytes of all parts. Sums over 10,000 parts, so don't call it for every part."""
        return min(LARGEST_OBJECT, sum(self.of(number) for number in range(1, MOST_PARTS + 1)))
