"""Who plays in the demo: people with fit photographs who don't look like each other."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.errors import ImageError, RequestError
from engine.faces.extractor import Extracted, Extractor
from serving.demo.albums import Album, Source
from serving.demo.pictures import Picture, take_again

PICTURES_NEEDED = (4, 2, 2)
"""By the subscriber, the thief and the newcomer."""
MOST_RETAKES = 8


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with pictures that are fit for enrollment; photographs first, then made ones."""

    label: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """What extraction said of all the photographs; `problems` counts reasons and error codes."""

    photographs: int
    fit: int
    problems: dict[str, int]


@dataclass(frozen=True, slots=True)
class Cast:
    """The subscriber has the most photographs; nobody scores `verify` with another."""

    subscriber: Person
    thief: Person
    newcomer: Person
    survey: Survey

    @property
    def people(self) -> tuple[Person, Person, Person]:
        return self.subscriber, self.thief, self.newcomer


def choose_cast(source: Source, extractor: Extractor, verify: float) -> Cast:
    """Extracts every photograph, then takes the first three people who will do.

    `RequestError` says how many there are where they are fewer.
    """
    pictures = [picture for album in source.albums for picture in album.pictures]
    extracted = extractor.extract([picture.data for picture in pictures])
    survey = _count(extracted)
    fit = list(_keep_fit(source.albums, extracted))
    # Stable: people with equally many photographs stay in the source's order.
    fit.sort(key=lambda one: -len(one[0].pictures))
    people = _choose_strangers(fit, extractor, verify)
    if len(people) < len(PICTURES_NEEDED):
        raise RequestError(
            f"too few usable faces: {survey.fit} of {survey.photographs} photographs are fit, "
            f"people found: {len(people)}, people needed: {len(PICTURES_NEEDED)}"
        )
    subscriber, thief, newcomer = people
    return Cast(subscriber, thief, newcomer, survey)


def _count(extracted: Sequence[Extracted]) -> Survey:
    problems: Counter[str] = Counter()
    fit = 0
    for one in extracted:
        if isinstance(one, ImageError):
            problems[one.code] += 1
        else:
            problems.update(reason.value for reason in one.problems)
            fit += not one.problems
    return Survey(len(extracted), fit, dict(problems.most_common()))


def _keep_fit(
    albums: Sequence[Album], extracted: Sequence[Extracted]
) -> Iterator[tuple[Person, NDArray[np.float32]]]:
    """Each person's fit photographs with their vectors, float32[n, d]."""
    results = iter(extracted)
    for album in albums:
        pictures, vectors = [], []
        for picture in album.pictures:
            one = next(results)
            if isinstance(one, ImageError) or one.problems:
                continue
            assert one.quality is not None
            assert one.vector is not None
            pictures.append(replace(picture, inter_eye_px=one.quality.inter_eye_px))
            vectors.append(one.vector)
        if pictures:
            yield Person(album.label, tuple(pictures)), np.stack(vectors)


def _choose_strangers(
    fit: Sequence[tuple[Person, NDArray[np.float32]]], extractor: Extractor, verify: float
) -> list[Person]:
    """The first people of whom no two match: a flat folder may show one person twice."""
    chosen: list[Person] = []
    vectors_of_chosen: list[NDArray[np.float32]] = []
    for person, vectors in fit:
        if len(chosen) == len(PICTURES_NEEDED):
            break
        if any((vectors @ others.T).max() >= verify for others in vectors_of_chosen):
            continue
        completed = _complete(person, PICTURES_NEEDED[len(chosen)], extractor)
        if completed is not None:
            chosen.append(completed)
            vectors_of_chosen.append(vectors)
    return chosen


def _complete(person: Person, needed: int, extractor: Extractor) -> Person | None:
    """The person with as many pictures as needed, or `None` where too few retakes are fit."""
    missing = needed - len(person.pictures)
    if missing <= 0:
        return person
    originals = itertools.cycle(person.pictures)
    retakes = [take_again(next(originals), serial) for serial in range(1, MOST_RETAKES + 1)]
    extracted = extractor.extract([retake.data for retake in retakes])
    fit = [
        retake
        for retake, one in zip(retakes, extracted, strict=True)
        if not isinstance(one, ImageError) and not one.problems
    ]
    if len(fit) < missing:
        return None
    return replace(person, pictures=(*person.pictures, *fit[:missing]))
