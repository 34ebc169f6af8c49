"""Photographs to try with: those that scikit-image brings, those of a folder, and what is made of
one in place of another of the same person."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from engine.errors import RequestError, advise_extra, file_errors
from engine.faces.image_files import ImageLimits
from indexes.base import Octets
from schema import frozen

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".jp2", ".j2k"})
JPEG_QUALITY = 75
BLUR_EYE_SHARE = 0.12
"""Radius of a blur that the quality limits refuse, in inter-eye distances."""


@frozen
class Picture:
    """An image file and its label; `is_made` says that it was derived from another photograph."""

    label: str
    data: bytes = field(repr=False)
    inter_eye_px: float = 0.0
    is_made: bool = False


def encode_png(pixels: Octets, factor: int = 1) -> bytes:
    """A PNG of uint8[h, w] or uint8[h, w, 3] (RGB), each side enlarged by cubic interpolation."""
    image = Image.fromarray(pixels)
    size = (image.width * factor, image.height * factor)
    return _encode(image.resize(size, Image.Resampling.BICUBIC).convert("RGB"), "PNG")


def retake(picture: Picture, serial: int) -> Picture:
    """A stand-in for a second photograph: tilted, cropped, relit and recompressed, it scores higher
    than a true one."""
    image = _open(picture)
    is_odd = bool(serial % 2)
    tilt_deg = (-1 if is_odd else 1) * (3 + serial % 5)
    image = image.rotate(tilt_deg, Image.Resampling.BICUBIC, fillcolor=(128, 128, 128))
    left, top = 0.04 * image.width, 0.05 * image.height
    image = image.crop((int(left), int(top), int(image.width - left), int(image.height - top)))
    image = ImageEnhance.Brightness(image).enhance(1.12 if is_odd else 0.88)
    image = ImageEnhance.Contrast(image).enhance(0.9 if is_odd else 1.1)
    return replace(
        picture, label=f"{picture.label}*{serial}", data=_encode(image, "JPEG"), is_made=True
    )


def blur(picture: Picture) -> Picture:
    """The photograph out of focus, in proportion to the size of the face."""
    radius = BLUR_EYE_SHARE * picture.inter_eye_px
    image = _open(picture).filter(ImageFilter.GaussianBlur(radius))
    return replace(
        picture, label=f"{picture.label} blurred", data=_encode(image, "JPEG"), is_made=True
    )


def _open(picture: Picture) -> Image.Image:
    with Image.open(io.BytesIO(picture.data)) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def _encode(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=JPEG_QUALITY)
    return buffer.getvalue()


WHEEL_FACES = 100
"""The first half of the 200 images of `lfw_subset` are faces."""
WHEEL_ENLARGEMENT = 6
WHEEL_PEOPLE = ((0, 90, 36, 73), (3, 97))
"""Indices of `lfw_subset` images that show the same person, found by score and by eye.

Each of the other images shows a different person.
"""
MAX_PHOTOGRAPHS = 100
"""Enough to find three people, few enough to extract in a second or two."""
MAX_OF_A_PERSON = 4


@frozen
class Person:
    """One person's pictures: photographs first, then those made of them."""

    label: str
    pictures: tuple[Picture, ...]


@frozen
class Source:
    """Photographs by person, and a title that says where they come from."""

    title: str
    people: tuple[Person, ...]


def find_images(instead: str) -> Any:
    """The images of scikit-image; `RequestError` where it is not here, with the option that is
    given `instead`."""
    try:
        from skimage import data  # noqa: PLC0415 - an extra that a folder of faces does without
    except ImportError:
        raise RequestError(
            f"photographs come with scikit-image: {advise_extra('demo')}, or give a folder with "
            f"{instead}"
        ) from None
    return data


def open_wheel() -> Source:
    """The astronaut and the 100 faces of `lfw_subset`, 25 pixels wide, enlarged."""
    data = find_images("--faces")
    small = np.round(data.lfw_subset()[:WHEEL_FACES] * 255).clip(0, 255).astype(np.uint8)
    faces = [
        Picture(f"face {place}", encode_png(face, WHEEL_ENLARGEMENT))
        for place, face in enumerate(small)
    ]
    astronaut = Picture("astronaut", encode_png(data.astronaut()))
    known = {place for places in WHEEL_PEOPLE for place in places}
    others = [(place,) for place in range(len(faces)) if place not in known]
    people = [
        Person(f"lfw_subset {', '.join(map(str, places))}", tuple(faces[place] for place in places))
        for places in (*WHEEL_PEOPLE, *others)
    ]
    people.insert(len(WHEEL_PEOPLE), Person("astronaut", (astronaut,)))
    return Source("scikit-image: astronaut, and lfw_subset (25 px) enlarged 6 times", tuple(people))


def open_folder(folder: Path) -> Source:
    """Photographs of a folder, a person for each subfolder and single file, most photographs first;
    `RequestError` for none."""
    if not folder.is_dir():
        raise RequestError(f"{folder} is not a folder: name one with photographs of faces")
    found = [paths for path in sorted(folder.iterdir()) if (paths := list_photographs(path))]
    if not found:
        raise RequestError(
            f"no photograph in {folder}: it must hold .jpg, .png or .webp files, "
            "or a folder of them for each person"
        )
    found.sort(key=lambda paths: -min(len(paths), MAX_OF_A_PERSON))
    return Source(f"photographs of {folder}", tuple(_read_people(found)))


def _read_people(found: Sequence[Sequence[Path]]) -> Iterator[Person]:
    left = MAX_PHOTOGRAPHS
    for paths in found:
        chosen = paths[: min(MAX_OF_A_PERSON, left)]
        left -= len(chosen)
        if chosen:
            pictures = tuple(Picture(path.stem, read_photograph(path)) for path in chosen)
            yield Person(chosen[0].parent.name if len(paths) > 1 else chosen[0].stem, pictures)


def list_photographs(path: Path) -> list[Path]:
    """The photographs in a folder, by name, or a single one; none of anything else."""
    if path.is_dir():
        return [one for one in sorted(path.iterdir()) if _is_photograph(one)]
    return [path] if _is_photograph(path) else []


def _is_photograph(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in SUFFIXES


def read_photograph(path: Path) -> bytes:
    """The file's bytes, cut one byte above the size limit: the decoder then refuses the file."""
    with file_errors(f"{path} cannot be read"), path.open("rb") as file:
        return file.read(ImageLimits().max_size_bytes + 1)
