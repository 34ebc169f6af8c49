"""Upkeep runs jobs when they are due and survives failures."""

import logging

import numpy as np

from indexes.base import Positions, Vectors
from indexes.exact.exact8 import MemoryRows
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from indexes.sharding.shards import ShardPlan
from indexes.upkeep import Upkeep
from tests.indexes.sharding.local_shards import open_local
from tests.waiting import wait_until

SCANNER = Scanner(threads=1)
WAIT_S = 300


class SickRows(MemoryRows):
    """Rows that cannot be read until they are healed."""

    is_healed = False

    def take(self, rows: Positions) -> Vectors:
        if not self.is_healed:
            raise OSError("row 7 of /secret/path")
        return super().take(rows)


def build(index_rows: Vectors, **config: float) -> tuple[Gallery, SegmentedIndex]:
    index = SegmentedIndex(16, SegmentsConfig(head_rows=16, **config), scanner=SCANNER)
    gallery = Gallery(index)
    if len(index_rows):
        gallery.add(np.arange(len(index_rows)), index_rows, sequence=1)
    return gallery, index


def test_full_heads_are_sealed_and_segments_merged(unit_rows) -> None:
    gallery, index = build(unit_rows(0), fan=2)
    rows = unit_rows(400)
    with Upkeep(gallery):
        for start in range(0, 400, 4):
            ids = np.arange(start, start + 4)
            gallery.add(ids, rows[start : start + 4], sequence=start + 1)
        wait_until(lambda: len(index.heads) == 1 and sum(map(len, index.segments)) == 400)
        wait_until(lambda: len(index.segments) <= 5)
    assert gallery.search(rows, 1).hits.ids.tolist() == list(range(400))


def test_what_was_due_before_it_began_is_done(unit_rows) -> None:
    gallery, index = build(unit_rows(20))
    assert len(index.heads) == 2
    with Upkeep(gallery):
        wait_until(lambda: len(index.heads) == 1)


def test_a_deadline_is_kept_while_nothing_changes(unit_rows) -> None:
    gallery, index = build(unit_rows(100), erasure_deadline_s=0.2, dead_share=0.9)
    with Upkeep(gallery):
        gallery.remove(np.array([3]), sequence=2)
        wait_until(lambda: index.removed_since == {})
    assert 3 not in index.segments[0].row_ids


def test_a_failed_job_is_logged_without_its_content_and_tried_again(unit_rows, caplog) -> None:
    gallery, index = build(unit_rows(100), erasure_deadline_s=0)
    sick = SickRows(index.segments[0].rows.take(np.arange(100)))
    gallery.replace_rows(index.segments[0].name, sick)
    with caplog.at_level(logging.WARNING), Upkeep(gallery, retry_after_s=0.01) as upkeep:
        gallery.remove(np.array([3]), sequence=2)
        wait_until(lambda: len(caplog.records) >= 2)
        assert upkeep.fault == "upkeep of the gallery fails (OSError)"
        assert gallery.search(unit_rows(1), 1).hits.ids.tolist() == [0]
        sick.is_healed = True
        wait_until(lambda: index.removed_since == {} and upkeep.fault is None)
    assert "upkeep of the gallery failed (OSError)" in caplog.text
    assert "secret" not in caplog.text


def test_it_ends_at_once_and_an_index_without_segments_is_left_alone(unit_rows) -> None:
    with open_local(ShardPlan(16, threads=1), 2) as index:
        gallery = Gallery(index)
        with Upkeep(gallery):
            gallery.add(np.arange(5), unit_rows(5), sequence=1)
            gallery.remove(np.arange(2), sequence=2)
        assert len(gallery) == 3
        Upkeep(gallery).close()
