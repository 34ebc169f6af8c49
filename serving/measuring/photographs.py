"""What a pair of photographs costs one core, alone and eight pairs at once: as an ingress works."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from engine.accuracy.labelled import SUFFIXES
from engine.capacity.costs import PAIRS_AT_ONCE
from engine.capacity.figures import Quantity
from engine.errors import RequestError
from engine.faces.extractor import Extraction
from serving.models import build_extractor, open_embedder

if TYPE_CHECKING:
    from engine.faces.extractor import Extractor
    from serving.settings import Settings

ROUNDS = 5
SIDE_PX = 250
"""Of the pictures that are made here: as large as those of LFW."""
_FACE = (slice(0, SIDE_PX), slice(100, 100 + SIDE_PX))
_MOST_READ = 64


def measure_photographs(
    settings: Settings, cache: Path, folder: Path | None, rounds: int = ROUNDS
) -> tuple[dict[Quantity, float], str]:
    """Core-seconds of a pair, and of what pictures; `RequestError` where the folder has none."""
    images, source = _find_images(folder)
    pair, batch = images[:2], list(islice(cycle(images), 2 * PAIRS_AT_ONCE))
    with build_extractor(settings, cache, threads=1) as extractor:
        extractor.extract(pair)
        alone_s = _time(lambda: extractor.extract(pair), rounds)
        share_s = _time(lambda: extractor.extract(batch), rounds) / PAIRS_AT_ONCE
        faceless = _count_faceless(extractor, batch)
    if faceless:
        # Without a face nothing was embedded, which takes most of the time.
        lone_s, together_s = _time_embedding(settings, cache, rounds)
        missing = faceless / len(batch)
        alone_s, share_s = alone_s + missing * lone_s, share_s + missing * together_s
        source += f", {faceless} of {len(batch)} without a face: embedding timed apart"
    return {Quantity.PAIR_ALONE: alone_s, Quantity.PAIR: share_s}, source


def _find_images(folder: Path | None) -> tuple[list[bytes], str]:
    if folder is not None:
        return _read_folder(folder), f"photographs of {folder.name}"
    try:
        from skimage import data  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        return [_draw_picture(seed) for seed in range(2)], "drawn pictures (no scikit-image here)"
    portrait = np.asarray(data.astronaut())[_FACE]
    lit = [np.clip(portrait * light, 0, 255).astype(np.uint8) for light in (0.9, 1.0, 1.1)]
    return [_encode(one) for one in lit], f"a portrait, {SIDE_PX} px"


def _read_folder(folder: Path) -> list[bytes]:
    if not folder.is_dir():
        raise RequestError(f"{folder} is not a folder: name one with photographs of faces")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(paths) < 2:
        raise RequestError(f"{folder} has fewer than two photographs: name one with .jpg or .png")
    return [path.read_bytes() for path in paths[:_MOST_READ]]


def _draw_picture(seed: int) -> bytes:
    """Patches of grey: a detector looks twice, and finds nothing."""
    patches = np.random.default_rng(seed).integers(0, 256, (10, 10), dtype=np.uint8)
    side = SIDE_PX // 10
    grey = np.kron(patches, np.ones((side, side), np.uint8))
    return _encode(np.repeat(grey[:, :, None], 3, axis=2))


def _encode(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _count_faceless(extractor: Extractor, images: Sequence[bytes]) -> int:
    found = extractor.extract(images)
    if not all(isinstance(one, Extraction) for one in found):
        raise RequestError("a photograph cannot be read: name a folder with sound ones")
    return sum(isinstance(one, Extraction) and one.vector is None for one in found)


def _time_embedding(settings: Settings, cache: Path, rounds: int) -> tuple[float, float]:
    """Seconds of a pair alone, and of one of eight, crops already made, on one core."""
    embedder = open_embedder(settings, cache)
    crops = np.zeros((2 * PAIRS_AT_ONCE, embedder.side_px, embedder.side_px, 3), np.uint8)
    embedder.embed(crops[:2])
    alone_s = _time(lambda: embedder.embed(crops[:2]), rounds)
    return alone_s, _time(lambda: embedder.embed(crops), rounds) / PAIRS_AT_ONCE


def _time(action: Callable[[], object], rounds: int) -> float:
    """Seconds: the median of the rounds."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))
