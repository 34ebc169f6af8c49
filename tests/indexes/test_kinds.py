"""Every kind by its name: opened, put behind a gallery, refused where it is none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from indexes.approximate.faiss_kinds import (
    FastScanConfig,
    FastScanIndex,
    HnswConfig,
    IvfConfig,
    IvfIndex,
    count_lists,
)
from indexes.approximate.index import ApproximateConfig
from indexes.base import Vectors
from indexes.errors import IndexFault, KindInvalid, SearchInvalid, VectorInvalid
from indexes.flat import FlatIndex
from indexes.gallery import Gallery
from indexes.kinds import APPROXIMATE_KINDS, KINDS, open_index
from indexes.segmented.merging import SegmentsConfig

UnitRows = Callable[..., Vectors]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_opens_by_its_name_and_serves_a_gallery(kind: str, unit_rows: UnitRows) -> None:
    rows = unit_rows(3000, 64)
    gallery = Gallery(open_index(kind, 64))
    flat = FlatIndex(64)
    gallery.add(np.arange(3000), rows, 1)
    gallery.remove(np.arange(10), 2)
    flat.add(np.arange(10, 3000), rows[10:])
    assert (gallery.kind, gallery.dim, len(gallery)) == (kind, 64, 2990)
    found, truth = gallery.search(rows[:50], 5).hits, flat.search(rows[:50], 5)
    assert np.array_equal(found.ids, truth.ids), "exact, for approximate kinds still compare all"
    assert np.array_equal(found.scores, truth.scores)
    account = gallery.account()
    assert account.references == 2990
    assert 256 < account.bytes_per_reference < 512


def test_a_config_reaches_its_kind(unit_rows: UnitRows) -> None:
    index = open_index("fastscan", 64, FastScanConfig(least_rows=1000))
    index.add(np.arange(1000), unit_rows(1000, 64))
    assert index.account().codes > 0  # type: ignore[attr-defined]
    index = open_index("exact8", 64, SegmentsConfig(rows="float16"))
    row = unit_rows(1, 64)
    index.add(np.arange(1), row)
    assert np.array_equal(index.vectors(np.arange(1)), row.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("kind", ["", "EXACT8", "lsh", None])
def test_an_unknown_kind_is_refused_with_the_known_ones(kind: str) -> None:
    with pytest.raises(KindInvalid, match="exact8, flat, fastscan, ivf, hnsw"):
        open_index(kind, 64)


@pytest.mark.parametrize("kind", KINDS)
def test_the_config_of_another_kind_is_refused(kind: str) -> None:
    for config in (SegmentsConfig(), IvfConfig(), FastScanConfig()):
        own = {"exact8": SegmentsConfig, "ivf": IvfConfig, "fastscan": FastScanConfig}.get(kind)
        if type(config) is not own:
            with pytest.raises(KindInvalid, match=kind):
                open_index(kind, 64, config)


def test_the_names_load_no_index() -> None:
    script = (
        "import sys; import indexes.kinds; print({'faiss', 'numba', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
    assert set(APPROXIMATE_KINDS) < set(KINDS)


@pytest.mark.parametrize("kind", [FastScanIndex, IvfIndex])
def test_a_dim_that_codes_of_two_do_not_fill_is_refused(kind: Callable[[int], object]) -> None:
    for dim in (0, 1, 33):
        with pytest.raises(VectorInvalid):
            kind(dim)


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0.0},
        {"threshold": float("nan")},
        {"candidates": 0},
        {"least_rows": 999},
        {"tail_rows": 0},
        {"dead_share": 0.0},
        {"dead_share": 1.0},
        {"training_rows": 10},
    ],
)
def test_a_config_by_which_nothing_works_is_refused(wrong: dict[str, float]) -> None:
    for config in (ApproximateConfig(), FastScanConfig(), IvfConfig(), HnswConfig()):
        with pytest.raises(IndexFault):
            replace(config, **wrong)


def test_a_breadth_of_nothing_is_refused() -> None:
    for wrong in ({"links": 1}, {"building_breadth": 0}, {"search_breadth": 0}):
        with pytest.raises(SearchInvalid):
            HnswConfig(**wrong)
    with pytest.raises(SearchInvalid):
        IvfConfig(probed_lists=0)


def test_lists_are_never_too_many_to_learn() -> None:
    for rows in (1000, 10_000, 100_000, 10**6, 10**9):
        assert 64 * count_lists(rows) <= rows
    assert count_lists(10**6) == 4000
    assert count_lists(10**10) == 65_536
