"""What a pair of photographs costs one core, alone and eight pairs at once: as an ingress works."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
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
from serving.measuring.stopwatch import time_call
from serving.models import build_extractor, open_embedder

if TYPE_CHECKING:
    from engine.faces.extractor import Extractor
    from serving.settings import Settings

ROUNDS = 5
SIDE_PX = 250
"""Of the pictures that are made here: as large as those of LFW."""
_FACE = (slice(0, SIDE_PX), slice(100, 100 + SIDE_PX))
_SET = 2 * PAIRS_AT_ONCE
"""Photographs that are timed together: eight pairs."""


def measure_photographs(
    settings: Settings, cache: Path, folder: Path | None, rounds: int = ROUNDS
) -> tuple[dict[Quantity, float], str]:
    """Core-seconds of a pair, and of what pictures; `RequestError` where the folder has none.

    Each round takes the next eight pairs, once one by one and once together.
    """
    images, source = _find_images(folder, rounds * _SET)
    turns = cycle(images)
    sets = [list(islice(turns, _SET)) for _ in range(rounds)]
    alone, together, faceless = [], [], 0
    with build_extractor(settings, cache, threads=1) as extractor:
        for photographs in sets:
            # Before it is timed: the first call of a process takes longer.
            faceless += _count_faceless(extractor, photographs)
            alone.append(time_call(partial(_extract_by_pairs, extractor, photographs)))
            together.append(time_call(partial(extractor.extract, photographs)))
    alone_s, share_s = (float(np.median(times)) / PAIRS_AT_ONCE for times in (alone, together))
    if faceless:
        # Without a face nothing was embedded, which takes most of the time.
        lone_s, together_s = _time_embedding(settings, cache, rounds)
        missing = faceless / (rounds * _SET)
        alone_s, share_s = alone_s + missing * lone_s, share_s + missing * together_s
        source += f", {faceless} of {rounds * _SET} without a face: embedding timed apart"
    return {Quantity.PAIR_ALONE: alone_s, Quantity.PAIR: share_s}, source


def _find_images(folder: Path | None, most: int) -> tuple[list[bytes], str]:
    if folder is not None:
        return _read_folder(folder, most), f"photographs of {folder.name}"
    try:
        from skimage import data  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        return [_draw_picture(seed) for seed in range(2)], "drawn pictures (no scikit-image here)"
    portrait = np.asarray(data.astronaut())[_FACE]
    lit = [np.clip(portrait * light, 0, 255).astype(np.uint8) for light in (0.9, 1.0, 1.1)]
    return [_encode(one) for one in lit], f"a portrait, {SIDE_PX} px"


def _read_folder(folder: Path, most: int) -> list[bytes]:
    if not folder.is_dir():
        raise RequestError(f"{folder} is not a folder: name one with photographs of faces")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(paths) < 2:
        raise RequestError(f"{folder} has fewer than two photographs: name one with .jpg or .png")
    return [path.read_bytes() for path in paths[:most]]


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


def _extract_by_pairs(extractor: Extractor, images: Sequence[bytes]) -> None:
    for start in range(0, len(images), 2):
        extractor.extract(images[start : start + 2])


def _count_faceless(extractor: Extractor, images: Sequence[bytes]) -> int:
    found = extractor.extract(images)
    if not all(isinstance(one, Extraction) for one in found):
        raise RequestError("a photograph cannot be read: name a folder with sound ones")
    return sum(isinstance(one, Extraction) and one.vector is None for one in found)


def _time_embedding(settings: Settings, cache: Path, rounds: int) -> tuple[float, float]:
    """Seconds of a pair alone, and of one of eight, crops already made, on one core."""
    embedder = open_embedder(settings, cache)
    crops = np.zeros((_SET, embedder.side_px, embedder.side_px, 3), np.uint8)
    embedder.embed(crops[:2])
    alone_s, together_s = (
        float(np.median([time_call(partial(embedder.embed, some)) for _ in range(rounds)]))
        for some in (crops[:2], crops)
    )
    return alone_s, together_s / PAIRS_AT_ONCE
