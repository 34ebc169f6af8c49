"""The people of a load test: their photographs, and what the service's own model says of them.

Labels of photographs are not believed. A person takes part if two photographs match under the
service's own model and the gallery does not know the face. A duplicate is planted where the mean
of a second pair scores the review threshold with that of the first (`fused_score`), an impostor
where no photograph of the one scores the threshold for one document with the other. Scores keep
`MARGIN` from the thresholds.
"""

from __future__ import annotations

import io
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import combinations, permutations
from pathlib import Path
from typing import Any, NamedTuple

import gevent
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from engine.errors import advise_extra
from loadtest.document_numbers import Passport
from loadtest.errors import LoadTestRefused
from loadtest.exchange import (
    LOST,
    OVERDUE,
    Answer,
    ConnectionPool,
    Item,
    Reply,
    ReportProgress,
    run_concurrently,
)


class Thresholds(NamedTuple):
    """The thresholds of the deployment, as its API reports them."""

    verify: float
    same_document: float
    review: float
    certain: float


@dataclass(frozen=True, slots=True)
class PhotographTemplate:
    """A photograph, and the template that the service issued for it to the fraud key."""

    photograph: bytes = field(repr=False)
    template: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Person:
    """A person whose samples at `places` match; `samples` are all that are usable, and `cosines`
    float64[n, n] what they score with each other."""

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


@dataclass(frozen=True, slots=True)
class Candidate:
    """A person who can become a holder.

    `second` is a pair that matches as well; `fused_score` is the cosine of both pairs' means, which
    is the score of a search with the one for the other. `probe` is a photograph that finds them.
    """

    person: Person
    second: PhotographPair
    fused_score: float
    probe: PhotographTemplate


@dataclass(frozen=True, slots=True)
class Holder(Candidate):
    """A person whom the preparation has enrolled with the first pair; `tokens` are its templates,
    issued to the tenant that enrolls."""

    passport: Passport
    document_id: str
    tokens: tuple[bytes, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ImpostorPair:
    """Two holders who do not match: the impostor presents the holder's document."""

    holder: Holder
    impostor: Holder


@dataclass(frozen=True, slots=True)
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
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".jp2", ".j2k"})
MOST_OF_A_PERSON = 4
MOST_PHOTOGRAPH_BYTES = 8 * 2**20
BUNDLED_FACES = 100
"""The first half of the 200 images of scikit-image's `lfw_subset` are faces, 25 pixels wide."""
BUNDLED_REPEATS = frozenset({36, 73, 90, 97})
"""Images of people whom an earlier image shows already."""
BUNDLED_ENLARGEMENT = 6


Photographs = tuple[bytes, ...]
"""Of one person, two or more, as encoded files."""


@dataclass(frozen=True, slots=True)
class FaceDataset:
    """Different people in a seeded order, those with most photographs first."""

    people: tuple[Photographs, ...] = field(repr=False)
    source: str


def open_dataset(faces: Path | None, most: int, full: int, seed: int) -> FaceDataset:
    """Reads a folder in LFW's layout, else the faces that scikit-image brings.

    Up to `most` people: the first `full` of them with all photographs, the others with two.
    `LoadTestRefused` if there are none.
    """
    folder = faces or (LFW if LFW.is_dir() else None)
    rng = np.random.default_rng(seed)
    if folder is None:
        made = tuple(_read_bundled(rng, most))
        return FaceDataset(
            made, "scikit-image lfw_subset, enlarged; a second photograph made of each"
        )
    if not folder.is_dir():
        raise LoadTestRefused(
            f"{folder} is not a folder: give one that holds a folder for each person"
        )
    found = [paths for path in sorted(folder.iterdir()) if len(paths := _list(path)) >= 2]
    if not found:
        raise LoadTestRefused(
            f"nobody in {folder} has two photographs: give a folder that holds a folder for each "
            "person"
        )
    chosen = [found[place] for place in rng.permutation(len(found)).tolist()]
    chosen.sort(key=lambda paths: -min(len(paths), MOST_OF_A_PERSON))
    people = tuple(
        tuple(map(_read, paths if place < full else paths[:2]))
        for place, paths in enumerate(chosen[:most])
    )
    return FaceDataset(people, f"{folder.parent.name}/{folder.name}")


def make_second_photograph(data: bytes, serial: int) -> bytes:
    """A JPEG as a second photograph might be: tilted, cropped, in other light, compressed again."""
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


def _read_bundled(rng: np.random.Generator, most: int) -> Iterator[Photographs]:
    try:
        from skimage import data
    except ImportError as error:
        raise LoadTestRefused(
            f"no photographs: give --faces DIR, or {advise_extra('demo')} for some"
        ) from error
    small = np.round(data.lfw_subset()[:BUNDLED_FACES] * 255).clip(0, 255).astype(np.uint8)
    places = [place for place in range(BUNDLED_FACES) if place not in BUNDLED_REPEATS]
    for place in rng.permutation(places).tolist()[:most]:
        photograph = _enlarge(small[place])
        # Three of them: one may turn out unusable.
        yield photograph, *(make_second_photograph(photograph, serial) for serial in (0, 1))


def _enlarge(grey: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(grey)
    size = (image.width * BUNDLED_ENLARGEMENT, image.height * BUNDLED_ENLARGEMENT)
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


IMAGES_A_CALL, ITEMS_A_CALL = 16, 256
RETRIABLE = frozenset({LOST, OVERDUE, 429, 503})
PATIENCE_S, WAIT_S = 15.0, 0.5


class ModelClient:
    """The service's model over HTTP: templates, comparisons and searches with one API key.

    Requests that are put off (429, 503, a lost connection) are repeated; every other answer must
    be good, else `LoadTestRefused`.
    """

    def __init__(self, exchange: ConnectionPool, key: str) -> None:
        self._exchange, self._key = exchange, key
        self.expires_at = datetime.max.replace(tzinfo=UTC)
        """When the first of the issued templates expires."""

    def read_thresholds(self) -> Thresholds:
        answer = self.ask("GET", "/v1/thresholds")["thresholds"]
        return Thresholds(*(float(answer[name]) for name in Thresholds._fields))

    def issue_templates(
        self, photographs: Sequence[bytes], report: ReportProgress
    ) -> list[bytes | str]:
        """A template for each photograph, or the code of the error."""
        done = 0

        def issue_some(some: Sequence[bytes]) -> list[bytes | str]:
            value = {"items": [{"image": one} for one in some]}
            answer = self.ask("POST", "/v1/templates", value)
            expires_at = datetime.fromisoformat(answer["expires_at"])
            self.expires_at = min(self.expires_at, expires_at)
            nonlocal done
            done += len(some)
            report("comparing photographs", done, len(photographs))
            return [one.get("template") or str(one["error"]["code"]) for one in answer["items"]]

        return _in_batches(issue_some, photographs, IMAGES_A_CALL)

    def compare(self, pairs: Sequence[tuple[bytes, bytes]]) -> list[float]:
        """The cosine of each pair of templates."""
        items = [{"probe": {"template": a}, "reference": {"template": b}} for a, b in pairs]
        return [float(one["verification"]["score"]) for one in self._match(items)]

    def search(self, templates: Sequence[bytes]) -> list[tuple[int, int]]:
        """Searches the gallery for each template: how many references were found and searched."""
        items = [{"probe": {"template": one}, "search": True} for one in templates]
        found = [one["identification"] for one in self._match(items)]
        return [(int(one["found"]), int(one["searched"])) for one in found]

    def _match(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        def match_some(some: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = self.ask("POST", "/v1/match", {"items": some})["items"]
            return found

        return _in_batches(match_some, items, ITEMS_A_CALL)

    def ask(self, method: str, path: str, value: Any = None) -> Any:
        """The body of a good answer; `LoadTestRefused` if there is none."""
        return ask_until_answered(self._exchange, method, path, self._key, value).value


def ask_again(
    exchange: ConnectionPool, method: str, path: str, key: str | None, end: float, **more: Any
) -> Reply:
    """Repeats a request that is put off, until `end` (of the monotonic clock)."""
    reply = Reply(OVERDUE)
    while time.monotonic() < end:
        reply = exchange.ask(method, path, key, **more)
        if reply.status not in RETRIABLE:
            break
        gevent.sleep(WAIT_S)
    return reply


def ask_until_answered(
    exchange: ConnectionPool,
    method: str,
    path: str,
    key: str | None,
    value: Any = None,
    headers: dict[str, str] | None = None,
) -> Reply:
    """Repeats a request until it is answered; `LoadTestRefused` if the answer is not good."""
    end = time.monotonic() + PATIENCE_S
    reply = ask_again(exchange, method, path, key, end, value=value, headers=headers)
    if 200 <= reply.status < 300 and reply.value is not None:
        return reply
    said = reply.code or (f"status {reply.status}" if reply.status > 0 else "no answer")
    raise LoadTestRefused(f"the service at {exchange.target.url} answered {said} to {path}")


def _in_batches(
    work: Callable[[Sequence[Item]], list[Answer]], items: Sequence[Item], size: int
) -> list[Answer]:
    """Calls `work` with batches of `size` items, several at once; answers in the items' order."""
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    return [answer for answers in run_concurrently(work, parts) for answer in answers]


MARGIN = 0.01
"""Batches of another size move a score by some millionths."""
RESERVE = 1.25
"""People read for each one wanted: some photographs are unusable, and some pairs do not match."""


@dataclass(frozen=True, slots=True, kw_only=True)
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
    """Those whom a search of the gallery does not find, and whether it holds any reference."""
    known = model.search([person.first.live.template for person in people])
    unknown = [one for one, (found, _) in zip(people, known, strict=True) if not found]
    dropped["known to the gallery, or alike"] += len(people) - len(unknown)
    return unknown, any(searched for _, searched in known)


def are_strangers(one: Person, other: Candidate, scores: Sequence[float], low: float) -> bool:
    """True where no photograph of `other`, nor the mean of its second pair, scores `low` with
    `one`.

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
