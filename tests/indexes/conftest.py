"""What the tests of the indexes share."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from indexes.base import Hits, Ids, Vectors
from indexes.exact.codes import Codes, empty_plane, fill_plane
from indexes.exact.device import DeviceScanner
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.kernels import Plane
from indexes.exact.scanner import Scanner, available_kernels
from indexes.joining import tiling
from indexes.segmented.view import SealedView, SegmentSearch

UnitRows = Callable[..., Vectors]
KERNELS = (*available_kernels(), "device")
"""Those of this processor, and what an accelerator runs, by numpy."""


def open_kernel(kernel: str, threads: int) -> Scanner:
    """The scanner of one of `KERNELS`."""
    return DeviceScanner(np, threads) if kernel == "device" else Scanner(kernel, threads)


def make_plane(codes: NDArray[np.uint8], dim: int) -> Plane:
    """The plane of codes, made at once."""
    plane = empty_plane(len(codes), dim)
    return plane._replace(longest=fill_plane(plane, codes, dim, slice(0, len(codes))))


def ask(segment: Exact8Segment) -> SegmentSearch:
    """One segment, to be searched as a gallery searches it."""
    return SegmentSearch([SealedView.of(segment)], [], segment.scanner.kernel)


def assert_same(found: Hits, expected: Hits) -> None:
    """Two answers that are equal bit for bit."""
    assert np.array_equal(found.offsets, expected.offsets)
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.scores.view(np.int32), expected.scores.view(np.int32))


def remove_ids(segment: Exact8Segment, ids: Ids) -> None:
    """Removes these ids from a segment that has them."""
    rows, present = segment.find(ids)
    assert present.all()
    segment.remove_rows(rows)


def restore(segment: Exact8Segment) -> Exact8Segment:
    """A segment of the parts of this one that a snapshot keeps, nothing removed."""
    held = segment.codes
    codes = Codes.restore(held.bytes, held.residuals, segment.dim, held.limit)
    more = {"scanner": segment.scanner, "name": segment.name}
    return Exact8Segment.of_codes(segment.row_ids, codes, segment.rows, **more)


def change_beside_digests(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Exact8Segment], None], *, before: bool
) -> None:
    """Has each segment of a join changed just before its references are digested, or just after."""
    digest = tiling._digests

    def digest_beside(segment: Exact8Segment) -> NDArray[np.uint64]:
        if before:
            change(segment)
        digests = digest(segment)
        if not before:
            change(segment)
        return digests

    monkeypatch.setattr(tiling, "_digests", digest_beside)


@pytest.fixture(scope="session")
def unit_rows() -> UnitRows:
    """Builds `float32[n, dim]` random unit rows from a seed."""

    def build(n: int, dim: int = 16, seed: int = 0) -> Vectors:
        rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return build
