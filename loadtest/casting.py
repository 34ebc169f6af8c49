"""Chooses who plays.

Nobody is believed to be anybody. A person plays whose photographs match under the service's own
model, and who is unknown to its gallery. A duplicate is planted where the mean of the second pair
scores the threshold for review with that of the first (`likeness`); a theft where no photograph of
the one scores the threshold for one document with the other. Scores keep `MARGIN` from thresholds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

from loadtest.cast import Pair, Person, Shot, Thresholds
from loadtest.crowd import Crowd
from loadtest.errors import LoadTestRefused
from loadtest.likeness import fuse_both, fuse_single
from loadtest.survey import Survey, Tell, ignore

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
