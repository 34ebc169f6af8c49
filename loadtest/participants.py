"""The people of a load test: their photographs, and what the service's own model says of them.

Labels of photographs are not believed. A person takes part if two photographs match under the
service's own model and the gallery does not know the face. A duplicate is planted where the mean
of a second pair scores the review threshold with that of the first (`fused_score`), an impostor
where no photograph of the one scores the threshold for one document with the other. Scores keep
`MARGIN` from the thresholds.

Their documents and phone numbers belong to nobody: passports of Utopia, whose state code UTO is
reserved for specimens (ICAO Doc 9303), and an unused range.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from datetime import UTC, datetime, timedelta
from itertools import combinations, count, permutations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.accuracy.photographs import (
    Source,
    list_photographs,
    open_wheel,
    read_photograph,
    retake,
)
from loadtest.errors import LoadTestRefused
from loadtest.exchange import ModelClient, ReportProgress
from schema import frozen
from schema.documents import PASSPORT, write_zone
from serving.wire.enrollments import Thresholds
from serving.wire.fields import Document

BIRTH = "800101"
VALID_YEARS = 5
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TAG_LENGTH, SERIAL_LENGTH = 4, 5
NUMBERS = 1_000_000_000


@frozen
class SpecimenNumbers:
    """The documents and phone numbers of one run; runs with other tags have others.

    `tag` is four of 0-9 and A-Z; `first_number` is the run's first number in the range.
    """

    tag: str
    first_number: int
    year: int
    _serials: count[int] = field(default_factory=count, repr=False, compare=False)

    def draw(self) -> int:
        """The next serial number: each is used once in a run."""
        return next(self._serials)

    def passport(self, serial: int) -> Document:
        """Its number is the second line of a machine readable zone."""
        assert serial < len(DIGITS) ** SERIAL_LENGTH
        number = self.tag + np.base_repr(serial, len(DIGITS)).zfill(SERIAL_LENGTH)
        zone = write_zone(number, BIRTH, "<", f"{(self.year + VALID_YEARS) % 100:02d}1231")
        return Document(PASSPORT, zone, f"Utopian {serial}")

    def msisdn(self, serial: int) -> str:
        return f"+8613{(self.first_number + serial) % NUMBERS:09d}"


def make_numbers(year: int) -> SpecimenNumbers:
    """Numbers with a random tag: the gallery may hold documents of other runs."""
    tag = "".join(secrets.choice(DIGITS) for _ in range(TAG_LENGTH))
    return SpecimenNumbers(tag, secrets.randbelow(NUMBERS), year)


@frozen
class PhotographTemplate:
    """A photograph, and the template that the service issued for it to the fraud key."""

    photograph: bytes = field(repr=False)
    template: bytes = field(repr=False)


@frozen
class PhotographPair:
    """Two photographs of one person for an enrollment; `score` is their cosine, `places` where they
    stand among the person's samples."""

    live: PhotographTemplate
    portrait: PhotographTemplate
    score: float
    places: tuple[int, int] = (0, 1)

    @property
    def samples(self) -> tuple[PhotographTemplate, PhotographTemplate]:
        return self.live, self.portrait

    def swap(self) -> PhotographPair:
        """The same photographs in exchanged roles: another request with exactly the same mean."""
        return PhotographPair(self.portrait, self.live, self.score, self.places[::-1])


@frozen
class Person:
    """A person whose samples at `places` match; `cosines` float64[n, n] of all that are usable."""

    number: int
    samples: tuple[PhotographTemplate, ...]
    cosines: NDArray[np.float64] = field(repr=False, compare=False)
    places: tuple[int, int] = (0, 1)

    @property
    def first(self) -> PhotographPair:
        return self.pair(*self.places)

    def pair(self, one: int, two: int) -> PhotographPair:
        """Two of the samples."""
        score = float(self.cosines[one, two])
        return PhotographPair(self.samples[one], self.samples[two], score, (one, two))


@frozen
class Candidate:
    """A person who can become a holder, with a `second` pair that matches; `fused_score`, a cosine
    of both pairs' means, is the score of a search; `probe` is a photograph that finds them."""

    person: Person
    second: PhotographPair
    fused_score: float
    probe: PhotographTemplate


@frozen
class Holder(Candidate):
    """A person whom the preparation has enrolled with the first pair; `tokens` are its templates,
    issued to the tenant that enrolls."""

    passport: Document
    document_id: str
    tokens: tuple[bytes, bytes] = field(repr=False)


@frozen
class ImpostorPair:
    """Two holders who do not match: the impostor presents the holder's document."""

    holder: Holder
    impostor: Holder


@frozen
class LoadParticipants:
    """Everybody in the load test: newcomers and racers are unknown to the gallery and enroll once,
    outsiders never enroll."""

    thresholds: Thresholds
    holders: tuple[Holder, ...]
    impostor_pairs: tuple[ImpostorPair, ...]
    newcomers: tuple[Person, ...]
    racers: tuple[Person, ...]
    outsiders: tuple[Person, ...]
    had_references: bool
    """Whether the gallery held references before this run."""
    dropped: Mapping[str, int]
    """Number of people who could not take part, by reason."""
    expires_at: datetime
    """When the first of their templates expires."""

    def require_fresh(self, seconds: float) -> None:
        """`LoadTestRefused` if a template would expire during the run: no fault of the service."""
        left_s = (self.expires_at - datetime.now(UTC)) / timedelta(seconds=1)
        if left_s < seconds:
            raise LoadTestRefused(
                f"the service accepts its templates for {left_s:.0f} s more, and the run needs "
                f"{seconds:.0f}: give fewer --seconds, or raise template_ttl_h"
            )

    def list_enrolling(self) -> Iterator[Person]:
        """All who enroll."""
        yield from (one.person for one in self.holders)
        yield from self.newcomers
        yield from self.racers


LFW = Path(__file__).parents[2] / "shared" / "lfw" / "images"
"""Beside the checkout; an installed package has none."""
MOST_OF_A_PERSON = 4


Photographs = tuple[bytes, ...]
"""Of one person, two or more, as encoded files."""


@frozen
class FaceDataset:
    """Different people in a seeded order, those with most photographs first."""

    people: tuple[Photographs, ...] = field(repr=False)
    source: str


def open_dataset(faces: Path | None, most: int, full: int, seed: int) -> FaceDataset:
    """Up to `most` people of a folder in LFW's layout, else of scikit-image's: the first
    `full` with all photographs, the others with two. `LoadTestRefused` if there are none."""
    folder = faces or (LFW if LFW.is_dir() else None)
    rng = np.random.default_rng(seed)
    if folder is None:
        source = open_wheel()
        made = tuple(_read_bundled(rng, source, most))
        return FaceDataset(made, f"{source.title}; others made of each")
    if not folder.is_dir():
        raise LoadTestRefused(
            f"{folder} is not a folder: give one that holds a folder for each person"
        )
    listed = (list_photographs(path)[:MOST_OF_A_PERSON] for path in sorted(folder.iterdir()))
    found = [paths for paths in listed if len(paths) >= 2]
    if not found:
        raise LoadTestRefused(
            f"nobody in {folder} has two photographs: give a folder that holds a folder for each "
            "person"
        )
    chosen = [found[place] for place in rng.permutation(len(found)).tolist()]
    chosen.sort(key=lambda paths: -len(paths))
    people = tuple(
        tuple(map(read_photograph, paths if place < full else paths[:2]))
        for place, paths in enumerate(chosen[:most])
    )
    return FaceDataset(people, f"{folder.parent.name}/{folder.name}")


def _read_bundled(rng: np.random.Generator, source: Source, most: int) -> Iterator[Photographs]:
    for place in rng.permutation(len(source.people)).tolist()[:most]:
        photograph = source.people[place].pictures[0]
        # Three of them: one may turn out unusable.
        yield photograph.data, *(retake(photograph, serial).data for serial in (0, 1))


ALONE = -0.5
"""In place of the cosine of two photographs where there is one: its length is 1."""


def fuse_both(cross: float, within: float, within_other: float) -> float:
    """Cosine of two means; `cross` is the sum of the cosines between their photographs, `within`
    the cosine of the two of a mean.

    The service keeps the normalised mean of a person's two photographs, so its scores follow
    exactly from the cosines of single photographs, which `/v1/match` reports.
    """
    # Of a + b, both of unit length. Opposite photographs have no mean.
    one, other = (math.sqrt(max(2 + 2 * score, 1e-12)) for score in (within, within_other))
    return cross / (one * other)


MARGIN = 0.01
"""Batches of another size move a score by some millionths."""
RESERVE = 1.25
"""People read for each one wanted: some photographs are unusable, and some pairs do not match."""


@frozen(kw_only=True)
class ParticipantCounts:
    """The number of people wanted of each kind; of newcomers fewer will do."""

    holders: int
    newcomers: int
    racers: int
    outsiders: int

    @property
    def people(self) -> int:
        return self.holders + self.newcomers + self.racers + self.outsiders

    @property
    def least(self) -> int:
        """All without the newcomers."""
        return self.people - self.newcomers


def select_people(
    dataset: FaceDataset, model: ModelClient, thresholds: Thresholds, report: ReportProgress
) -> tuple[list[Person], Counter[str]]:
    """Everybody with two photographs that match; and why others were dropped."""
    issued = iter(model.issue_templates([x for one in dataset.people for x in one], report))
    dropped: Counter[str] = Counter()
    fit: list[list[PhotographTemplate]] = []
    for photographs in dataset.people:
        fit.append([])
        for photograph, token in zip(photographs, issued, strict=False):
            if isinstance(token, bytes):
                fit[-1].append(PhotographTemplate(photograph, token))
            else:
                dropped[token] += 1
    pairs = (pair for samples in fit for pair in combinations(samples, 2))
    scores = iter(model.compare([(one.template, two.template) for one, two in pairs]))
    people = []
    for number, samples in enumerate(fit):
        cosines = np.eye(len(samples))
        for one, two in combinations(range(len(samples)), 2):
            cosines[one, two] = cosines[two, one] = next(scores)
        matching = np.argwhere(np.triu(cosines >= thresholds.verify + MARGIN, 1)).tolist()
        if matching:
            one, two = matching[0]
            people.append(Person(number, tuple(samples), cosines, (one, two)))
        else:
            dropped["two photographs that match: none"] += 1
    return people, dropped


def drop_known(
    people: Sequence[Person], model: ModelClient, dropped: Counter[str]
) -> tuple[list[Person], bool]:
    """The people whom a search of the gallery does not find, and whether it holds any reference."""
    known = model.search([person.first.live.template for person in people])
    unknown = [one for one, (found, _) in zip(people, known, strict=True) if not found]
    dropped["known to the gallery, or alike"] += len(people) - len(unknown)
    return unknown, any(searched for _, searched in known)


def are_strangers(one: Person, other: Candidate, scores: Sequence[float], low: float) -> bool:
    """True if neither a photograph of `other` nor its second pair's mean scores `low` with `one`.

    `scores` are the cosines of the pairs that `list_cross_pairs` lists.
    """
    within = one.first.score
    count = len(other.person.samples)
    live, portrait = scores[:count], scores[count:]
    pairs = zip(live, portrait, strict=True)
    singles = [fuse_both(one + another, ALONE, within) for one, another in pairs]
    cross = sum(live[place] + portrait[place] for place in other.second.places)
    mean = fuse_both(cross, within, other.second.score)
    return max(*singles, *scores, mean) < low - MARGIN


def list_cross_pairs(one: Person, other: Person) -> list[tuple[bytes, bytes]]:
    """Pairs of templates to compare: the first pair of `one` with all samples of `other`."""
    return [
        (mine.template, theirs.template) for mine in one.first.samples for theirs in other.samples
    ]


def require_enough(people: int, wanted: ParticipantCounts, dropped: Mapping[str, int]) -> None:
    """`LoadTestRefused` if there are too few people."""
    if people < wanted.least:
        reasons = "; ".join(f"{reason} {count}" for reason, count in dropped.items() if count)
        raise LoadTestRefused(
            f"{people} people can take part, {wanted.least} are needed "
            f"({reasons or 'there are no more'}): give more with --faces, or erase those whom an "
            "earlier run left enrolled"
        )


def choose_second(person: Person, thresholds: Thresholds) -> Candidate | None:
    """The person as a candidate for a holder; None without a second pair that finds the first."""
    first, cosines = person.first, person.cosines
    low = max(thresholds.review, thresholds.same_document, thresholds.verify) + MARGIN
    pairs = [one for one in permutations(range(len(cosines)), 2) if one != first.places]
    # Those with fewest photographs of the first come first.
    for places in sorted(pairs, key=lambda pair: len({*pair} & {*first.places})):
        second = person.pair(*places)
        cross = float(cosines[np.ix_(first.places, places)].sum())
        fused_score = fuse_both(cross, first.score, second.score)
        if second.score >= thresholds.verify + MARGIN and fused_score >= low:
            return Candidate(person, second, fused_score, _choose_probe(person, low))
    return None


def _choose_probe(person: Person, low: float) -> PhotographTemplate:
    """A photograph outside the first pair if one finds its holder, else one of that pair."""
    first = person.first
    for place, sample in enumerate(person.samples):
        live, portrait = person.cosines[place, list(first.places)].tolist()
        if place not in first.places and fuse_both(live + portrait, ALONE, first.score) >= low:
            return sample
    return first.live
