"""What degraded photographs lose: a person's second photograph, made worse, against the first.

*Lost* are pairs below the `verify` threshold, or without a vector; *silent* those of them where no
reason was told; *needless* those that were sent back and would have matched. A pair whose first
photograph is unfit is left out.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.core.reports import Figure, Measured, Result, Setup, Skipped
from engine.faces.extractor import Extracted, Extraction, Extractor
from engine.faces.images import Pixels
from schema.reasons import PhotographKind

Degrade = Callable[[bytes], bytes]
FITTED = 260
"""The limits were fitted on so many people of LFW, in an order that is always the same; these
measurements are of others."""
ORDER_SEED = 14
PAIRS = 200
UPRIGHT, TURNED, COVERED = "as they are", "turned", "covered"
SETTLED_LOSS = 0.04
"""A level that loses no more is clearly within limits that stand at 10 %."""
DEGRADED = "Degraded photographs"
LOSSES = ("lost", "silent", "needless")
MEASURED = ("turned_loss", "silent_loss", "needless_refusals")
BYSTANDER_MEASURED = ("bystander_wrong", "bystander_refused")


@dataclass(frozen=True, slots=True)
class Level:
    """One level of one degradation; `name` says how strong it is."""

    degradation: str
    name: str
    degrade: Degrade
    kind: PhotographKind = PhotographKind.LIVE


def _open(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _save(pixels: Pixels, quality: int = 95) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def _alter(change: Callable[[NDArray[np.float32]], Any]) -> Degrade:
    """What `change` makes of the pixels as float32[h, w, 3]."""
    return lambda data: _save(
        np.clip(change(_open(data).astype(np.float32)), 0, 255).round().astype(np.uint8)
    )


def compress(quality: int) -> Degrade:
    return lambda data: _save(_open(data), quality)


def blur(sigma_px: float) -> Degrade:
    return _alter(lambda pixels: cv2.GaussianBlur(pixels, (0, 0), sigma_px))


def resize(share: float) -> Degrade:
    def change(data: bytes) -> bytes:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        size_px = (round(picture.width * share), round(picture.height * share))
        return _save(np.asarray(picture.resize(size_px, Image.Resampling.LANCZOS)))

    return change


def make_portrait(size_px: tuple[int, int], ratio: int) -> Degrade:
    """The middle of a photograph as a JPEG 2000 codestream of this size; ratio 0: lossless."""

    def change(data: bytes) -> bytes:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        width, height = picture.size
        part = round(height * size_px[0] / size_px[1])
        left = (width - part) // 2
        middle = picture.crop((left, 0, left + part, height))
        lossy = {"irreversible": True, "quality_mode": "rates", "quality_layers": [ratio]}
        file = io.BytesIO()
        middle.resize(size_px, Image.Resampling.LANCZOS).save(
            file, "JPEG2000", no_jp2=True, **(lossy if ratio else {})
        )
        return file.getvalue()

    return change


def move(length_px: int, angle_deg: float) -> Degrade:
    kernel = np.zeros((length_px, length_px), dtype=np.float32)
    half = length_px // 2
    across, down = (
        half * math.cos(math.radians(angle_deg)),
        half * math.sin(math.radians(angle_deg)),
    )
    cv2.line(
        kernel,
        (round(half - across), round(half - down)),
        (round(half + across), round(half + down)),
        1.0,
    )
    return _alter(lambda pixels: cv2.filter2D(pixels, -1, kernel / kernel.sum()))


def light(gain: float) -> Degrade:
    return _alter(lambda pixels: pixels * np.float32(gain))


def add_noise(deviation: float) -> Degrade:
    def change(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        drawn = np.random.default_rng(0).normal(0, deviation, pixels.shape)
        return pixels + drawn.astype(np.float32)

    return _alter(change)


def turn(angle_deg: float) -> Degrade:
    def change(data: bytes) -> bytes:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        return _save(np.asarray(picture.rotate(-angle_deg, Image.Resampling.BICUBIC, expand=True)))

    return change


# Where the face of an LFW photograph is: its box, in shares of the picture.
_LEFT, _TOP, _RIGHT, _BOTTOM = 0.3, 0.27, 0.7, 0.75


def cut(side: str, share: float) -> Degrade:
    """The picture without so much of the face's width or height at one side."""

    def change(data: bytes) -> bytes:
        pixels = _open(data)
        height, width = pixels.shape[:2]
        across, down = (_RIGHT - _LEFT) * share, (_BOTTOM - _TOP) * share
        kept = {
            "left": pixels[:, round(width * (_LEFT + across)) :],
            "top": pixels[round(height * (_TOP + down)) :],
            "bottom": pixels[: round(height * (_BOTTOM - down))],
        }[side]
        return _save(kept)

    return change


def cover(part: str) -> Degrade:
    """Dark glasses, or a mask over nose and mouth, as wide as the face."""

    def change(data: bytes) -> bytes:
        pixels = _open(data).copy()
        height, width = pixels.shape[:2]
        if part == "mask":
            corner, end = (0.33, 0.52), (0.67, 0.72)
            first, last = ((round(x * width), round(y * height)) for x, y in (corner, end))
            cv2.rectangle(pixels, first, last, (150, 180, 205), -1)
        else:
            for x in (0.415, 0.585):
                centre = (round(x * width), round(0.455 * height))
                axes = (round(0.07 * width), round(0.05 * height))
                cv2.ellipse(pixels, centre, axes, 0, 0, 360, (20, 20, 24), -1)
        return _save(pixels)

    return change


CHIP = PhotographKind.CHIP
TURNS_DEG = (-44, -30, -15, 15, 30, 44, 90, 180)


def list_levels() -> Iterator[Level]:
    """All that is measured, from weak to strong."""
    yield Level(UPRIGHT, "", lambda data: data)
    yield Level("grey", "", _alter(lambda p: np.repeat(p.mean(axis=2, keepdims=True), 3, axis=2)))
    for share in (0.6, 0.45, 0.375, 0.3, 0.25, 0.2):
        yield Level("size", f"{43 * share:.0f} px between the eyes", resize(share))
    for quality in (40, 20, 12, 8, 5):
        yield Level("JPEG", f"quality {quality}", compress(quality))
    for size_px, ratio in (
        ((204, 252), 20),
        ((204, 252), 40),
        ((204, 252), 80),
        ((153, 189), 20),
        ((153, 189), 40),
        ((102, 126), 0),
        ((102, 126), 10),
        ((102, 126), 20),
        ((102, 126), 40),
    ):
        name = f"{size_px[0]} x {size_px[1]}" + (f" at 1:{ratio}" if ratio else "")
        yield Level("JPEG 2000", name, make_portrait(size_px, ratio), CHIP)
    for sigma_px in (1.5, 2.5, 3.5, 4.5, 6):
        yield Level("blur", f"sigma {sigma_px} px", blur(sigma_px))
    for number, length in enumerate((7, 11, 15, 19, 25)):
        yield Level("motion", f"{length} px", move(length, 37.0 * number))
    for gain in (0.5, 0.25, 0.12, 0.06, 0.03, 1.6, 2.2, 3.0, 4.5):
        yield Level("light", f"x {gain}", light(gain))
    for deviation in (15, 30, 45, 60, 90):
        yield Level("noise", f"sigma {deviation}", add_noise(deviation))
    for side in ("left", "top", "bottom"):
        for share in (0.1, 0.2, 0.3, 0.4):
            yield Level("cut", f"{share:.0%} at {side}", cut(side, share))
    for angle in TURNS_DEG:
        yield Level(TURNED, f"{angle}°", turn(angle))
    for part in ("glasses", "mask"):
        yield Level(COVERED, part, cover(part))


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What became of pairs at one level: bool[n] each."""

    level: Level
    is_lost: NDArray[np.bool_]
    is_told: NDArray[np.bool_]

    @property
    def lost(self) -> float:
        return float(self.is_lost.mean())

    @property
    def silent(self) -> float:
        return float((self.is_lost & ~self.is_told).mean())

    @property
    def needless(self) -> float:
        return float((self.is_told & ~self.is_lost).mean())


def choose_pairs(faces: Path, count: int) -> list[tuple[bytes, bytes]]:
    """The first two photographs of so many people on whom no limit was fitted."""
    folders = sorted(one for one in faces.iterdir() if one.is_dir())
    shown = [sorted(folder.glob("*.jpg"))[:2] for folder in folders]
    pairs = [pair for pair in shown if len(pair) == 2]
    order = np.random.default_rng(ORDER_SEED).permutation(len(pairs))
    chosen = [pairs[i] for i in order[FITTED : FITTED + count]]
    return [(first.read_bytes(), second.read_bytes()) for first, second in chosen]


def compare_levels(
    extractor: Extractor,
    pairs: Sequence[tuple[bytes, bytes]],
    verify: float,
    levels: Iterable[Level],
) -> list[Outcome]:
    """Every level of the second photographs against the first; unfit first ones are left out."""
    live = extractor.extract([first for first, _ in pairs])
    kept = [
        (one.vector, second)
        for one, (_, second) in zip(live, pairs, strict=True)
        if isinstance(one, Extraction) and one.vector is not None and not one.problems
    ]
    found = []
    for level in levels:
        made = extractor.extract(
            [level.degrade(second) for _, second in kept], [level.kind] * len(kept)
        )
        is_lost = [
            not _matches(mate, one, verify) for (mate, _), one in zip(kept, made, strict=True)
        ]
        is_told = [not isinstance(one, Extraction) or bool(one.problems) for one in made]
        found.append(Outcome(level, np.array(is_lost), np.array(is_told)))
    return found


def _matches(mate: NDArray[np.float32], made: Extracted, verify: float) -> bool:
    if not isinstance(made, Extraction) or made.vector is None:
        return False
    return float(mate @ made.vector) >= verify


def report_levels(found: Sequence[Outcome], setup: Setup) -> tuple[Result, dict[str, Measured]]:
    """Shares of each level, and the worst of what `targets.toml` promises."""
    figures = []
    for one in found:
        name = " ".join(part for part in (one.level.degradation, one.level.name) if part)
        shares = dict(zip(LOSSES, (one.lost, one.silent, one.needless), strict=True))
        figures += [Figure(f"{name}, {kind}", "share", share) for kind, share in shares.items()]
    upright = next(one for one in found if one.level.degradation == UPRIGHT)
    turned = [one for one in found if one.level.degradation == TURNED]
    settled = [
        one for one in found if one.lost <= SETTLED_LOSS and one.level.degradation != COVERED
    ]
    values = (
        max(one.lost for one in turned) - upright.lost,
        # No measure tells dark glasses reliably: reported, and promised nothing.
        max(one.silent for one in found if one.level.degradation != COVERED),
        max(one.needless for one in settled),
    )
    return Result(DEGRADED, setup, tuple(figures)), dict(zip(MEASURED, values, strict=True))


SHARES = (0.5, 0.65, 0.8)
"""Heights of the bystander, of the main face's."""


def check_bystander(
    extractor: Extractor, pairs: Sequence[tuple[bytes, bytes]]
) -> dict[str, Measured]:
    """Somebody else beside the main face: who is taken, and who is sent back.

    The main face is the middle of a photograph, or the left one of two side by side. It is wrong
    where the vector is the bystander's and no reason was told.
    """
    wrong = refused = 0.0
    people = [second for _, second in pairs]
    alone = [
        (data, one)
        for data, one in zip(people, extractor.extract(people), strict=True)
        if isinstance(one, Extraction) and one.vector is not None and not one.problems
    ]
    beside = [*alone[1:], alone[0]]
    for share in SHARES:
        for place in ("centred", "side by side"):
            made = [
                _compose(person, other, share, is_centred=place == "centred")
                for person, other in zip(alone, beside, strict=True)
            ]
            judged = [
                _judge_main(extracted, main, other)
                for extracted, (_, main), (_, other) in zip(
                    extractor.extract(made), alone, beside, strict=True
                )
            ]
            is_wrong, is_refused = (float(np.mean(column)) for column in zip(*judged, strict=True))
            wrong = max(wrong, is_wrong)
            if share <= SHARES[1]:
                refused = max(refused, is_refused)
    return dict(zip(BYSTANDER_MEASURED, (wrong, refused), strict=True))


def _judge_main(made: Extracted, main: Extraction, other: Extraction) -> tuple[bool, bool]:
    """Whether the bystander was taken without a word, and whether it was sent back."""
    assert main.vector is not None
    assert other.vector is not None
    if not isinstance(made, Extraction) or made.problems or made.vector is None:
        return False, True
    return float(made.vector @ other.vector) > float(made.vector @ main.vector), False


def _compose(
    person: tuple[bytes, Extraction],
    bystander: tuple[bytes, Extraction],
    share: float,
    *,
    is_centred: bool,
) -> bytes:
    """A picture of both faces, the bystander's `share` as high."""
    (data, main_face), (other_data, other_face) = person, bystander
    assert main_face.box_px is not None
    assert other_face.box_px is not None
    main, second = (Image.open(io.BytesIO(one)).convert("RGB") for one in (data, other_data))
    width, height = main.size
    main, second = (
        one.crop((round(0.22 * width), 0, round(0.78 * width), height)) for one in (main, second)
    )
    share *= main_face.box_px[3] / other_face.box_px[3]
    second = second.resize((round(second.width * share), round(second.height * share)))
    # Centred, the bystander's side has a counterpart of the wall.
    start = second.width if is_centred else 0
    size_px = (start + main.width + second.width, max(height, second.height))
    picture = Image.new("RGB", size_px, (140, 140, 140))
    picture.paste(main, (start, 0))
    picture.paste(second, (start + main.width, (height - second.height) // 2))
    return _save(np.asarray(picture))


def measure_degraded(
    extractor: Extractor, faces: Path, verify: float, *, is_part: bool = False
) -> tuple[tuple[Result, ...], dict[str, Measured]]:
    """All of it, on the first `PAIRS` people that the limits were not fitted on."""
    pairs = [] if is_part else choose_pairs(faces, PAIRS)
    if len(pairs) < PAIRS:
        few = Skipped(f"{FITTED + PAIRS} people with two photographs are needed")
        return (), dict.fromkeys((*MEASURED, *BYSTANDER_MEASURED), few)
    setup: Setup = {"people": len(pairs), "verify": round(verify, 4)}
    found = compare_levels(extractor, pairs, verify, list_levels())
    levels, measured = report_levels(found, setup)
    return (levels,), measured | check_bystander(extractor, pairs)
