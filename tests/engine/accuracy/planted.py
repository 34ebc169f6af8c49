"""Photographs of LFW with faults put into them, and files that say so: the truth is known."""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

PEOPLE, PHOTOGRAPHS, FEW = 66, 3, 4
CLEAR, BLURRED, SMALL = "clear", "blurred", "tablet"
EARLY, LATE = "2020-01-10", "2032-01-10"


@dataclass(frozen=True)
class Planted:
    """`attributes` labels the camera of each photograph, and dates it.

    Of the group BLURRED all photographs are poor; of everybody's the third, taken twelve years
    later, is poorer than the others; SMALL has four people. `copies`: pairs that are one picture
    within a person; `foreign`: one picture under two names; `renamed`: a person under two names;
    `misplaced`: a photograph in another's folder, and whose it is.
    """

    root: Path
    attributes: Path
    copies: set[frozenset[str]]
    same_file: frozenset[str]
    foreign: frozenset[str]
    renamed: frozenset[str]
    misplaced: tuple[str, str]


def plant(images: Path, folder: Path) -> Planted:
    """Some 200 photographs."""
    chosen = [p for p in sorted(images.iterdir()) if 5 <= len(list(p.iterdir())) <= 12][:PEOPLE]
    root = folder / "people"
    rows = []
    for number, person in enumerate(chosen):
        name = f"{number:03d}"
        group = SMALL if number < FEW else (CLEAR, BLURRED)[number % 2]
        (root / name).mkdir(parents=True)
        for place, path in enumerate(sorted(person.iterdir())[:PHOTOGRAPHS], 1):
            picture = Image.open(path)
            if group is BLURRED:
                picture = _blur(picture, 26)
            if place == PHOTOGRAPHS:
                picture = _blur(picture, 64)
            key = f"{name}/{name}_{place:04d}.png"
            picture.save(root / key)
            rows.append((key, group, LATE if place == PHOTOGRAPHS else EARLY))
    attributes = folder / "attributes.csv"
    with attributes.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("photograph", "camera", "captured_at"), *rows])
    return _spoil(root, chosen, attributes)


def _blur(picture: Image.Image, side: int) -> Image.Image:
    small = picture.resize((side, side), Image.Resampling.BOX)
    return small.resize(picture.size, Image.Resampling.BICUBIC)


def _spoil(root: Path, chosen: list[Path], attributes: Path) -> Planted:
    """Copies and wrong labels, among people of the group CLEAR."""
    first = {number: f"{number:03d}/{number:03d}_0001.png" for number in range(PEOPLE)}

    def fresh(number: int, place: int) -> Image.Image:
        """A photograph of that person that is not in the folder yet."""
        return Image.open(sorted(chosen[number].iterdir())[place])

    recoded, mirrored, same = "004/004_0009.jpg", "006/006_0009.png", "008/008_0009.png"
    Image.open(root / first[4]).save(root / recoded, quality=60)
    ImageOps.mirror(Image.open(root / first[6])).save(root / mirrored)
    shutil.copy(root / first[8], root / same)
    (root / "stranger").mkdir()
    foreign = "stranger/stranger_0001.jpg"
    cropped = Image.open(root / first[10]).crop((10, 6, 240, 236)).resize((200, 200))
    cropped.save(root / foreign, quality=85)
    (root / "alias").mkdir()
    for place in (3, 4):
        fresh(12, place).save(root / f"alias/alias_{place:04d}.png")
    misplaced = "014/014_0009.png"
    fresh(16, 3).save(root / misplaced)
    return Planted(
        root=root,
        attributes=attributes,
        copies={frozenset({first[4], recoded}), frozenset({first[6], mirrored})},
        same_file=frozenset({first[8], same}),
        foreign=frozenset({first[10], foreign}),
        renamed=frozenset({"012", "alias"}),
        misplaced=(misplaced, "016"),
    )
