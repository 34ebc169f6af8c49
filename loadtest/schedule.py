"""The plan: which request is due when, and what its answer must be.

The same seed and the same participants give the same plan.
"""

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
from loadtest.participants import Holder, ImpostorPair, LoadParticipants, Person, PhotographPair
from loadtest.service_calls import (
    IMPOSTOR_REJECTED,
    NEW,
    NOBODY_FOUND,
    NOT_RECOGNISED,
    Answer,
    Call,
    Enroll,
    ExpectedAnswer,
    Serials,
    expect_duplicate,
    expect_found,
    expect_lines,
    match,
    query,
    search,
)


class Traffic(StrEnum):
    """Kinds of traffic; each has its own arrivals, latencies and objective."""

    ENROLL = "enroll"
    RETURN = "return"
    MATCH = "match"
    QUERY = "query"
    SEARCH = "search"


class Kind(StrEnum):
    """The plan of a visit, which says what its answer must be."""

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

DEFAULT_MIX: Mix = MappingProxyType(
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
"""Shares of the enrollments; at least one of each kind if there is room for it."""
PAIRED = frozenset({Kind.RETRY, Kind.CONFLICT, Kind.RACE})
"""Kinds that take two arrivals."""
REPEATED = frozenset({Kind.RETRY, Kind.CONFLICT})
"""Kinds that use the Idempotency-Key of an earlier visit."""


def read_mix(text: str) -> Mix:
    """Reads `enroll=40,match=60`, in any unit; traffic that is not named has no share."""
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


REPEAT_AFTER_S = 0.7
"""The shortest time after the first; a healthy service has answered that by then."""
LAST_SHARE = 0.9
"""Nothing is planted in the last arrivals, so that its repeat has room."""


class Slots:
    """Indices of sorted moments, each taken once: by one planted visit, or by two together."""

    def __init__(self, moments: Sequence[float], rng: np.random.Generator) -> None:
        self._moments = moments
        self._is_free = [True] * len(moments)
        last = max(1, int(len(moments) * LAST_SHARE))
        self._order = rng.permutation(last).tolist() if moments else []

    def take(self, kind: Kind) -> tuple[int, int] | None:
        """A random index, and a second one for kinds that take two; None if there is no room.

        The second of a race is the next free one, of the others one that is later.
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


class ArrivalProcess(StrEnum):
    """The spacing of arrivals: even, or as those of independent people."""

    CONSTANT = "constant"
    POISSON = "poisson"


@dataclass(frozen=True, slots=True)
class LoadPhase:
    """A part of a run at one rate (arrivals a second).

    In a phase that is not judged there is no latency objective, and requests may be refused; they
    must still be decided rightly.
    """

    name: str
    seconds: float
    rate: float
    is_judged: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Arrivals:
    """When visits are due, in sorted seconds from the start: float64[n]; their phases: int64[n]."""

    due_s: NDArray[np.float64]
    phase: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.due_s)


def draw_arrivals(
    phases: Sequence[LoadPhase], process: ArrivalProcess, rng: np.random.Generator
) -> Arrivals:
    """Draws the arrivals of all phases, one phase after the other."""
    due, places, start = [], [], 0.0
    for place, phase in enumerate(phases):
        if process is ArrivalProcess.POISSON:
            # Given their number, moments of a Poisson process are independent and uniform.
            count = int(rng.poisson(phase.seconds * phase.rate))
            moments: NDArray[np.float64] = np.sort(rng.uniform(0, phase.seconds, count))
        else:
            count = round(phase.seconds * phase.rate)
            moments = np.arange(0.5, count, dtype=np.float64) / max(phase.rate, 1e-9)
        due.append(start + moments)
        places.append(np.full(count, place))
        start += phase.seconds
    return Arrivals(np.concatenate(due), np.concatenate(places))


@dataclass(frozen=True, slots=True)
class Visit:
    """One planned request. `number` is its plan number, by which reports name it.

    `partner` is the number of the visit that it repeats or races with; `has_repeat` says that a
    later one uses its key; `person` is the number of the person whose face it shows.
    """

    number: int
    due_s: float
    traffic: Traffic
    kind: Kind
    call: Call | Enroll = field(repr=False)
    expected: ExpectedAnswer
    phase: int = 0
    partner: int | None = None
    person: int | None = None
    has_repeat: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a visit, in seconds from the start of its run.

    Latency counts from when it was due, so that a slow service cannot hide behind a load that waits
    for it.
    """

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
        """The delay by the generator itself, or by its bound on requests in flight."""
        return self.started_s - self.visit.due_s


NEGATIVE_SHARE = 0.3
"""Share of matches, queries and searches whose answer must be no."""
Due = tuple[float, int]
"""When a visit is due, in seconds, and its phase."""


_CALLED: Mapping[Kind, tuple[Traffic, bool]] = {
    Kind.MATED: (Traffic.MATCH, False),
    Kind.STRANGERS: (Traffic.MATCH, True),
    Kind.OWN_LINES: (Traffic.QUERY, False),
    Kind.OTHERS_LINES: (Traffic.QUERY, True),
    Kind.KNOWN: (Traffic.SEARCH, False),
    Kind.UNKNOWN: (Traffic.SEARCH, True),
}
"""The traffic of each kind that stores nothing, and whether its answer must be no."""


@dataclass(slots=True)
class Planner:
    """Plans the visits of one or more steps; people who enroll once do so in one of them."""

    participants: LoadParticipants
    serials: Serials
    rng: np.random.Generator
    _numbers: count[int] = field(default_factory=lambda: count(1))
    _newcomers: list[Person] = field(init=False)
    _racers: list[Person] = field(init=False)
    _holders: cycle[Holder] = field(init=False)
    _impostor_pairs: cycle[ImpostorPair] = field(init=False)
    _outsiders: cycle[Person] = field(init=False)

    def __post_init__(self) -> None:
        self._newcomers = list(reversed(self.participants.newcomers))
        self._racers = list(reversed(self.participants.racers))
        self._holders = cycle(self.participants.holders)
        self._impostor_pairs = cycle(self.participants.impostor_pairs)
        self._outsiders = cycle(self.participants.outsiders)

    def write(self, arrivals: Arrivals, mix: Mix) -> tuple[Visit, ...]:
        """All visits, in the order in which they are due."""
        traffics = list(mix)
        shares = np.array([mix[traffic] for traffic in traffics])
        drawn = self.rng.choice(len(traffics), len(arrivals), p=shares)
        visits: list[Visit] = []
        for place, traffic in enumerate(traffics):
            rows = np.flatnonzero(drawn == place)
            due = [(float(arrivals.due_s[row]), int(arrivals.phase[row])) for row in rows]
            visits += self._enroll(due) if traffic is Traffic.ENROLL else self._call(traffic, due)
        return tuple(sorted(visits, key=lambda visit: (visit.due_s, visit.number)))

    def draw(self, kind: Kind) -> tuple[Visit, ...]:
        """A visit of this kind, of some kinds two, for whoever sends it when he likes.

        Where nobody is there for it, a known subscriber opens another line.
        """
        now: Due = (0.0, 0)
        if kind in PLANTED:
            is_possible = self._count_plantable(kind, 1) > 0
            planted = tuple(self._plant(kind, now, now)) if is_possible else ()
            return planted or (self._visit_returning(Traffic.ENROLL, now),)
        if kind is Kind.NEWCOMER and self._newcomers:
            person = self._newcomers.pop()
            return (self._visit_new(kind, now, person.first, NEW, person.number),)
        if kind in _CALLED:
            traffic, is_other = _CALLED[kind]
            found, call, expected, number = self._choose_call(traffic, is_other=is_other)
            return (self._visit(traffic, found, now, call, expected, number),)
        return (self._visit_returning(Traffic.RETURN, now),)

    def _enroll(self, due: Sequence[Due]) -> Iterator[Visit]:
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
            if place in planted:
                kind, other = planted[place]
                yield from self._plant(kind, due[place], None if other is None else due[other])
            elif place in fresh:
                person = self._newcomers.pop()
                yield self._visit_new(Kind.NEWCOMER, due[place], person.first, NEW, person.number)
            else:
                yield self._visit_returning(Traffic.ENROLL, due[place])

    def _count_plantable(self, kind: Kind, times: int) -> int:
        """Racers enroll once; holders and impostors can be used again."""
        if kind is Kind.RACE:
            return len(self._racers)
        has_people = (
            self.participants.impostor_pairs if kind is Kind.STOLEN else self.participants.holders
        )
        return times if has_people else 0

    def _choose_fresh(self, plain: Sequence[int]) -> Sequence[int]:
        """Indices for newcomers: all, or evenly spread if there are too few people."""
        count_ = min(len(self._newcomers), len(plain))
        places = np.linspace(0, len(plain), count_, endpoint=False).astype(int)
        return [plain[place] for place in places]

    def _plant(self, kind: Kind, first: Due, later: Due | None) -> Iterator[Visit]:
        if kind is Kind.RACE:
            yield from self._race(first)
        elif kind is Kind.DUPLICATE:
            one = next(self._holders)
            truth = expect_duplicate(one.fused_score, self.participants.thresholds)
            yield self._visit_new(Kind.DUPLICATE, first, one.second, truth, one.person.number)
        elif kind is Kind.STOLEN:
            pair = next(self._impostor_pairs)
            yield self._visit_old(Kind.STOLEN, first, pair.holder, pair.impostor, IMPOSTOR_REJECTED)
        else:
            assert later is not None
            yield from self._repeat(kind, first, later)

    def _race(self, due: Due) -> Iterator[Visit]:
        """One face under two new documents at one moment; `judging` compares both answers."""
        person = self._racers.pop()
        number, other = person.number, person.first.swap()
        first = self._visit_new(Kind.RACE, due, person.first, NEW, number)
        yield first
        yield self._visit_new(Kind.RACE, due, other, NEW, number, first.number)

    def _repeat(self, kind: Kind, first: Due, later: Due) -> Iterator[Visit]:
        """A returning subscriber, then the same key again with the same payload or with another."""
        one = self._visit_returning(Traffic.ENROLL, first)
        assert isinstance(one.call, Enroll)
        call = one.call
        if kind is Kind.CONFLICT:
            other = self.serials.numbers.msisdn(self.serials.draw())
            call = Enroll(call.idempotency_key, call.passport, call.pair, other)
        yield replace(one, has_repeat=True)
        yield self._visit(Traffic.ENROLL, kind, later, call, NEW, one.person, one.number)

    def _visit_returning(self, traffic: Traffic, due: Due) -> Visit:
        one = next(self._holders)
        return self._visit_old(Kind.RETURNING, due, one, one, NEW, traffic=traffic)

    def _call(self, traffic: Traffic, due: Sequence[Due]) -> Iterator[Visit]:
        for one in due:
            if traffic is Traffic.RETURN:
                yield self._visit_returning(traffic, one)
            else:
                is_other = self.rng.random() < NEGATIVE_SHARE
                kind, call, expected, person = self._choose_call(traffic, is_other=is_other)
                yield self._visit(traffic, kind, one, call, expected, person)

    def _choose_call(
        self, traffic: Traffic, *, is_other: bool
    ) -> tuple[Kind, Call, ExpectedAnswer, int | None]:
        participants = self.participants
        if traffic is Traffic.SEARCH and is_other and participants.outsiders:
            person = next(self._outsiders)
            call = search(person.first.live.photograph)
            return Kind.UNKNOWN, call, NOBODY_FOUND, person.number
        if traffic is not Traffic.SEARCH and is_other and participants.impostor_pairs:
            pair = next(self._impostor_pairs)
            holder, impostor = pair.holder, pair.impostor
            if traffic is Traffic.MATCH:
                call = match(impostor.tokens[0], holder.tokens[0])
                return Kind.STRANGERS, call, NOT_RECOGNISED, impostor.person.number
            call = query(holder.passport, impostor.probe.photograph)
            return Kind.OTHERS_LINES, call, NOT_RECOGNISED, impostor.person.number
        one = next(self._holders)
        number = one.person.number
        if traffic is Traffic.SEARCH:
            return Kind.KNOWN, search(one.probe.photograph), expect_found(one.document_id), number
        if traffic is Traffic.MATCH:
            return Kind.MATED, match(*one.tokens), expect_lines(0), number
        own = query(one.passport, one.probe.photograph)
        return Kind.OWN_LINES, own, expect_lines(1), number

    def _visit_new(
        self,
        kind: Kind,
        due: Due,
        pair: PhotographPair,
        expected: ExpectedAnswer,
        person: int,
        partner: int | None = None,
    ) -> Visit:
        """An enrollment under a new document."""
        serial = self.serials.draw()
        numbers = self.serials.numbers
        call = Enroll(self._key(serial), numbers.passport(serial), pair, numbers.msisdn(serial))
        return self._visit(Traffic.ENROLL, kind, due, call, expected, person, partner)

    def _visit_old(
        self,
        kind: Kind,
        due: Due,
        holder: Holder,
        face: Holder,
        expected: ExpectedAnswer,
        *,
        traffic: Traffic = Traffic.ENROLL,
    ) -> Visit:
        """An enrollment under a holder's document for a new line, with the given face."""
        serial = self.serials.draw()
        msisdn = self.serials.numbers.msisdn(serial)
        call = Enroll(self._key(serial), holder.passport, face.second, msisdn)
        return self._visit(traffic, kind, due, call, expected, face.person.number)

    def _key(self, serial: int) -> str:
        return f"loadtest-{self.serials.numbers.tag}-{serial}"

    def _visit(
        self,
        traffic: Traffic,
        kind: Kind,
        due: Due,
        call: Call | Enroll,
        expected: ExpectedAnswer,
        person: int | None,
        partner: int | None = None,
    ) -> Visit:
        number = next(self._numbers)
        return Visit(number, due[0], traffic, kind, call, expected, due[1], partner, person)


def require_planted(visits: Sequence[Visit], mix: Mix) -> None:
    """`LoadTestRefused` if no visit of a plan with enrollments is planted."""
    if Traffic.ENROLL in mix and not any(visit.kind in PLANTED for visit in visits):
        raise LoadTestRefused(
            "nothing can be planted in so few enrollments: give a higher rate or a longer time"
        )
