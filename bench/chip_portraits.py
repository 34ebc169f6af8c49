"""What portraits as chips hold them lose, by size and compression: photographs against them.

`python -m bench.chip_portraits [--faces DIR] [--people N]` prints a table. Of each person with two
photographs the first is the live one, the second becomes the portrait: its middle, as wide as a
document's, resampled and compressed. *Lost* are pairs below the threshold of `verify`, *silent*
those of them where no reason was told, *needless* those that were sent back and would have matched.
The limits of `PhotographKind.CHIP` follow from it.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from bench.data.photographs import find_faces
from engine.faces.extractor import Extracted, Extraction, open_extractor
from engine.matching.calibration import Calibration, Comparison
from engine.models.catalog import builtin_card
from engine.reasons import PhotographKind

FMR = 1e-4
SIZES_PX = ((102, 126), (128, 158), (153, 189), (204, 252))
RATIOS = (0, 10, 20, 40)
"""Compression, of 24 bits a pixel; 0: none."""


def make_portrait(photograph: bytes, size_px: tuple[int, int], ratio: int) -> bytes:
    """The middle of a photograph as a JPEG 2000 codestream of this size."""
    picture = Image.open(io.BytesIO(photograph)).convert("RGB")
    width, height = picture.size
    part = round(height * size_px[0] / size_px[1])
    left = (width - part) // 2
    small = picture.crop((left, 0, left + part, height)).resize(size_px, Image.Resampling.LANCZOS)
    lossy = {"irreversible": True, "quality_mode": "rates", "quality_layers": [ratio]}
    file = io.BytesIO()
    small.save(file, "JPEG2000", no_jp2=True, **(lossy if ratio else {}))
    return file.getvalue()


def describe(name: str, live: Sequence[Extracted], made: Sequence[Extracted], verify: float) -> str:
    """A row of the table; pairs whose live photograph is unfit are left out."""
    pairs = [
        (one.vector, other)
        for one, other in zip(live, made, strict=True)
        if isinstance(one, Extraction) and one.vector is not None and not one.problems
        if isinstance(other, Extraction)
    ]
    is_told = np.array([bool(other.problems) for _, other in pairs])
    is_lost = np.array(
        [other.vector is None or float(one @ other.vector) < verify for one, other in pairs]
    )
    detail = [other.quality.detail_bytes for _, other in pairs if other.quality is not None]
    eyes = [other.quality.inter_eye_px for _, other in pairs if other.quality is not None]
    shares = (is_lost, is_lost & ~is_told, is_told & ~is_lost)
    figures = " ".join(f"{100 * share.mean():8.2f}" for share in shares)
    return f"{name:16} {len(pairs):6} {figures} {np.median(eyes):9.1f} {np.median(detail):8.0f}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--faces", type=Path)
    options.add_argument("--people", type=int, default=400)
    given = options.parse_args()
    folders = sorted(one for one in find_faces(given.faces).iterdir() if one.is_dir())
    shown = [sorted(folder.glob("*.jpg"))[:2] for folder in folders]
    pairs = [pair for pair in shown if len(pair) == 2]
    pairs = pairs[:: max(1, len(pairs) // given.people)][: given.people]
    first, second = ([pair[place].read_bytes() for pair in pairs] for place in (0, 1))
    card = builtin_card("sface")
    assert card.calibration_path is not None
    with open_extractor() as extractor:
        calibration = Calibration.load(card.calibration_path, extractor.model_digest)
        verify = calibration.threshold_at(FMR, Comparison.ONE_TO_ONE)
        live = extractor.extract(first)
        say(f"verify {verify:.3f}")
        say(
            f"{'portraits':16} {'pairs':>6} {'lost %':>8} {'silent':>8} {'needless':>8} "
            f"{'eyes px':>9} {'detail B':>8}"
        )
        say(describe("as they are", live, extractor.extract(second), verify))
        for size_px in SIZES_PX:
            for ratio in RATIOS:
                made = [make_portrait(one, size_px, ratio) for one in second]
                found = extractor.extract(made, [PhotographKind.CHIP] * len(made))
                name = f"{size_px[0]} x {size_px[1]} " + (f"1:{ratio}" if ratio else "")
                say(describe(name, live, found, verify))


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
