"""Codes, their bound and their memory."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from indexes.exact import codes as coding
from indexes.exact.codes import CodedQueries, Codes, fill_plane
from indexes.exact.kernels import Plane
from tests.indexes.conftest import make_plane

LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.sampled_from([3, 64, 100, 512]),
    limit=st.sampled_from([0.05, 0.2, 0.4, 1.0]),
)
def test_the_bound_holds_for_vectors_and_for_rows_as_queries(
    seed: int, dim: int, limit: float
) -> None:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((80, dim)) * random.choice([0.1, 1, 10], (80, dim))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    codes = Codes(rows, limit)
    stored = rows[codes.order].astype(np.float64)
    decoded = (codes.bytes[: len(rows), :dim].astype(np.float64) - 128) * codes.step
    for queries, vectors in (
        (CodedQueries.of_vectors(rows[:20]), rows[:20].astype(np.float64)),
        (CodedQueries.of_rows(codes, slice(0, 20)), stored[:20]),
    ):
        approximate = (queries.codes[:, :dim] * queries.steps[:, None]) @ decoded.T
        fixed, slope = queries.bound(codes)
        margin = fixed[:, None] + slope[:, None] * codes.residuals
        assert (np.abs(vectors @ stored.T - approximate) <= margin).all()


def test_rows_that_are_wiped_while_the_plane_is_made_are_wiped_in_it(
    unit_rows, monkeypatch
) -> None:
    codes = Codes(unit_rows(200, 128), 0.4)
    gone: list[int] = []

    def fill_from_what_was_read(
        plane: Plane, held: NDArray[np.uint8], dim: int, part: slice
    ) -> float:
        read = held.copy()
        # One of this part, and of what is made and not made yet.
        some = np.random.default_rng(part.start).permutation(200)[:20]
        codes.wipe(np.append(some, part.start))
        gone.extend((*some, part.start))
        return fill_plane(plane, read, dim, part)

    monkeypatch.setattr(coding, "_ROWS_AT_ONCE", 32)
    monkeypatch.setattr(coding, "fill_plane", fill_from_what_was_read)
    codes.add_plane()
    assert len(set(gone)) > 50
    assert (codes.plane.halves[gone] == 0x88).all()
    assert np.array_equal(codes.plane.halves, make_plane(codes.bytes, 128).halves)


@pytest.mark.skipif(
    not LARGE_PAGES.exists() or "[never]" in LARGE_PAGES.read_text(),
    reason="this system has no large pages",
)
def test_the_codes_of_a_segment_are_offered_large_pages() -> None:
    rows = np.zeros((1 << 18, 64), np.float32)
    rows[:, 0] = 1
    codes = Codes(rows, 0.4)
    middle = codes.bytes.ctypes.data + codes.bytes.nbytes // 2
    # The flag of the mapping, not whether pages were free: that is the system's affair.
    assert "hg" in flags_of_mapping(middle)


def test_what_is_read_of_codes_stays_when_their_segment_is_gone(unit_rows) -> None:
    codes = Codes(unit_rows(4096, 128), 0.4)
    held, before = codes.bytes[1000:], codes.bytes[1000:].copy()
    del codes
    # What would take the memory, had it been freed.
    others = [Codes(unit_rows(4096, 128, seed=seed), 0.4) for seed in range(1, 5)]
    assert np.array_equal(held, before)
    assert len(others) == 4


def flags_of_mapping(address: int) -> list[str]:
    """The VmFlags of the mapping that an address lies in: proc_pid_smaps(5)."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            start, end = (int(part, 16) for part in first.split("-"))
            inside = start <= address < end
        elif inside and first == "VmFlags:":
            return line.split()[1:]
    return []
