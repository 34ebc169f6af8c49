"""Who plays: people of whom the service's own model has said what they look like."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import gevent
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from loadtest.document_numbers import Paper
from loadtest.errors import LoadTestRefused
from loadtest.exchange import Answer, Exchange, Item, Reply, work_together


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Those of the deployment, as it tells them."""

    verify: float
    same_document: float
    review: float
    certain: float


@dataclass(frozen=True, slots=True)
class Shot:
    """A photograph, and the template that the service has issued of it to the fraud key."""

    photograph: bytes = field(repr=False)
    template: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two photographs of one person for an enrollment; `score` is their cosine."""

    live: Shot
    portrait: Shot
    score: float

    @property
    def shots(self) -> tuple[Shot, Shot]:
        return self.live, self.portrait

    def swap(self) -> Pair:
        """The same photographs the other way round: another request, and exactly the same mean."""
        return Pair(self.portrait, self.live, self.score)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody whose first two photographs match; `shots` are all that are fit."""

    number: int
    first: Pair
    shots: tuple[Shot, ...]


@dataclass(frozen=True, slots=True)
class Resident:
    """Somebody whom the preparation has enrolled with the first pair.

    `second` is a pair that matches as well; `likeness` is the cosine of both pairs' means: what a
    search for the one finds of the other. `probe` is a photograph that finds its holder. `tokens`
    are templates of the first pair, issued to the tenant that enrolls.
    """

    person: Person
    second: Pair
    likeness: float
    probe: Shot
    paper: Paper
    document_id: str
    tokens: tuple[bytes, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Theft:
    """Two residents, none of whose photographs the model takes for the other's."""

    owner: Resident
    thief: Resident


@dataclass(frozen=True, slots=True)
class Cast:
    """Newcomers and racers are unknown to the gallery and come once; outsiders never enroll."""

    thresholds: Thresholds
    residents: tuple[Resident, ...]
    thefts: tuple[Theft, ...]
    newcomers: tuple[Person, ...]
    racers: tuple[Person, ...]
    outsiders: tuple[Person, ...]
    had_references: bool
    """Whether somebody was in the gallery before this run."""
    dropped: Mapping[str, int]
    """People who could not play, by the reason."""
    expires_at: datetime
    """When the first of their templates is no longer taken."""

    def require_fresh(self, seconds: float) -> None:
        """`LoadTestRefused` where a template would expire meanwhile: that would be no fault of the
        service."""
        left_s = (self.expires_at - datetime.now(UTC)) / timedelta(seconds=1)
        if left_s < seconds:
            raise LoadTestRefused(
                f"the service takes its templates for {left_s:.0f} s more, and the run needs "
                f"{seconds:.0f}: give fewer --seconds, or raise template_ttl_h"
            )

    def list_people(self) -> Iterator[Person]:
        """Everybody who enrolls."""
        yield from (one.person for one in self.residents)
        yield from self.newcomers
        yield from self.racers


# People with photographs: a folder in LFW's layout, else the faces that scikit-image brings.

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


# Scores of fused photographs from those of single ones.
#
# The service keeps the normalised mean of a person's two photographs. Its cosine with another
# such mean follows exactly from the cosines of the photographs, which `/v1/match` tells: so a
# planted mate is one that the service's own model calls a mate, and no label of a photograph has
# to be believed.


def fuse_single(to_live: float, to_portrait: float, within: float) -> float:
    """Cosine of one photograph with the mean of two, whose own cosine is `within`."""
    return (to_live + to_portrait) / _length(within)


def fuse_both(cross: float, within: float, within_other: float) -> float:
    """Cosine of two means; `cross` is the sum of the four cosines between them."""
    return cross / (_length(within) * _length(within_other))


def _length(within: float) -> float:
    # Of a + b, both of unit length. Opposite photographs have no mean.
    return math.sqrt(max(2 + 2 * within, 1e-12))


# What the service's own model says of photographs, asked over HTTP before any load.

IMAGES_A_CALL, ITEMS_A_CALL = 16, 256
RETRIABLE = frozenset({0, 429, 503})
MOST_RETRIES = 30
WAIT_S = 0.5
Tell = Callable[[int], None]


def ignore(count: int) -> None:
    """For whoever shows no progress."""
    del count


@dataclass(frozen=True, slots=True)
class Known:
    """How many references look like a face, of how many that were searched."""

    found: int
    searched: int


class Survey:
    """Asks with one key; answers that say "later" are asked for again, all others must be good."""

    def __init__(self, exchange: Exchange, key: str) -> None:
        self._exchange, self._key = exchange, key
        self.expires_at = datetime.max.replace(tzinfo=UTC)
        """When the first of the templates that were issued is no longer taken."""

    def read_thresholds(self) -> Thresholds:
        told = self.ask("GET", "/v1/thresholds")["thresholds"]
        names = ("verify", "same_document", "review", "certain")
        return Thresholds(*(float(told[name]) for name in names))

    def issue(self, photographs: Sequence[bytes], tell: Tell = ignore) -> list[bytes | str]:
        """A template of each photograph, or the code of what is wrong with it."""

        def issue_some(some: Sequence[bytes]) -> list[bytes | str]:
            value = {"items": [{"image": one} for one in some]}
            told = self.ask("POST", "/v1/templates", value)
            expires_at = datetime.fromisoformat(told["expires_at"])
            self.expires_at = min(self.expires_at, expires_at)
            tell(len(some))
            return [one.get("template") or str(one["error"]["code"]) for one in told["items"]]

        return _spread(issue_some, photographs, IMAGES_A_CALL)

    def compare(self, pairs: Sequence[tuple[bytes, bytes]]) -> list[float]:
        """The cosine of each two templates."""

        def compare_some(some: Sequence[tuple[bytes, bytes]]) -> list[float]:
            faces = [
                {"probe": {"template": one}, "reference": {"template": two}} for one, two in some
            ]
            items = self.ask("POST", "/v1/match", {"items": faces})["items"]
            return [float(one["verification"]["score"]) for one in items]

        return _spread(compare_some, pairs, ITEMS_A_CALL)

    def look_for(self, templates: Sequence[bytes]) -> list[Known]:
        """What a search of the whole gallery finds of each."""

        def look_for_some(some: Sequence[bytes]) -> list[Known]:
            faces = [{"probe": {"template": one}, "search": True} for one in some]
            items = self.ask("POST", "/v1/match", {"items": faces})["items"]
            found = [one["identification"] for one in items]
            return [Known(int(one["found"]), int(one["searched"])) for one in found]

        return _spread(look_for_some, templates, ITEMS_A_CALL)

    def ask(self, method: str, path: str, value: Any = None) -> Any:
        """The body of a good answer; `LoadTestRefused` where there is none."""
        return ask_patiently(self._exchange, method, path, self._key, value).value


def ask_patiently(
    exchange: Exchange,
    method: str,
    path: str,
    key: str | None,
    value: Any = None,
    headers: dict[str, str] | None = None,
) -> Reply:
    """A good answer, asked for until there is one; `LoadTestRefused` for any that stays bad."""
    reply = Reply(0)
    for _ in range(MOST_RETRIES):
        reply = exchange.ask(method, path, key, value=value, headers=headers)
        if reply.status not in RETRIABLE:
            break
        gevent.sleep(WAIT_S)
    if 200 <= reply.status < 300 and reply.value is not None:
        return reply
    said = reply.code or (f"status {reply.status}" if reply.status > 0 else "no answer")
    raise LoadTestRefused(f"the service at {exchange.target.url} said {said} to {path}")


def _spread(
    work: Callable[[Sequence[Item]], list[Answer]], items: Sequence[Item], size: int
) -> list[Answer]:
    """Parts of the items, several at once; answers in the items' order."""
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    return [answer for answers in work_together(work, parts) for answer in answers]


# Chooses who plays.
#
# Nobody is believed to be anybody. A person plays whose photographs match under the service's
# own model, and who is unknown to its gallery. A duplicate is planted where the mean of the
# second pair scores the threshold for review with that of the first (`likeness`); a theft where
# no photograph of the one scores the threshold for one document with the other. Scores keep
# `MARGIN` from thresholds.

MARGIN = 0.01
"""Batches of other sizes move a score by some millionths."""
RESERVE = 1.25
"""People drawn for each who is wanted: some photographs are unfit, and some pairs do not match."""
Scores = Mapping[tuple[int, int], float]
"""Cosines of a person's shots, by their places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How many of each part; newcomers as many as there are, up to this."""

    residents: int
    newcomers: int
    racers: int
    outsiders: int

    @property
    def people(self) -> int:
        return self.residents + self.newcomers + self.racers + self.outsiders

    @property
    def least(self) -> int:
        """Without newcomers, who may be fewer."""
        return self.people - self.newcomers


@dataclass(frozen=True, slots=True)
class Candidate:
    """A person who may become a resident: with another pair, and a photograph that finds both."""

    person: Person
    second: Pair
    likeness: float
    probe: Shot


def meet_people(
    crowd: Crowd, survey: Survey, thresholds: Thresholds, tell: Tell = ignore
) -> tuple[list[tuple[Person, Scores]], Counter[str]]:
    """Everybody of whom two photographs match, with the cosines; and why the others don't play."""
    photographs = [one for somebody in crowd.people for one in somebody.photographs]
    templates = iter(survey.issue(photographs, tell))
    dropped: Counter[str] = Counter()
    fit: list[list[Shot]] = []
    for somebody in crowd.people:
        issued = [(one, next(templates)) for one in somebody.photographs]
        fit.append([Shot(one, token) for one, token in issued if isinstance(token, bytes)])
        dropped.update(token for _, token in issued if isinstance(token, str))
    places = [list(combinations(range(len(shots)), 2)) for shots in fit]
    scores = iter(
        survey.compare(
            [
                (shots[one].template, shots[two].template)
                for shots, pairs in zip(fit, places, strict=True)
                for one, two in pairs
            ]
        )
    )
    met = []
    for number, (shots, pairs) in enumerate(zip(fit, places, strict=True)):
        cosines: Scores = {pair: next(scores) for pair in pairs}
        first = next(
            (pair for pair, score in cosines.items() if _verifies(score, thresholds)), None
        )
        if first is None:
            dropped["two photographs that match: none"] += 1
            continue
        pair = Pair(shots[first[0]], shots[first[1]], cosines[first])
        met.append((Person(number, pair, tuple(shots)), cosines))
    return met, dropped


def drop_known(
    met: Sequence[tuple[Person, Scores]], survey: Survey, dropped: Counter[str]
) -> tuple[list[tuple[Person, Scores]], bool]:
    """Those whom a search of the gallery does not find; and whether it holds anybody."""
    known = survey.look_for([person.first.live.template for person, _ in met])
    unknown = [one for one, told in zip(met, known, strict=True) if not told.found]
    dropped["known to the gallery, or alike"] += len(met) - len(unknown)
    return unknown, any(one.searched for one in known)


def list_candidates(
    met: Sequence[tuple[Person, Scores]], thresholds: Thresholds
) -> Iterator[Candidate]:
    """Who can be a resident, in the crowd's order."""
    for person, scores in met:
        candidate = _complete(person, scores, thresholds)
        if candidate is not None:
            yield candidate


def are_strangers(one: Person, other: Candidate, scores: Sequence[float], low: float) -> bool:
    """Whether no photograph of `other`, nor the mean of its second pair, scores `low` with `one`.

    `scores` are the cosines of one's first pair with the other's shots, as `list_crossings` has
    them.
    """
    within = one.first.score
    count = len(other.person.shots)
    live, portrait = scores[:count], scores[count:]
    singles = [fuse_single(live[place], portrait[place], within) for place in range(count)]
    places = [_find(other.person.shots, shot) for shot in other.second.shots]
    cross = sum(live[place] + portrait[place] for place in places)
    mean = fuse_both(cross, within, other.second.score)
    return max(*singles, *scores, mean) < low - MARGIN


def list_crossings(one: Person, other: Person) -> list[tuple[bytes, bytes]]:
    """The first pair of the one with all shots of the other, to be compared."""
    return [(mine.template, theirs.template) for mine in one.first.shots for theirs in other.shots]


def require_enough(people: int, wanted: Wanted, dropped: Mapping[str, int]) -> None:
    """`LoadTestRefused` where there are fewer than the parts that must be played."""
    if people < wanted.least:
        reasons = "; ".join(f"{reason} {count}" for reason, count in dropped.items() if count)
        raise LoadTestRefused(
            f"{people} people can play, {wanted.least} are needed ({reasons or 'no more are there'}"
            "): give more as --faces, or erase those whom an earlier run has left enrolled"
        )


def _complete(person: Person, scores: Scores, thresholds: Thresholds) -> Candidate | None:
    shots = person.shots
    first = tuple(_find(shots, shot) for shot in person.first.shots)
    low = max(thresholds.review, thresholds.same_document, thresholds.verify) + MARGIN
    for places in _order_pairs(len(shots), first):
        score = _look_up(scores, *places)
        cross = sum(_look_up(scores, mine, theirs) for mine in first for theirs in places)
        likeness = fuse_both(cross, person.first.score, score)
        if _verifies(score, thresholds) and likeness >= low:
            pair = Pair(shots[places[0]], shots[places[1]], score)
            return Candidate(person, pair, likeness, _choose_probe(person, scores, first, low))
    return None


def _choose_probe(person: Person, scores: Scores, first: tuple[int, ...], low: float) -> Shot:
    """A photograph that is not of the first pair where one finds its holder; else of that."""
    for place, shot in enumerate(person.shots):
        to_first = [_look_up(scores, place, one) for one in first]
        is_new = place not in first
        if is_new and fuse_single(to_first[0], to_first[1], person.first.score) >= low:
            return shot
    return person.first.live


def _order_pairs(count: int, first: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All pairs but the first itself; those with fewest photographs of the first come first."""
    pairs = [pair for pair in permutations(range(count), 2) if pair != first]
    return sorted(pairs, key=lambda pair: len(set(pair) & set(first)))


def _look_up(scores: Scores, one: int, two: int) -> float:
    return 1.0 if one == two else scores[min(one, two), max(one, two)]


def _find(shots: Sequence[Shot], shot: Shot) -> int:
    return next(place for place, one in enumerate(shots) if one is shot)


def _verifies(score: float, thresholds: Thresholds) -> bool:
    return score >= thresholds.verify + MARGIN
