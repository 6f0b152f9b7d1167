"""
The bill of a run: what it has used until it is decided.

The processor time of a process can't be read per run, as runs share an event loop and its threads. So it is read for
the whole process, whenever an attempt begins, is billed or ends, and shared among the attempts in progress by the
bytes that each has moved since. What is used after an attempt's bill is made, to publish the run, is charged to the
others in progress, or to the next one. So is what is used while no attempt is in progress here, to accept requests,
claim runs and send events; but at most `longest_carry`, so that no run pays for hours of waiting. Nothing is lost or
counted twice: what the process used is billed, carried, or unbilled.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline_processing.model import Bill
from pipeline_processing.plan import Artifact
from pipeline_processing.usage import Usage

_BYTES_OF_BEING = 64 * 1024
"""Added to what an attempt has moved, because it costs something even while it moves nothing."""
_S3 = "s3://"


@dataclass(slots=True, eq=False)
class Account:
    """One attempt's usage and share of the processor time, until it is billed."""

    usage: Usage = field(default_factory=Usage)
    cpu_seconds: float = 0.0
    moved: int = 0
    """Bytes that had been moved when time was last shared."""

    def weight(self) -> int:
        """Return the bytes moved since the last call, and a little more."""
        before, self.moved = self.moved, self.usage.bytes_read + self.usage.bytes_written
        return self.moved - before + _BYTES_OF_BEING


class Ledger:
    """
    Shares the processor time of this process among its attempts. One per process; not for several threads.

    `cpu` returns the seconds that all threads have used since the process started. Of what is used while no attempt is
    in progress, the next one is charged at most `longest_carry` seconds.
    """

    def __init__(self, *, cpu: Callable[[], float] = time.process_time, longest_carry: float = 0.1) -> None:
        self.carried = 0.0
        """Seconds to be charged to the attempts in progress, or to the next one."""
        self.unbilled = 0.0
        """Seconds that are charged to no run."""
        self._cpu = cpu
        self._longest_carry = longest_carry
        self._read_at = 0.0
        self._open: set[Account] = set()
        self._in_progress = 0

    @contextmanager
    def attempt(self, *, billed: bool = False, apart: bool = False) -> Iterator[Account]:
        """
        Charge an attempt in the block. Set `billed` if its bill exists, and `apart` if another process works on it.

        What was charged to an attempt that is never billed stays unbilled.
        """
        account = Account()
        self._share()
        self._in_progress += not apart  # this process only waits for it, perhaps for hours
        if not (billed or apart):
            self._open.add(account)
        try:
            yield account
        finally:
            self._share()
            self._in_progress -= not apart
            if account in self._open:
                self._open.remove(account)
                self.unbilled += account.cpu_seconds

    def bill(self, account: Account, *, earlier: Bill | None, planned_requests: int = 0) -> Bill:
        """
        Return what an attempt has used until now, added to the bill of `earlier` attempts. Nothing more is charged to
        it.

        `planned_requests` are the S3 requests that are still to come.
        """
        self._share()
        self._open.discard(account)
        usage, earlier = account.usage, earlier or Bill()
        return Bill(
            client_cpu_ms=_ms(account.cpu_seconds, earlier.client_cpu_ms),
            database_ms=_ms(usage.database_seconds, earlier.database_ms),
            bytes_read=usage.bytes_read + earlier.bytes_read,
            bytes_written=usage.bytes_written + earlier.bytes_written,
            s3_requests=usage.s3_requests + earlier.s3_requests + planned_requests,
        )

    def _share(self) -> None:
        """Charge what was used since the last call."""
        before, self._read_at = self._read_at, self._cpu()
        used = self._read_at - before
        if self._open:
            used, self.carried = used + self.carried, 0.0
            weights = {account: account.weight() for account in self._open}
            whole = sum(weights.values())
            for account, weight in weights.items():
                account.cpu_seconds += used * weight / whole
        elif self._in_progress:
            self.carried += used
        else:
            taken = min(used, max(0.0, self._longest_carry - self.carried))
            self.carried += taken
            self.unbilled += used - taken


def planned_requests(artifacts: Iterable[Artifact], *, manifest_at: str, pointers: int = 0) -> int:
    """
    Return how many S3 requests publish a plan, if none has to be repeated. `manifest_at` is the manifest's URL, and
    `pointers` is the number of objects that point to it.
    """
    # Each completes an upload, or stores a small object. A pointer is read and written.
    return 2 * pointers * manifest_at.startswith(_S3) + sum(
        each.startswith(_S3) for each in (manifest_at, *(artifact.destination for artifact in artifacts))
    )


def _ms(seconds: float, earlier_ms: float) -> float:
    return round(seconds * 1000 + earlier_ms, 3)
