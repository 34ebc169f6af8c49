"""Photographs of LFW with faults put into them, and files that say so: the truth is known."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

PEOPLE, PHOTOGRAPHS, FEW = 66, 3, 4
CLEAR, BLURRED, SMALL = "clear", "blurred", "tablet"
EARLY, LATE = "2020-01-10", "2032-01-10"


@dataclass(frozen=True)
class Planted:
    """`attributes` labels the camera of each photograph, and dates it.

    Of the group BLURRED all photographs are poor; of everybody's the third, taken twelve years
    later, is poorer than the others; SMALL has four people. `foreign`: one picture under two
    names; `renamed`: a person under two names.
    """

    root: Path
    attributes: Path
    foreign: frozenset[str]
    renamed: frozenset[str]


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
    """Wrong labels, among people of the group CLEAR."""
    own = "010/010_0001.png"
    (root / "stranger").mkdir()
    foreign = "stranger/stranger_0001.jpg"
    cropped = Image.open(root / own).crop((10, 6, 240, 236)).resize((200, 200))
    cropped.save(root / foreign, quality=85)
    (root / "alias").mkdir()
    for place in (3, 4):
        fresh = Image.open(sorted(chosen[12].iterdir())[place])
        fresh.save(root / f"alias/alias_{place:04d}.png")
    return Planted(
        root=root,
        attributes=attributes,
        foreign=frozenset({own, foreign}),
        renamed=frozenset({"012", "alias"}),
    )
