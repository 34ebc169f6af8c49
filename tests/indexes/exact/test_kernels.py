"""The kernels compute the sums of numpy, at the extremes too, in vectorised code."""

from functools import partial
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.exact import scans
from indexes.exact.codes import Codes, no_plane
from indexes.exact.device import DeviceScanner
from indexes.exact.kernels import HIGHEST, LOWEST, STRETCH, Found, Rows, Wanted
from indexes.exact.scanner import ProductScan, has_amx, has_product, has_vnni
from indexes.exact.scans import Scan, pack
from tests.indexes.conftest import KERNELS, make_plane, open_kernel


def scan_blocks(scan: Any, width: int, rows: Rows, wanted: Wanted, *where: Any) -> int:
    """Narrow blocks are for so many queries at once."""
    (*stretches, found), kept = where, 0
    at_once = width if width < 32 else len(wanted.codes)
    for start in range(0, len(wanted.codes), at_once):
        some, part = Wanted(*(each[start : start + at_once] for each in wanted)), found[kept:]
        count = scan(pack(some.codes, width), rows, some, *stretches, part)
        part[:count, 1] += start
        kept += count
    return kept


SCANS: dict[str, Scan] = {"plain": scans.scan_plain}
if has_vnni():
    SCANS |= {
        f"vnni by {width}": partial(scan_blocks, scans.scan_vnni, width) for width in (8, 16, 32)
    }
    SCANS |= {
        "few by bytes": lambda rows, *rest: scans.scan_few_vnni(
            rows._replace(plane=no_plane()), *rest
        ),
        "few by the plane": lambda rows, *rest: scans.scan_few_vnni(
            rows._replace(plane=make_plane(rows.codes, rows.codes.shape[1])), *rest
        ),
    }
if has_amx():
    SCANS |= {"amx": partial(scan_blocks, scans.scan_amx, 32)}
if has_product():
    SCANS |= {"product": ProductScan()}


def scan_on_device(rows: Rows, wanted: Wanted, first: int, last: int, found: Found) -> int:
    device = DeviceScanner(np, threads=1)
    kept = device._scan(
        device._send(rows.codes), scans.scan_plain, rows, wanted, first, last, found
    )
    assert device.fault is None
    return kept


SCANS |= {"device": scan_on_device}


def scanned(scan: Scan, rows: Rows, wanted: Wanted) -> Found:
    room = np.empty((len(rows.codes) * len(wanted.codes), 3), np.int32)
    kept = scan(rows, wanted, 0, len(rows.reach), room)
    found = room[:kept]
    return found[np.lexsort((found[:, 1], found[:, 0]))]


def wanted_at(codes: np.ndarray, levels: np.ndarray, margin: float = 0.0, k: int = 0) -> Wanted:
    padded = np.full(-(-len(codes) // 32) * 32, LOWEST, np.int32)
    padded[: len(codes)] = levels
    count = len(codes)
    heaps, nothing = np.full((count, k), LOWEST, np.int32), np.zeros(count)
    base, slope = np.full(count, margin), np.ones(count)
    return Wanted(codes, base, slope, padded, heaps, nothing, nothing.astype(np.int64))


def rows_of(codes: np.ndarray, alive: np.ndarray) -> Rows:
    none = np.zeros(-(-len(codes) // STRETCH))
    return Rows(codes, alive, none, no_plane(), codes.shape[1], none)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    blocks=st.integers(1, 70),
    queries=st.integers(1, 140),
    steps=st.sampled_from([1, 2, 3, 8, 16]),
    extreme=st.booleans(),
    share=st.sampled_from([0.0, 0.001, 0.5, 1.0]),
)
def test_every_kernel_keeps_the_pairs_that_numpy_finds(
    seed: int, blocks: int, queries: int, steps: int, extreme: bool, share: float
) -> None:
    random = np.random.default_rng(seed)
    shape = (32 * blocks, 64 * steps)
    if extreme:
        codes = random.choice(np.array([0, 1, 255], np.uint8), shape)
        factors = random.choice(np.array([-128, -127, 127], np.int8), (queries, shape[1]))
    else:
        codes = random.integers(0, 256, shape, np.uint8)
        factors = random.integers(-128, 128, (queries, shape[1]), np.int8)
    alive = random.random(len(codes)) < 0.9
    sums = (codes.astype(np.float64) @ factors.T.astype(np.float64)).astype(np.int64)
    place = int((1 - share) * (len(codes) - 1))
    levels = np.sort(sums, axis=0)[place]
    # A margin of 3.x is cut to 3, and 2 are added.
    expected = np.argwhere((sums >= levels - 5) & alive[:, None])
    for name, scan in SCANS.items():
        found = scanned(scan, rows_of(codes, alive), wanted_at(factors, levels, 3.4))
        assert np.array_equal(found[:, :2], expected), name
        assert np.array_equal(found[:, 2], sums[expected[:, 0], expected[:, 1]] + 5), name


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("k", [1, 3, 50])
def test_levels_rise_and_the_best_are_kept(name: str, k: int) -> None:
    random = np.random.default_rng(k)
    codes = random.integers(0, 256, (4096, 64), np.uint8)
    factors = random.integers(-127, 128, (40, 64), np.int8)
    sums = codes.astype(np.int64) @ factors.T.astype(np.int64)
    wanted = wanted_at(factors, np.full(40, LOWEST), 100.0, k)
    found = scanned(SCANS[name], rows_of(codes, np.ones(4096, np.bool_)), wanted)
    best = np.sort(sums, axis=0)[-k]
    assert np.array_equal(wanted.levels[:40], best - 102)
    assert np.array_equal(np.sort(wanted.heaps, axis=1), np.sort(sums, axis=0)[-k:].T - 102)
    kept = {(row, query) for row, query, _ in found.tolist()}
    assert {tuple(pair) for pair in np.argwhere(sums >= best).tolist()} <= kept
    assert len(kept) < sums.size / 4


@pytest.mark.skipif(not has_vnni(), reason="no AVX-512 VNNI on this processor")
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.sampled_from([128, 512]),
    blocks=st.integers(1, 150),
    k=st.sampled_from([1, 10, 64, 65]),
    near=st.sampled_from([0, 30, 400]),
)
def test_half_bytes_find_the_best_that_numpy_finds(
    seed: int, dim: int, blocks: int, k: int, near: int
) -> None:
    random = np.random.default_rng(seed)
    # As the codes of a segment are distributed; some rows are near the first query.
    factors = random.normal(0, 28, (3, dim))
    values = random.normal(0, 28, (32 * blocks, dim))
    values[:near] = 0.8 * factors[0] + 0.6 * values[:near]
    codes = np.clip(np.rint(values) + 128, 1, 255).astype(np.uint8)
    signed = np.clip(np.rint(factors), -127, 127).astype(np.int8)
    alive = random.random(len(codes)) < 0.8
    sums = np.where(alive[:, None], codes.astype(np.int64) @ signed.T.astype(np.int64), LOWEST)
    wanted = wanted_at(signed, np.full(3, LOWEST), 500.0, k)
    found = scanned(SCANS["few by the plane"], rows_of(codes, alive), wanted)
    best = np.sort(np.vstack([np.full((k, 3), LOWEST + 502), sums]), axis=0)[-k]
    assert np.array_equal(wanted.levels[:3], best - 502)
    kept = {(row, query) for row, query, total in found.tolist() if total >= wanted.levels[query]}
    expected = np.argwhere(alive[:, None] & (sums + 502 >= best - 502))
    assert kept == {tuple(pair) for pair in expected.tolist()}


def test_half_bytes_are_within_a_right_angle_of_every_code_as_their_bound_presumes() -> None:
    codes = np.repeat(np.arange(256, dtype=np.uint8), 8)[:, None] * np.ones(64, np.uint8)
    assert ((make_plane(codes, 64).lengths > 0) == (np.arange(256) != 128)).all()
    for wanted in (0, -1):
        with pytest.raises(AssertionError, match="right angle"):
            scans._turn(wanted, 100.0, 100.0)


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("level", [-(2**31) + 200, LOWEST, HIGHEST, 2**31 - 1])
def test_no_sum_overflows_beside_an_extreme_level(name: str, level: int) -> None:
    # The greatest and the least sums that the dimensions allow.
    codes = np.zeros((64, 16_384), np.uint8)
    codes[::2] = 255
    factors = np.repeat(np.array([[127], [-128]], np.int8), 16_384, axis=1)
    wanted = wanted_at(factors, np.full(2, level))
    found = scanned(SCANS[name], rows_of(codes, np.ones(64, np.bool_)), wanted)
    assert len(found) == (128 if level <= LOWEST else 0)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("queries", [1, 3, 70])
def test_threads_that_raise_levels_together_keep_the_best_of_all(kernel: str, queries: int) -> None:
    random = np.random.default_rng(queries)
    codes = random.integers(0, 256, (48 * STRETCH, 64), np.uint8)
    factors = random.integers(-127, 128, (queries, 64), np.int8)
    sums = codes.astype(np.float64) @ factors.T.astype(np.float64)
    held = Codes.restore(codes, np.zeros(len(codes), np.float32), 64, 0.4)
    expected = None
    for threads in (1, 4):
        scanner = open_kernel(kernel, threads)
        levels = np.full(queries, LOWEST)
        alive = np.ones(len(codes), np.bool_)
        found = scanner.gather_best(held, alive, wanted_at(factors, levels, 20.0, 10))
        scanner.close()
        kept = {(row, query) for row, query, _ in found.tolist()}
        best = np.sort(sums, axis=0)[-10]
        assert {tuple(pair) for pair in np.argwhere(sums >= best).tolist()} <= kept
        # The result does not depend on the order of the threads.
        expected = expected or kept
        assert kept == expected


@pytest.mark.skipif(not has_vnni(), reason="no AVX-512 VNNI on this processor")
def test_the_kernels_use_the_instructions_they_are_written_for() -> None:
    codes, factors = np.zeros((32, 64), np.uint8), np.zeros((1, 64), np.int8)
    rows, wanted = rows_of(codes, np.ones(32, np.bool_)), wanted_at(factors, np.zeros(1))
    packed = pack(factors, 32)
    kernels = [(scans.scan_few_vnni, (), "vpdpbusd"), (scans.scan_vnni, (packed,), "vpdpbusd")]
    if has_amx():
        kernels.append((scans.scan_amx, (packed,), "tdpbusd"))
    for scan, blocks, instruction in kernels:
        # Compiled again: code from the cache can't be disassembled.
        made = numba.njit(nogil=True)(scan.py_func)  # type: ignore[attr-defined]
        made(*blocks, rows, wanted, 0, 1, np.empty((32, 3), np.int32))
        assembly = "\n".join(made.inspect_asm().values())
        assert instruction in assembly
        assert "zmm" in assembly


@pytest.mark.skipif(not has_product(), reason="no onnxruntime")
def test_the_product_is_exact_with_unsigned_queries_too() -> None:
    random = np.random.default_rng(0)
    codes = random.choice(np.array([0, 255], np.uint8), (100, 256))
    queries = random.choice(np.array([-128, 127], np.int8), (20, 256))
    product = ProductScan()
    expected = codes.astype(np.int64) @ queries.T.astype(np.int64)
    assert np.array_equal(product.multiply(codes, queries), expected)
    saturating = ProductScan()
    saturating._signed = False
    assert np.array_equal(saturating.multiply(codes, queries), expected)
