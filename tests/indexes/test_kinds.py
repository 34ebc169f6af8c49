"""Index kinds open by name; unknown names are refused."""

import numpy as np
import pytest

from indexes.errors import KindInvalid
from indexes.flat import FlatIndex
from indexes.gallery import Gallery, Standing
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import KINDS, open_index


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_opens_by_its_name_and_serves_a_gallery(kind: str, unit_rows) -> None:
    rows = unit_rows(3000, 64)
    gallery = Gallery(open_index(kind, 64))
    flat = FlatIndex(64)
    gallery.add(np.arange(3000), rows, 1)
    gallery.remove(np.arange(10), 2)
    flat.add(np.arange(10, 3000), rows[10:])
    assert (gallery.kind, gallery.dim, len(gallery)) == (kind, 64, 2990)
    assert gallery.look() == Standing(sequence=2, size=2990, coming=None)
    found, truth = gallery.search(rows[:50], 5).hits, flat.search(rows[:50], 5)
    assert np.array_equal(found.ids, truth.ids)
    assert np.array_equal(found.scores, truth.scores)
    account = gallery.account()
    assert account.references == 2990
    assert 256 < account.bytes_per_reference < 512


def test_a_config_reaches_its_kind(unit_rows) -> None:
    index = open_index("exact8", 64, SegmentsConfig(rows="float16"))
    row = unit_rows(1, 64)
    index.add(np.arange(1), row)
    assert np.array_equal(index.vectors(np.arange(1)), row.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("kind", ["", "EXACT8", "ivf", None])
def test_an_unknown_kind_is_refused_with_the_known_ones(kind: str) -> None:
    with pytest.raises(KindInvalid, match="exact8, flat"):
        open_index(kind, 64)
