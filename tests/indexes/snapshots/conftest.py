"""A saved gallery of five segments, and helpers for the files on the disk."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.registry.keyring import KeyRing
from engine.registry.vault import Vault
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from indexes.snapshots import snapshot
from indexes.snapshots.manifest import Origin, Sealer
from indexes.snapshots.snapshot import Opening

DIM = 16
ORIGIN = Origin("exact8", DIM, model_digest="5face", key_id="key-1", deployment_id="here")
SCANNER = Scanner()
# No merging here, so that a test knows which segments there are.
CONFIG = SegmentsConfig(head_rows=16, fan=100)
OPENING = Opening(CONFIG, SCANNER)
MAPPED = replace(OPENING, mapped=True)
RING = KeyRing.generate()
SEALER = Vault(RING, DIM).sealer()


@pytest.fixture
def gallery(unit_rows) -> Gallery:
    """Segments of the ids 0-15, 16-31, 32-47 and 48-63, and 64-69 in the head."""
    made = Gallery(SegmentedIndex(DIM, CONFIG, scanner=SCANNER))
    rows = unit_rows(70)
    for start in range(0, 70, 16):
        ids = np.arange(start, min(start + 16, 70))
        made.add(ids, rows[ids], made.sequence + 1)
        made.settle()
    assert len(made.pin().segments) == 5
    return made


@pytest.fixture
def folder(tmp_path, gallery) -> Path:
    snapshot.save(tmp_path / "gallery", gallery, ORIGIN, SEALER)
    return tmp_path / "gallery"


def load(folder: Path, opening: Opening = OPENING, sealer: Sealer = SEALER) -> Gallery:
    return snapshot.load(folder, ORIGIN, sealer, opening=opening)


def named(folder: Path, kind: str) -> set[str]:
    return {path.name for path in folder.glob(f"{kind}-*")}


def add(gallery: Gallery, first: int, count: int) -> None:
    rows = np.random.default_rng(first).standard_normal((count, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    gallery.add(np.arange(first, first + count), rows, gallery.sequence + 1)


def assert_same(loaded: Gallery, gallery: Gallery) -> None:
    assert loaded.sequence == gallery.sequence
    assert np.array_equal(loaded.ids, gallery.ids)
    assert np.array_equal(loaded.vectors(loaded.ids), gallery.vectors(gallery.ids))
