"""Gallery: the watermark, and what threads see of each other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from indexes.base import Vectors
from indexes.errors import IdInvalid, SequenceInvalid, VectorInvalid
from indexes.flat import FlatIndex
from indexes.gallery import Gallery

UnitRows = Callable[..., Vectors]

BATCH = 8


@pytest.fixture
def gallery(unit_rows: UnitRows) -> Gallery:
    gallery = Gallery(FlatIndex(16))
    gallery.add(np.arange(10), unit_rows(10), sequence=5)
    return gallery


def test_an_answer_states_what_it_was_sought_in(gallery: Gallery, unit_rows: UnitRows) -> None:
    for found in (
        gallery.search(unit_rows(2), 1),
        gallery.range_search(unit_rows(2), 0.99),
    ):
        assert (found.sequence, found.searched) == (5, 10)
        assert found.hits.ids.tolist() == [0, 1]


def test_it_holds_what_its_index_holds(gallery: Gallery, unit_rows: UnitRows) -> None:
    gallery.remove(np.array([4]), sequence=6)
    assert (gallery.sequence, gallery.dim, gallery.kind, len(gallery)) == (6, 16, "flat", 9)
    assert 3 in gallery
    assert 4 not in gallery
    assert gallery.ids.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert np.array_equal(gallery.vectors(np.array([7, 2])), unit_rows(10)[[7, 2]])


@pytest.mark.parametrize("sequence", [5, 4, 0, -1])
def test_a_sequence_that_does_not_grow_is_refused_and_changes_nothing(
    gallery: Gallery, unit_rows: UnitRows, sequence: int
) -> None:
    with pytest.raises(SequenceInvalid):
        gallery.add(np.array([50]), unit_rows(1), sequence)
    with pytest.raises(SequenceInvalid):
        gallery.remove(np.array([1]), sequence)
    assert gallery.ids.tolist() == list(range(10))
    assert gallery.sequence == 5


def test_a_refused_batch_leaves_the_watermark_and_the_lock_free(
    gallery: Gallery, unit_rows: UnitRows
) -> None:
    with pytest.raises(IdInvalid):
        gallery.add(np.array([1]), unit_rows(1), sequence=6)
    with pytest.raises(VectorInvalid):
        gallery.add(np.array([50]), unit_rows(1) * 2, sequence=6)
    with pytest.raises(IdInvalid):
        gallery.remove(np.array([50]), sequence=6)
    with pytest.raises(VectorInvalid):
        gallery.search(unit_rows(1) * 2, 1)
    assert gallery.sequence == 5
    gallery.add(np.array([50]), unit_rows(1), sequence=6)
    assert 50 in gallery


def test_an_empty_batch_moves_the_watermark(gallery: Gallery) -> None:
    gallery.add(np.empty(0, np.int64), np.empty((0, 16), np.float32), sequence=9)
    assert (gallery.sequence, len(gallery)) == (9, 10)


def test_a_loaded_index_starts_at_the_sequence_of_its_store(unit_rows: UnitRows) -> None:
    index = FlatIndex(16)
    index.add(np.arange(10), unit_rows(10))
    assert Gallery(index, sequence=77).search(unit_rows(1), 1).sequence == 77
    with pytest.raises(SequenceInvalid):
        Gallery(index, sequence=-1)


def test_contents_are_a_copy_of_one_moment(gallery: Gallery, unit_rows: UnitRows) -> None:
    contents = gallery.contents()
    gallery.remove(np.arange(10), sequence=6)
    assert contents.sequence == 5
    assert contents.ids.tolist() == list(range(10))
    assert np.array_equal(contents.vectors, unit_rows(10))


def test_a_search_that_starts_after_a_change_returned_sees_all_of_it(unit_rows: UnitRows) -> None:
    """Batches of one face under eight ids: a search finds eight or none, never some."""
    rounds = 300
    faces = unit_rows(rounds, 64, seed=3)
    gallery = Gallery(FlatIndex(64))
    committed = removed = 0
    done = threading.Event()

    def change() -> None:
        nonlocal committed, removed
        try:
            for number in range(rounds):
                ids = np.arange(number * BATCH, (number + 1) * BATCH)
                alike = np.repeat(faces[number : number + 1], BATCH, axis=0)
                gallery.add(ids, alike, gallery.sequence + 1)
                committed = number + 1
                if number % 3 == 2:
                    gallery.remove(ids - 2 * BATCH, gallery.sequence + 1)
                    removed = number - 2 + 1
        finally:
            done.set()

    def search(seed: int) -> int:
        random, searches = np.random.default_rng(seed), 0
        while not done.is_set():
            known, gone, watermark = committed, removed, gallery.sequence
            upto = min(known + 3, rounds)
            number = int(random.integers(max(0, upto - 6), upto))
            query = faces[number : number + 1]
            found = gallery.range_search(query, 0.99)
            assert len(found.hits.ids) in (0, BATCH)
            assert found.searched % BATCH == 0
            assert found.sequence >= watermark
            # Every third face, from the first on, is taken out again two rounds later.
            if number < known and number % 3 != 0:
                assert len(found.hits.ids) == BATCH
            if number % 3 == 0 and number < gone:
                assert len(found.hits.ids) == 0
            searches += 1
        return searches

    with ThreadPoolExecutor(5) as pool:
        searchers = [pool.submit(search, seed) for seed in range(4)]
        pool.submit(change).result()
        assert all(searcher.result() > 0 for searcher in searchers)
    assert len(gallery) == BATCH * (rounds - rounds // 3)
