"""Part sizes reach far and stay within the budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.destinations.s3.parts import LARGEST_OBJECT, MIB, MOST_PARTS, SMALLEST_PART, PartSizes
from pipeline_processing.errors import SettingsError

GIB = 1024 * MIB


@pytest.mark.parametrize(
    ("budget", "uploads", "largest", "artifact"),
    [
        (256 * MIB, 2, 51 * MIB, 403 * GIB),
        (256 * MIB, 3, 28 * MIB, 242 * GIB),
        (GIB, 2, 204 * MIB, 1238 * GIB),
        (8 * GIB, 2, 1638 * MIB, LARGEST_OBJECT),
    ],
)
def test_the_documented_figures(budget: int, uploads: int, largest: int, artifact: int) -> None:
    """What `PartSizes` says of itself."""
    sizes = PartSizes.within(ByteBudget(budget), part_size=8 * MIB, runs=4, uploads_per_run=uploads)
    assert (sizes.first, sizes.largest) == (8 * MIB, largest)
    assert sizes.largest_artifact // GIB == artifact // GIB


def test_parts_double_after_every_thousand() -> None:
    """Small artifacts are cut small."""
    sizes = PartSizes(first=8 * MIB, largest=51 * MIB)
    numbers = [1, 1000, 1001, 2000, 2001, 3001, MOST_PARTS]
    assert [sizes.of(number) // MIB for number in numbers] == [8, 8, 16, 16, 32, 51, 51]


def test_a_budget_that_is_too_small_is_refused() -> None:
    """With the number that would do."""
    with pytest.raises(SettingsError, match="they need 45 MiB, since"):
        PartSizes.within(ByteBudget(32 * MIB), part_size=8 * MIB, runs=8, uploads_per_run=2)


@given(
    mib=st.integers(1, 4096),
    part=st.integers(1, 64),
    runs=st.integers(1, 64),
    uploads=st.integers(1, 8),
    number=st.integers(1, MOST_PARTS),
)
def test_there_is_always_room_for_one_part_more(mib: int, part: int, runs: int, uploads: int, number: int) -> None:
    """The inequality on which freedom from deadlock rests, and S3's minimum."""
    held = runs * (uploads - 1)
    try:
        sizes = PartSizes.within(ByteBudget(mib * MIB), part_size=part * MIB, runs=runs, uploads_per_run=uploads)
    except SettingsError:
        assert mib < max(2, held + 1) * 5
        return
    assert SMALLEST_PART <= sizes.of(number) <= sizes.largest
    assert (held + 1) * sizes.largest <= mib * MIB
    assert 2 * sizes.largest <= mib * MIB
