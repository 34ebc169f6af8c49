"""Pairs of photographs to measure with: LFW's where it is, else made from a wheel's portrait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from engine.accuracy.dataset import LabelledFolder
from engine.errors import RequestError, advise_extra

LFW = Path(__file__).parents[3] / "shared" / "lfw"
"""Beside the checkout; an installed package has none."""
ASTRONAUT_FACE = (slice(0, 250), slice(100, 350))
LARGEST_SHIFT_PX = 20


@dataclass(frozen=True, slots=True)
class PhotographPairs:
    """Files, two and two; `source` says what they show."""

    pairs: tuple[tuple[Path, Path], ...]
    source: str

    @property
    def photographs(self) -> tuple[Path, ...]:
        return tuple(path for pair in self.pairs for path in pair)


def find_faces(given: Path | None) -> Path:
    """The folder given, else LFW's; raises `RequestError` where there is none."""
    folder = given or LFW / "images"
    if not folder.is_dir():
        raise RequestError(f"no photographs in {folder}: give a folder in LFW's layout as --faces")
    return folder


@contextmanager
def open_pairs(faces: Path | None, count: int, seed: int) -> Iterator[PhotographPairs]:
    """So many pairs: of a folder in LFW's layout, else of astronaut portraits made for this run."""
    if faces is not None or (LFW / "images").is_dir():
        yield _draw_pairs(find_faces(faces), count, seed)
        return
    with TemporaryDirectory(prefix="sosie-bench-") as folder:
        yield _make_portraits(Path(folder), count, seed)


def _draw_pairs(faces: Path, count: int, seed: int) -> PhotographPairs:
    """Any two photographs are a pair."""
    folder = LabelledFolder.open(faces)
    rows = np.random.default_rng(seed).integers(0, len(folder.paths), (count, 2))
    pairs = tuple((folder.paths[one], folder.paths[two]) for one, two in rows)
    return PhotographPairs(pairs, f"{faces.parent.name}/{faces.name}")


def _make_portraits(folder: Path, count: int, seed: int) -> PhotographPairs:
    """250x250 JPEGs of one portrait, shifted and lit differently: the work of LFW, one face."""
    try:
        import skimage.data
    except ImportError as error:
        raise RequestError(
            f"no photographs: give --faces, or {advise_extra('demo')} for a portrait"
        ) from error
    from PIL import Image

    rng = np.random.default_rng(seed)
    portrait = np.asarray(skimage.data.astronaut())
    paths = []
    for number in range(2 * count):
        down, right = rng.integers(0, LARGEST_SHIFT_PX + 1, 2)
        rows, columns = ASTRONAUT_FACE
        crop = portrait[
            rows.start + down : rows.stop + down, columns.start + right : columns.stop + right
        ]
        lit = np.clip(crop * rng.uniform(0.8, 1.2), 0, 255).astype(np.uint8)
        path = folder / f"{number:05d}.jpg"
        Image.fromarray(lit).save(path, quality=90)
        paths.append(path)
    pairs = tuple(zip(paths[::2], paths[1::2], strict=True))
    return PhotographPairs(pairs, "scikit-image astronaut, shifted and lit (LFW is not here)")
