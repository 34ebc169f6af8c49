"""People with photographs: a folder in LFW's layout, else the faces that scikit-image brings."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from loadtest.errors import LoadTestRefused

LFW = Path(__file__).parents[2] / "shared" / "lfw" / "images"
"""Beside the checkout; an installed package has none."""
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
MOST_OF_A_PERSON = 4
MOST_PHOTOGRAPH_BYTES = 8 * 2**20
WHEEL_FACES = 100
"""Of the 200 images of `lfw_subset`, the first half are faces, 25 pixels wide."""
WHEEL_AGAIN = frozenset({36, 73, 90, 97})
"""Of these: people whom an earlier image of it shows already."""
WHEEL_ENLARGEMENT = 6


@dataclass(frozen=True, slots=True)
class Somebody:
    """One person's photographs, two or more, as files."""

    photographs: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Crowd:
    """Different people in a seeded order, those with most photographs first."""

    people: tuple[Somebody, ...]
    source: str


def open_crowd(faces: Path | None, most: int, full: int, seed: int) -> Crowd:
    """Up to `most` people, the first `full` of them with all photographs, the others with two.

    `LoadTestRefused` where there is nobody.
    """
    folder = faces or (LFW if LFW.is_dir() else None)
    rng = np.random.default_rng(seed)
    if folder is None:
        made = tuple(_make_wheel(rng, most))
        return Crowd(made, "scikit-image lfw_subset, enlarged; a second photograph made of each")
    if not folder.is_dir():
        raise LoadTestRefused(f"{folder} is not a folder: give one with a folder a person")
    found = [paths for path in sorted(folder.iterdir()) if len(paths := _list(path)) >= 2]
    if not found:
        raise LoadTestRefused(
            f"nobody in {folder} has two photographs: give a folder with a folder a person"
        )
    chosen = [found[place] for place in rng.permutation(len(found)).tolist()]
    chosen.sort(key=lambda paths: -min(len(paths), MOST_OF_A_PERSON))
    people = tuple(
        Somebody(tuple(map(_read, paths if place < full else paths[:2])))
        for place, paths in enumerate(chosen[:most])
    )
    return Crowd(people, f"{folder.parent.name}/{folder.name}")


def take_again(data: bytes, serial: int) -> bytes:
    """What a second photograph might be: tilted, cropped, in other light, compressed again."""
    with Image.open(io.BytesIO(data)) as file:
        image = file.convert("RGB")
    sign = -1 if serial % 2 else 1
    image = image.rotate(
        sign * (3 + serial % 3), Image.Resampling.BICUBIC, fillcolor=(128, 128, 128)
    )
    left, top = round(0.04 * image.width), round(0.05 * image.height)
    image = image.crop((left, top, image.width - left, image.height - top))
    image = ImageEnhance.Brightness(image).enhance(1 + 0.1 * sign)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _make_wheel(rng: np.random.Generator, most: int) -> Iterator[Somebody]:
    try:
        from skimage import data
    except ImportError as error:
        raise LoadTestRefused(
            "no photographs: give --faces DIR, or pip install 'sosie[demo]' for some"
        ) from error
    small = np.round(data.lfw_subset()[:WHEEL_FACES] * 255).clip(0, 255).astype(np.uint8)
    places = [place for place in range(WHEEL_FACES) if place not in WHEEL_AGAIN]
    for place in rng.permutation(places).tolist()[:most]:
        photograph = _enlarge(small[place])
        # Three of them: one may turn out unfit.
        yield Somebody((photograph, take_again(photograph, 0), take_again(photograph, 1)))


def _enlarge(grey: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(grey)
    size = (image.width * WHEEL_ENLARGEMENT, image.height * WHEEL_ENLARGEMENT)
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def _list(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    files = [one for one in sorted(path.iterdir()) if one.suffix.lower() in SUFFIXES]
    return files[:MOST_OF_A_PERSON]


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size <= MOST_PHOTOGRAPH_BYTES:
            return path.read_bytes()
    except OSError as error:
        raise LoadTestRefused(f"{path} cannot be read: {error.strerror}") from None
    raise LoadTestRefused(f"{path} is larger than the service takes: leave it out")
