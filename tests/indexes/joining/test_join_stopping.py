"""A join can be told to stop in the middle of a tile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from indexes.base import Vectors
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.joining.join import Progress, join_gallery
from indexes.segmented.segments import SegmentedIndex

UnitRows = Callable[..., Vectors]


class Stop(Exception):
    pass


def test_what_its_check_raises_stops_it_within_a_tile_which_is_made_again(
    unit_rows: UnitRows, tmp_path: Path
) -> None:
    gallery = Gallery(SegmentedIndex(64))
    gallery.add(np.arange(4000), unit_rows(4000, 64), 1)
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise Stop

    seen: list[Progress] = []
    scanner = Scanner(threads=1)
    with pytest.raises(Stop):
        join_gallery(
            gallery, 0.4, checkpoint=tmp_path, check=check, progress=seen.append, scanner=scanner
        )
    scanner.close()
    assert [progress.tiles_done for progress in seen] == [0]
    # It went on to others, or it would have been asked three times in all.
    again = join_gallery(gallery, 0.4, checkpoint=tmp_path, check=check)
    assert asked > 4
    assert np.array_equal(again.pairs.records, join_gallery(gallery, 0.4).pairs.records)
    assert len(again.pairs) > 100
