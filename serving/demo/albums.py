"""Where the demo's faces come from: what scikit-image brings, or a folder of the user's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.accuracy.labelled import SUFFIXES
from engine.errors import RequestError
from engine.faces.images import ImageLimits
from serving.demo.pictures import Picture, encode_png, enlarge

WHEEL_FACES = 100
"""Of the 200 images of `lfw_subset`, the first half are faces."""
WHEEL_ENLARGEMENT = 6
WHEEL_PEOPLE = ((0, 90, 36, 73), (3, 97))
"""Images of `lfw_subset` that show one person: it tells nobody's name, their scores and a look do.

Every other image shows somebody else.
"""
MOST_PHOTOGRAPHS = 100
"""That the demo looks at: enough to find three people, few enough to take a second or two."""
MOST_OF_A_PERSON = 4


@dataclass(frozen=True, slots=True)
class Album:
    """Photographs of one person."""

    label: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Albums and, for people, where they are from."""

    title: str
    albums: tuple[Album, ...]


def open_wheel() -> Source:
    """The astronaut and the 100 faces of `lfw_subset`, 25 pixels wide, enlarged."""
    try:
        from skimage import data  # noqa: PLC0415 - an extra that a folder of faces does without
    except ModuleNotFoundError:
        raise RequestError(
            "the demo's photographs come with scikit-image: "
            "install sosie[demo], or give a folder with --faces"
        ) from None
    small = np.round(data.lfw_subset()[:WHEEL_FACES] * 255).clip(0, 255).astype(np.uint8)
    faces = [
        Picture(f"face {place}", enlarge(face, WHEEL_ENLARGEMENT))
        for place, face in enumerate(small)
    ]
    astronaut = Picture("astronaut", encode_png(data.astronaut()))
    known = {place for places in WHEEL_PEOPLE for place in places}
    others = [(place,) for place in range(len(faces)) if place not in known]
    albums = [
        Album(_join_places(places), tuple(faces[place] for place in places))
        for places in (*WHEEL_PEOPLE, *others)
    ]
    albums.insert(len(WHEEL_PEOPLE), Album("astronaut", (astronaut,)))
    return Source("scikit-image: astronaut, and lfw_subset (25 px) enlarged 6 times", tuple(albums))


def open_folder(folder: Path) -> Source:
    """Photographs of a folder: each folder in it is a person, and so is each single photograph.

    People with most photographs come first. Raises `RequestError` where it holds none.
    """
    if not folder.is_dir():
        raise RequestError(f"{folder} is not a folder: name one with photographs of faces")
    found = [paths for path in sorted(folder.iterdir()) if (paths := _list_photographs(path))]
    if not found:
        raise RequestError(
            f"no photograph in {folder}: it must hold .jpg, .png or .webp files, "
            "or a folder of them for each person"
        )
    found.sort(key=lambda paths: -min(len(paths), MOST_OF_A_PERSON))
    return Source(f"photographs of {folder}", tuple(_read_albums(found)))


def _read_albums(found: Sequence[Sequence[Path]]) -> Iterator[Album]:
    left = MOST_PHOTOGRAPHS
    for paths in found:
        chosen = paths[: min(MOST_OF_A_PERSON, left)]
        left -= len(chosen)
        if chosen:
            pictures = tuple(Picture(path.stem, _read(path)) for path in chosen)
            yield Album(chosen[0].parent.name if len(paths) > 1 else chosen[0].stem, pictures)


def _list_photographs(path: Path) -> list[Path]:
    if path.is_dir():
        return [one for one in sorted(path.iterdir()) if _is_photograph(one)]
    return [path] if _is_photograph(path) else []


def _is_photograph(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in SUFFIXES


def _read(path: Path) -> bytes:
    """The file's bytes; of one that is too large only what lets the decoder refuse it."""
    try:
        with path.open("rb") as file:
            return file.read(ImageLimits().max_size_bytes + 1)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None


def _join_places(places: Sequence[int]) -> str:
    plural = "s" if len(places) > 1 else ""
    return f"lfw_subset image{plural} {', '.join(map(str, places))}"
