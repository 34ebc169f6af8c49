"""The plan: who comes when, as what, with which truth. One seed and one cast give one plan."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import count, cycle
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from loadtest.errors import LoadTestRefused
from loadtest.oracle import NEW, STOPPED, Answer, Expectation, Found, Recognised, expect_duplicate
from loadtest.people import Cast, Pair, Person, Resident, Theft
from loadtest.service_calls import Call, Enroll, Match, Query, Search, Serials

# What comes: kinds of traffic and their shares, and what is planted among the enrollments.


class Traffic(StrEnum):
    """Who comes; each has arrivals, a latency and an objective of its own."""

    ENROLL = "enroll"
    RETURN = "return"
    MATCH = "match"
    QUERY = "query"
    SEARCH = "search"


class Kind(StrEnum):
    """What is planned of a visit, which says what its answer must be."""

    NEWCOMER = "newcomer"
    RETURNING = "returning subscriber"
    DUPLICATE = "planted duplicate"
    STOLEN = "stolen document"
    RETRY = "retry"
    CONFLICT = "key used again"
    RACE = "race"
    MATED = "1:1 of one person"
    STRANGERS = "1:1 of two people"
    OWN_LINES = "own numbers"
    OTHERS_LINES = "another's numbers"
    KNOWN = "search for a known face"
    UNKNOWN = "search for an unknown face"


Mix = Mapping[Traffic, float]

USUAL_MIX: Mix = MappingProxyType(
    {
        Traffic.ENROLL: 0.40,
        Traffic.RETURN: 0.15,
        Traffic.MATCH: 0.25,
        Traffic.QUERY: 0.15,
        Traffic.SEARCH: 0.05,
    }
)
PLANTED: Mapping[Kind, float] = MappingProxyType(
    {
        Kind.DUPLICATE: 0.05,
        Kind.STOLEN: 0.03,
        Kind.RETRY: 0.04,
        Kind.CONFLICT: 0.02,
        Kind.RACE: 0.04,
    }
)
"""Shares of the arrivals that enroll; of each kind one at least where there is room for it."""
PAIRED = frozenset({Kind.RETRY, Kind.CONFLICT, Kind.RACE})
"""Kinds that take two arrivals."""
REPEATED = frozenset({Kind.RETRY, Kind.CONFLICT})
"""Those of them that come with the key of another."""


def read_mix(text: str) -> Mix:
    """`enroll=40,match=60`, in any unit; what is not named does not come."""
    shares: dict[Traffic, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, share = part.partition("=")
        try:
            shares[Traffic(name.strip())] = float(share)
        except ValueError:
            raise LoadTestRefused(
                f"the mix is written as enroll=40,match=60; it may name {', '.join(Traffic)}"
            ) from None
    total = sum(shares.values())
    if not total > 0 or min(shares.values()) < 0 or total == float("inf"):
        raise LoadTestRefused("the mix needs a share above 0, and none below")
    return {traffic: share / total for traffic, share in shares.items() if share}


# Arrivals that are given away: to one planted visit, or to two that belong together.

REPEAT_AFTER_S = 0.7
"""So long at least after the first; a service that is well has answered that by then."""
LAST_SHARE = 0.9
"""Nothing is planted in the last arrivals, so that what follows has room."""


class Slots:
    """Places in a sorted list of moments; each is given once."""

    def __init__(self, moments: Sequence[float], rng: np.random.Generator) -> None:
        self._moments = moments
        self._is_free = [True] * len(moments)
        last = max(1, int(len(moments) * LAST_SHARE))
        self._order = rng.permutation(last).tolist() if moments else []

    def take(self, kind: Kind) -> tuple[int, int] | None:
        """A place at random, and a second one for kinds that take two; None where there is none.

        The second of a race is the next that is free, of the others one that is later.
        """
        while self._order:
            place = self._order.pop()
            if not self._is_free[place]:
                continue
            if kind not in PAIRED:
                self._is_free[place] = False
                return place, place
            after = 0.0 if kind is Kind.RACE else REPEAT_AFTER_S
            second = self._find(place + 1, self._moments[place] + after)
            if second is not None:
                self._is_free[place] = self._is_free[second] = False
                return place, second
        return None

    def list_free(self) -> list[int]:
        return [place for place, is_free in enumerate(self._is_free) if is_free]

    def _find(self, first: int, moment: float) -> int | None:
        start = max(first, bisect_left(self._moments, moment))
        return next((one for one in range(start, len(self._moments)) if self._is_free[one]), None)


# When visits are due: moments drawn from a rate that changes by stretches.


class Process(StrEnum):
    """Evenly spaced, or as independent people come."""

    CONSTANT = "constant"
    POISSON = "poisson"


@dataclass(frozen=True, slots=True)
class Stretch:
    """So many seconds at one rate. What is due in one that is not judged has no latency objective,
    and may be refused; it must still be decided rightly."""

    name: str
    seconds: float
    rate: float
    is_judged: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Sorted seconds from the start, float64[n], and the stretch of each, int64[n]."""

    due_s: NDArray[np.float64]
    stretch: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.due_s)


def draw_moments(
    stretches: Sequence[Stretch], process: Process, rng: np.random.Generator
) -> Moments:
    """All arrivals of the stretches, one after the other."""
    due, places, start = [], [], 0.0
    for place, stretch in enumerate(stretches):
        if process is Process.POISSON:
            # Given their number, moments of a Poisson process are independent and uniform.
            count = int(rng.poisson(stretch.seconds * stretch.rate))
            moments: NDArray[np.float64] = np.sort(rng.uniform(0, stretch.seconds, count))
        else:
            count = round(stretch.seconds * stretch.rate)
            moments = np.arange(0.5, count, dtype=np.float64) / max(stretch.rate, 1e-9)
        due.append(start + moments)
        places.append(np.full(count, place))
        start += stretch.seconds
    return Moments(np.concatenate(due), np.concatenate(places))


# Visits: what is due when, and what its answer must be.


@dataclass(frozen=True, slots=True)
class Visit:
    """One planned request. `number` is its plan number, by which reports name it.

    `partner` is the number of the visit that it repeats or races with, `has_repeat` says that a
    later one comes with its key; `person` is the number of the person whose face it shows, for
    look-alikes to be told from that person himself.
    """

    number: int
    due_s: float
    traffic: Traffic
    kind: Kind
    call: Call = field(repr=False)
    expected: Expectation
    stretch: int = 0
    partner: int | None = None
    person: int | None = None
    has_repeat: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a visit; seconds from the start of its run. Latency counts from when it was
    due, so that a slow server cannot hide behind a load that waits for it."""

    visit: Visit
    started_s: float
    done_s: float
    answer: Answer
    size_bytes: int = 0

    @property
    def latency_s(self) -> float:
        return self.done_s - self.visit.due_s

    @property
    def lateness_s(self) -> float:
        """What the generator itself, or its bound of requests in flight, has added."""
        return self.started_s - self.visit.due_s


OTHERS_SHARE = 0.3
"""Of matches, queries and searches: those whose answer must be no."""


@dataclass(slots=True)
class Planner:
    """Writes the plans of a run's courses; people who come once come in one of them."""

    cast: Cast
    serials: Serials
    rng: np.random.Generator
    _numbers: count[int] = field(default_factory=lambda: count(1))
    _newcomers: list[Person] = field(init=False)
    _racers: list[Person] = field(init=False)
    _residents: cycle[Resident] = field(init=False)
    _thefts: cycle[Theft] = field(init=False)
    _outsiders: cycle[Person] = field(init=False)

    def __post_init__(self) -> None:
        self._newcomers = list(reversed(self.cast.newcomers))
        self._racers = list(reversed(self.cast.racers))
        self._residents = cycle(self.cast.residents)
        self._thefts = cycle(self.cast.thefts)
        self._outsiders = cycle(self.cast.outsiders)

    def write(self, moments: Moments, mix: Mix) -> tuple[Visit, ...]:
        """All visits, in the order in which they are due."""
        traffics = list(mix)
        shares = np.array([mix[traffic] for traffic in traffics])
        drawn = self.rng.choice(len(traffics), len(moments), p=shares)
        visits: list[Visit] = []
        for place, traffic in enumerate(traffics):
            rows = np.flatnonzero(drawn == place)
            due = [(float(moments.due_s[row]), int(moments.stretch[row])) for row in rows]
            visits += self._enroll(due) if traffic is Traffic.ENROLL else self._call(traffic, due)
        return tuple(sorted(visits, key=lambda visit: (visit.due_s, visit.number)))

    def _enroll(self, due: Sequence[tuple[float, int]]) -> Iterator[Visit]:
        slots = Slots([moment for moment, _ in due], self.rng)
        planted: dict[int, tuple[Kind, int | None]] = {}
        for kind, share in PLANTED.items():
            times = max(1, round(share * len(due)))
            for _ in range(min(times, self._count_plantable(kind, times))):
                places = slots.take(kind)
                if places is not None:
                    planted[places[0]] = (kind, places[1] if kind in PAIRED else None)
        plain = slots.list_free()
        fresh = set(self._choose_fresh(plain))
        for place in sorted([*planted, *plain]):
            moment, stretch = due[place]
            if place in planted:
                kind, other = planted[place]
                later = None if other is None else due[other]
                yield from self._plant(kind, (moment, stretch), later)
            elif place in fresh:
                yield self._newcome(moment, stretch)
            else:
                yield self._come_back(Traffic.ENROLL, moment, stretch)

    def _count_plantable(self, kind: Kind, times: int) -> int:
        """Racers come once; the others come again."""
        if kind is Kind.RACE:
            return len(self._racers)
        has_people = self.cast.thefts if kind is Kind.STOLEN else self.cast.residents
        return times if has_people else 0

    def _choose_fresh(self, plain: Sequence[int]) -> Sequence[int]:
        """Where newcomers come: everywhere, or evenly spread where they are too few."""
        count_ = min(len(self._newcomers), len(plain))
        places = np.linspace(0, len(plain), count_, endpoint=False).astype(int)
        return [plain[place] for place in places]

    def _plant(
        self, kind: Kind, first: tuple[float, int], later: tuple[float, int] | None
    ) -> Iterator[Visit]:
        if kind is Kind.RACE:
            yield from self._race(*first)
        elif kind is Kind.DUPLICATE:
            one = next(self._residents)
            truth = expect_duplicate(one.likeness, self.cast.thresholds)
            yield self._visit_new(Kind.DUPLICATE, first, one.second, truth, one.person.number)
        elif kind is Kind.STOLEN:
            theft = next(self._thefts)
            thief = theft.thief
            yield self._visit_old(Kind.STOLEN, first, theft.owner, thief, STOPPED)
        else:
            assert later is not None
            yield from self._repeat(kind, first, later)

    def _race(self, moment: float, stretch: int) -> Iterator[Visit]:
        """One face under two new documents at one moment; `judging.py` has its truth."""
        person = self._racers.pop()
        first = self._visit_new(Kind.RACE, (moment, stretch), person.first, NEW, person.number)
        second = self._visit_new(
            Kind.RACE, (moment, stretch), person.first.swap(), NEW, person.number, first.number
        )
        yield from (first, second)

    def _repeat(
        self, kind: Kind, first: tuple[float, int], later: tuple[float, int]
    ) -> Iterator[Visit]:
        """A returning subscriber, then the same key once more: the same payload, or another."""
        one = self._come_back(Traffic.ENROLL, *first)
        assert isinstance(one.call, Enroll)
        call = one.call
        if kind is Kind.CONFLICT:
            other = self.serials.papers.msisdn(self.serials.draw())
            call = Enroll(call.idempotency_key, call.paper, call.pair, other)
        yield replace(one, has_repeat=True)
        yield self._visit(Traffic.ENROLL, kind, later, call, NEW, one.person, one.number)

    def _newcome(self, moment: float, stretch: int) -> Visit:
        person = self._newcomers.pop()
        return self._visit_new(Kind.NEWCOMER, (moment, stretch), person.first, NEW, person.number)

    def _come_back(self, traffic: Traffic, moment: float, stretch: int) -> Visit:
        one = next(self._residents)
        return self._visit_old(Kind.RETURNING, (moment, stretch), one, one, NEW, traffic=traffic)

    def _call(self, traffic: Traffic, due: Sequence[tuple[float, int]]) -> Iterator[Visit]:
        for moment, stretch in due:
            if traffic is Traffic.RETURN:
                yield self._come_back(traffic, moment, stretch)
                continue
            is_other = self.rng.random() < OTHERS_SHARE
            kind, call, expected, person = self._ask(traffic, is_other=is_other)
            yield self._visit(traffic, kind, (moment, stretch), call, expected, person)

    def _ask(
        self, traffic: Traffic, *, is_other: bool
    ) -> tuple[Kind, Call, Expectation, int | None]:
        cast = self.cast
        has_thefts, has_outsiders = bool(cast.thefts), bool(cast.outsiders)
        if traffic is Traffic.SEARCH and is_other and has_outsiders:
            person = next(self._outsiders)
            search = Search(person.first.live.photograph)
            return Kind.UNKNOWN, search, Found(None), person.number
        if traffic is not Traffic.SEARCH and is_other and has_thefts:
            theft = next(self._thefts)
            owner, thief = theft.owner, theft.thief
            if traffic is Traffic.MATCH:
                match = Match(thief.tokens[0], owner.tokens[0])
                return Kind.STRANGERS, match, Recognised(False), thief.person.number
            query = Query(owner.paper, thief.probe.photograph)
            return Kind.OTHERS_LINES, query, Recognised(False), thief.person.number
        one = next(self._residents)
        number = one.person.number
        if traffic is Traffic.SEARCH:
            return Kind.KNOWN, Search(one.probe.photograph), Found(one.document_id), number
        if traffic is Traffic.MATCH:
            return Kind.MATED, Match(*one.tokens), Recognised(True), number
        return Kind.OWN_LINES, Query(one.paper, one.probe.photograph), Recognised(True, 1), number

    def _visit_new(
        self,
        kind: Kind,
        when: tuple[float, int],
        pair: Pair,
        expected: Expectation,
        person: int,
        partner: int | None = None,
    ) -> Visit:
        """Under a document that nobody has."""
        serial = self.serials.draw()
        papers = self.serials.papers
        call = Enroll(self._key(serial), papers.paper(serial), pair, papers.msisdn(serial))
        return self._visit(Traffic.ENROLL, kind, when, call, expected, person, partner)

    def _visit_old(
        self,
        kind: Kind,
        when: tuple[float, int],
        owner: Resident,
        face: Resident,
        expected: Expectation,
        *,
        traffic: Traffic = Traffic.ENROLL,
    ) -> Visit:
        """Under a resident's document, for a new line, with that face."""
        serial = self.serials.draw()
        msisdn = self.serials.papers.msisdn(serial)
        call = Enroll(self._key(serial), owner.paper, face.second, msisdn)
        return self._visit(traffic, kind, when, call, expected, face.person.number)

    def _key(self, serial: int) -> str:
        return f"loadtest-{self.serials.papers.tag}-{serial}"

    def _visit(
        self,
        traffic: Traffic,
        kind: Kind,
        when: tuple[float, int],
        call: Call,
        expected: Expectation,
        person: int | None,
        partner: int | None = None,
    ) -> Visit:
        number = next(self._numbers)
        return Visit(number, when[0], traffic, kind, call, expected, when[1], partner, person)


def require_playable(visits: Sequence[Visit], mix: Mix) -> None:
    """A plan that says it plants and has nothing to plant is none."""
    if Traffic.ENROLL in mix and not any(visit.kind in PLANTED for visit in visits):
        raise LoadTestRefused(
            "nothing can be planted in so few enrollments: give a higher rate or a longer time"
        )
