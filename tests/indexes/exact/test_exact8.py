"""A sealed segment compared with brute force, on a device too and behind a prefix.

That the device finds what the kernels find is stated beside theirs, in the tests of the kernels, of
segments, of joins and of concurrent use; here, that it follows the segments, and fails over.
"""

import gc
import importlib.util
import logging
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.base import CertifiedHits, Vectors, arrange
from indexes.errors import DeviceMissing, SearchInvalid, VectorInvalid
from indexes.exact import scanner as scanner_module
from indexes.exact.codes import CodedQueries, Codes
from indexes.exact.device import DeviceScanner
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.kernels import Axes, Found, Grid, find_axes
from indexes.exact.scanner import Scanner
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from tests.indexes.conftest import KERNELS, ask, assert_same, open_kernel, remove_ids
from tests.indexes.oracle import BruteForce

DIMS = st.sampled_from([64, 100, 128, 300, 512, 1024])


@pytest.fixture(scope="module", params=KERNELS)
def scanner(request) -> Iterator[Scanner]:
    scanner = open_kernel(request.param, threads=2)
    yield scanner
    scanner.close()


@pytest.fixture(scope="module")
def scanners() -> Iterator[dict[str, Scanner]]:
    scanners = {kernel: open_kernel(kernel, threads=2) for kernel in KERNELS}
    yield scanners
    for scanner in scanners.values():
        scanner.close()


def population(seed: int, n: int, dim: int) -> Vectors:
    """Spread, close, equal, one-hot, two-valued and clipped rows, and some a hair too long."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((n, dim))
    kinds = random.integers(0, 6, n)
    centres = random.standard_normal((4, dim))
    rows[kinds == 1] = centres[random.integers(0, 4, (kinds == 1).sum())]
    close = kinds == 2
    rows[close] = centres[0] + 0.05 * random.standard_normal((close.sum(), dim))
    hot = np.flatnonzero(kinds == 3)
    rows[hot] = 0
    rows[hot, random.integers(0, dim, len(hot))] = random.choice([-1.0, 1.0], len(hot))
    rows[kinds == 4] = random.choice([-1.0, 1.0], ((kinds == 4).sum(), dim))
    clipped = np.flatnonzero(kinds == 5)
    rows[clipped, random.integers(0, dim, len(clipped))] = 0.6 * math.sqrt(dim)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows *= random.choice([0.9992, 1.0, 1.0008], (n, 1))
    return rows.astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=DIMS,
    n=st.sampled_from([0, 1, 7, 33, 500, 1025, 2100]),
    queries=st.one_of(st.integers(0, 40), st.sampled_from([64, 257, 600])),
    kernel=st.sampled_from(KERNELS),
    removed=st.sampled_from([0.0, 0.3, 1.0]),
    k=st.sampled_from([1, 2, 10, 100, 5000]),
    limit=st.sampled_from([None, None, 0.02, 0.1, 1.0]),
)
def test_answers_are_those_of_the_flat_index(
    scanners,
    seed: int,
    dim: int,
    n: int,
    queries: int,
    kernel: str,
    removed: float,
    k: int,
    limit: float | None,
) -> None:
    if queries * n > 100_000:
        k = min(k, 10)
    rows = population(seed, n, dim)
    random = np.random.default_rng(seed)
    ids = random.permutation(3 * n)[:n].astype(np.int64)
    probes = np.concatenate([rows, population(seed + 1, queries, dim)])
    probes = probes[random.permutation(len(probes))[:queries]]
    flat = BruteForce(dim)
    flat.add(ids, rows)
    index = Exact8Segment(ids, rows, scanner=scanners[kernel], limit=limit)
    gone = ids[random.random(n) < removed]
    flat.remove(gone)
    remove_ids(index, gone)

    assert np.array_equal(index.ids, flat.ids)
    assert len(index) == len(flat)
    best = flat.search(probes, k)
    assert_same(ask(index).search(probes, k), best)
    # A score that is there, as the threshold, and its neighbours.
    score = float(best.scores[random.integers(0, len(best.scores))]) if len(best.scores) else 0.5
    beyond_any = float(random.choice([-1e300, -5.0, 5.0, 1e300]))
    for threshold in (score, math.nextafter(score, 2), math.nextafter(score, -2), 0.9, beyond_any):
        if queries * n <= 100_000 or threshold > 0.5:
            expected = flat.range_search(probes, threshold)
            assert_same(ask(index).range_search(probes, threshold), expected)


def test_the_certificate_has_the_bound_and_the_rows_rescored(unit_rows, scanner) -> None:
    rows, probes = unit_rows(5000, 128), unit_rows(20, 128, seed=1)
    index = Exact8Segment(np.arange(5000), rows, scanner=scanner)
    scores = probes.astype(np.float64) @ rows.T.astype(np.float64)
    found = ask(index).range_search(probes, 0.2)
    certificate = found.certificate
    assert isinstance(found, CertifiedHits)
    assert certificate.compared == 5000
    assert certificate.epsilon.shape == certificate.rescored.shape == (20,)
    assert (certificate.rescored >= (scores >= 0.2).sum(axis=1)).all()
    # Twice: the code score may be off by epsilon, and so may what is taken for possible.
    possible = scores >= 0.2 - 2 * certificate.epsilon[:, None]
    assert (certificate.rescored <= possible.sum(axis=1)).all()
    best = ask(index).search(probes, 5).certificate
    assert (best.rescored >= 5).all()
    assert best.rescored.mean() < 100
    # A batch is compared by bytes, a single query by half bytes where the kernel can.
    assert certificate.bounds == best.bounds == ("bytes",)
    one = ask(index).range_search(probes[:1], 0.2)
    assert one.certificate.bounds == ("half bytes" if scanner.reads_planes else "bytes",)
    assert np.array_equal(one.certificate.epsilon, certificate.epsilon[:1])
    assert np.array_equal(one.certificate.rescored, certificate.rescored[:1])


def test_a_code_limit_or_a_dimension_that_codes_cannot_have_is_refused(unit_rows, scanner) -> None:
    rows, ids = unit_rows(5, 64), np.arange(5)
    for limit in (0.0, 1e-6, 1.5, math.nan):
        with pytest.raises(VectorInvalid):
            Exact8Segment(ids, rows, scanner=scanner, limit=limit)
    with pytest.raises(VectorInvalid, match="at most 16384"):
        Exact8Segment(ids[:0], np.empty((0, 20_000), np.float32), scanner=scanner)


def test_kernels_that_are_not_here_are_refused() -> None:
    with pytest.raises(SearchInvalid, match="no kernel abacus here"):
        Scanner("abacus")
    with pytest.raises(SearchInvalid, match="threads is 0"):
        Scanner(threads=0)


def test_a_processor_without_vector_instructions_falls_back_and_says_so(
    unit_rows, monkeypatch, caplog
) -> None:
    rows = unit_rows(300, 64)
    expected = ask(Exact8Segment(np.arange(300), rows, scanner=Scanner())).search(rows[:40], 3)
    monkeypatch.setattr(scanner_module, "has_amx", lambda: False)
    monkeypatch.setattr(scanner_module, "has_vnni", lambda: False)
    for installed, kernel in ((True, "onnxruntime"), (False, "numba")):
        monkeypatch.setattr(scanner_module, "has_product", lambda installed=installed: installed)
        with caplog.at_level(logging.WARNING):
            scanner = Scanner()
        assert scanner.kernel == kernel
        assert f"exact, by {kernel}, but are slower" in caplog.text
        index = Exact8Segment(np.arange(300), rows, scanner=scanner)
        assert_same(ask(index).search(rows[:40], 3), expected)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=DIMS,
    queries=st.sampled_from([1, 5, 40]),
    k=st.sampled_from([1, 3, 20, 600]),
    kernel=st.sampled_from(KERNELS),
    share=st.floats(0, 1),
)
def test_the_best_above_known_scores_complete_the_best_of_all(
    scanners, seed: int, dim: int, queries: int, k: int, kernel: str, share: float
) -> None:
    """What two segments give, the second knowing the k-th best of the first, is what one gives."""
    rows, probes = population(seed, 1200, dim), population(seed + 1, queries, dim)
    ids = np.random.default_rng(seed).permutation(1200)
    flat = BruteForce(dim)
    flat.add(ids, rows)
    cut = round(share * 1200)
    coded = CodedQueries.of_vectors(probes)
    floors = np.full(queries, -np.inf)
    found = []
    for part in (slice(0, cut), slice(cut, 1200)):
        index = Exact8Segment(ids[part], rows[part], scanner=scanners[kernel])
        pairs, rescored = index.best(probes, coded, k, floors)
        assert (rescored >= np.bincount(pairs.query_of, minlength=queries)).all()
        found.append((pairs.query_of, index.row_ids[pairs.row_of], pairs.scores))
        if cut >= k:
            first = arrange(queries, *found[0], k)
            floors = first.scores[first.offsets[1:] - 1].astype(np.float64)
    query_of, found_ids, scores = (np.concatenate(column) for column in zip(*found, strict=True))
    assert_same(arrange(queries, query_of, found_ids, scores, k), flat.search(probes, k))


class Device:
    """numpy as a device that may lack room or be lost: `refusal` is raised by what it is told."""

    def __init__(self) -> None:
        self.refusal: Exception | None = None
        self.held: list[np.ndarray] = []

    def __getattr__(self, name: str) -> Any:
        if self.refusal is not None:
            raise self.refusal
        return getattr(np, name)

    def zeros(self, shape: tuple[int, int], dtype: type) -> np.ndarray:
        if self.refusal is not None:
            raise self.refusal
        self.held.append(np.zeros(shape, dtype))
        return self.held[-1]


class OnDevice(DeviceScanner):
    """Products by numpy, whatever the module is that arrays come from."""

    def __init__(self, device: Device) -> None:
        super().__init__(np, threads=2)
        self._arrays = device

    def _multiply(self, rows: Any, queries: Any) -> Any:
        return rows.astype(np.int32) @ queries.T.astype(np.int32)

    def _fetch(self, array: Any) -> Any:
        return array


def test_rows_on_the_device_are_wiped_with_the_codes_and_go_with_their_segment(unit_rows) -> None:
    device = Device()
    scanner = OnDevice(device)
    index = SegmentedIndex(64, SegmentsConfig(head_rows=100), scanner=scanner)
    index.add(np.arange(1500), unit_rows(1500, 64))
    (held,) = device.held
    (segment,) = index.segments
    assert index.account().device == held.nbytes == 2048 * 64
    assert index.account().total < sum((segment.codes.bytes.nbytes, held.nbytes, 1500 * 400))
    places, _ = segment.find(np.array([7, 8]))
    assert held[places].any(axis=1).all()
    index.remove(np.array([7, 8]))
    assert not held[places].any()
    rewrite = index.begin_rewrite(all_removed=True)
    index.finish_rewrite(rewrite, rewrite.build(index.config, scanner))
    del segment, rewrite
    gc.collect()
    # What is freed holds no code.
    assert not held.any()
    assert index.account().device == device.held[-1].nbytes
    assert len(index.search(unit_rows(3, 64), 5).ids) == 15
    scanner.close()


@pytest.mark.parametrize(
    ("refusal", "told"),
    [(MemoryError("out of memory"), "no room"), (RuntimeError("cudaErrorLaunchFailure"), "failed")],
)
def test_without_room_or_after_a_failure_this_processor_gives_the_same_answers_and_it_is_said(
    unit_rows, caplog, refusal: Exception, told: str
) -> None:
    rows, ids, device = unit_rows(2500, 64), np.arange(2500), Device()
    scanner = OnDevice(device)
    segment = Exact8Segment(ids, rows, scanner=scanner)
    expected = [ask(segment).search(rows[:9], 4), ask(segment).range_search(rows[:9], 0.3)]
    device.refusal = refusal
    with caplog.at_level(logging.WARNING):
        # One that is there already, and one that comes too late.
        for one in (segment, Exact8Segment(ids, rows, scanner=scanner)):
            assert_same(ask(one).search(rows[:9], 4), expected[0])
            assert_same(ask(one).range_search(rows[:9], 0.3), expected[1])
        segment.remove_rows(segment.find(ids[:5])[0])
    assert told in caplog.text
    assert (scanner.fault is None) == isinstance(refusal, MemoryError)
    device.refusal = None
    assert not np.isin(ask(segment).range_search(rows[:9], 0.3).ids, ids[:5]).any()
    if scanner.fault is None:
        assert not device.held[0][segment.find(ids[:5])[0]].any()
        assert scanner.kernel == "numpy"
    else:
        assert scanner.kernel == scanner._cpu.kernel != "numpy"
    scanner.close()


def test_a_device_that_is_not_here_is_refused_in_one_line() -> None:
    with pytest.raises(SearchInvalid, match="no device abacus to search on; give one of cpu, cuda"):
        SegmentedIndex(64, SegmentsConfig(device="abacus"))
    if importlib.util.find_spec("cupy") is None:
        with pytest.raises(DeviceMissing, match="install the extra gpu"):
            SegmentedIndex(64, SegmentsConfig(device="cuda"))


SCANNERS = [open_kernel(name, 1) for name in KERNELS]
DIM = 192


def faces(seed: int, count: int, flatness: float, dim: int = DIM) -> Vectors:
    """Unit rows whose energy falls from axis to axis, in turned axes; some are near another."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((count, dim)) * np.arange(1, dim + 1) ** -flatness
    near = 1 + count // 40
    rows[:near] = rows[-near:] + 0.3 * rows[:near]
    turned = rows @ np.linalg.qr(random.standard_normal((dim, dim)))[0]
    return (turned / np.linalg.norm(turned, axis=1, keepdims=True)).astype(np.float32)


def find(scanner: Scanner, codes: Codes, queries: Codes, threshold: float) -> set[tuple[int, int]]:
    """The pairs (row, query) that a scan hands on, as numbers of the vectors given."""
    coded = CodedQueries.of_rows(queries, slice(0, len(queries.residuals)))
    alive = np.arange(len(codes.bytes)) < len(codes.residuals)
    parts: list[Found] = scanner.gather(
        codes, alive, coded.wanted(codes, threshold), lambda found: found.copy()
    )
    pairs = np.concatenate(parts)
    return set(zip(codes.order[pairs[:, 0]], queries.order[pairs[:, 1]], strict=True))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 90),
    flatness=st.sampled_from([0.0, 0.5, 1.5]),
    step=st.integers(1, 2),
    threshold=st.sampled_from([-0.2, 0.1, 0.57, 0.9]),
    limit=st.sampled_from([0.05, 0.4, 1.0]),
)
def test_every_pair_that_reaches_passes_the_prefix_and_nothing_else_does(
    seed: int, count: int, flatness: float, step: int, threshold: float, limit: float
) -> None:
    rows, queries = faces(seed, 1200, flatness), faces(seed + 1, count, flatness)
    columns = np.linalg.eigh(rows.T.astype(np.float64) @ rows)[1][:, ::-1]
    axes = Axes(np.ascontiguousarray(columns), 64 * step, limit)
    codes, coded = (Codes.in_axes(vectors, axes) for vectors in (rows, queries))
    scores = rows.astype(np.float64) @ queries.astype(np.float64).T
    reaching = set(zip(*np.nonzero(scores >= threshold + 1e-6), strict=True))
    by_prefix = [find(scanner, codes, coded, threshold) for scanner in SCANNERS]
    for part in (codes, coded):
        part.prefix = DIM
    whole = find(Scanner("numba", threads=1), codes, coded, threshold)
    assert reaching <= whole
    # What the prefix drops, the codes alone would have dropped too.
    assert all(found == whole for found in by_prefix)


@pytest.mark.parametrize("grid", [Grid(8, 32, 4), Grid(32, 32, 64)])
def test_axes_are_found_where_few_hold_most_and_only_there(grid: Grid) -> None:
    axes = find_axes(faces(1, 1024, 0.5), 0.9, grid)
    assert axes.prefix % grid.step == 0
    assert 0 < axes.prefix < DIM
    assert find_axes(faces(2, 1024, 0.0), 0.2, grid) is None
    # So low a threshold needs all of them.
    assert find_axes(faces(1, 1024, 0.5), 0.0, grid) is None
