"""References added to a gallery that is there, alone and in a batch; each is then found."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest

from bench.conftest import Clock
from bench.core.reports import Setup
from bench.data.vectors import Faces
from bench.suites.baselines import build_gallery
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery


@pytest.fixture(scope="module")
def faces(pytestconfig: pytest.Config) -> Faces:
    option = pytestconfig.getoption
    references = option("--n") or (20_000 if option("--quick") else 1_000_000)
    return Faces(references, option("--dim"), option("--seed"))


@pytest.fixture(scope="module")
def gallery(faces: Faces) -> Iterator[Gallery]:
    scanner = Scanner()
    yield build_gallery(faces.references, scanner)
    scanner.close()


@pytest.mark.parametrize("batch", [1, 32])
def test_add(
    batch: int, gallery: Gallery, faces: Faces, clock: Clock, pytestconfig: pytest.Config
) -> None:
    rounds = 20 if pytestconfig.getoption("--quick") else 200
    newcomers = faces.newcomers((rounds + 1) * batch)
    first, turn = len(gallery), count()

    def add() -> None:
        start = next(turn) * batch
        ids = np.arange(first + start, first + start + batch)
        gallery.add(ids, newcomers[start : start + batch], gallery.sequence + 1)

    setup: Setup = faces.setup | {"threads": 1}
    clock(
        "Adding to a gallery", f"{batch} at once", add, setup, rounds=rounds, per=batch, unit="us"
    )
    last = first + len(newcomers) - 1
    assert gallery.search(newcomers[-1:], 1).hits.ids.tolist() == [last]
