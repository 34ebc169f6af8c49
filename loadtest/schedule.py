"""The plan: which request is due when, and what its answer must be.

The same seed and the same participants give the same plan.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from enum import StrEnum
from itertools import count, cycle
from types import MappingProxyType

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from loadtest.errors import LoadTestRefused
from loadtest.participants import LoadParticipants, PhotographPair, SpecimenNumbers
from loadtest.service_calls import (
    IMPOSTOR_REJECTED,
    NEW,
    NOBODY_FOUND,
    NOT_RECOGNISED,
    Answer,
    Call,
    ExpectedAnswer,
    enroll,
    expect_duplicate,
    expect_found,
    expect_lines,
    match,
    query,
    search,
)
from schema import frozen
from serving.wire.fields import Document


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


def choose_places(
    moments: Sequence[float], kinds: Iterable[Kind], rng: np.random.Generator
) -> tuple[dict[int, tuple[Kind, int]], list[int]]:
    """Random indices of sorted moments for planted visits, as far as there is room, each with the
    index of its second (of a race the next free one, of most kinds itself); and those left."""
    last = max(1, int(len(moments) * LAST_SHARE))
    order = rng.permutation(last).tolist() if moments else []
    free = dict.fromkeys(range(len(moments)))
    chosen: dict[int, tuple[Kind, int]] = {}
    for kind in kinds:
        after = 0.0 if kind is Kind.RACE else REPEAT_AFTER_S
        while order:
            place = order.pop()
            second = place
            if kind in PAIRED:
                start = max(place + 1, bisect_left(moments, moments[place] + after))
                second = next((one for one in range(start, len(moments)) if one in free), -1)
            if place in free and second >= 0:
                chosen[place] = (kind, second)
                for one in {place, second}:
                    del free[one]
                break
    return chosen, list(free)


class ArrivalProcess(StrEnum):
    """The spacing of arrivals: even, or as those of independent people."""

    CONSTANT = "constant"
    POISSON = "poisson"


@frozen
class LoadPhase:
    """A part of a run at one rate (arrivals a second); in one that is not judged requests may be
    late or refused, and must still be decided rightly."""

    name: str
    seconds: float
    rate: float
    is_judged: bool = True


Due = tuple[float, int]
"""When a visit is due, in seconds from the start, and its phase."""


def draw_arrivals(
    phases: Sequence[LoadPhase], process: ArrivalProcess, rng: np.random.Generator
) -> list[Due]:
    """The arrivals of all phases in order, one phase after the other."""
    arrivals: list[Due] = []
    start = 0.0
    for place, phase in enumerate(phases):
        if process is ArrivalProcess.POISSON:
            # Given their number, moments of a Poisson process are independent and uniform.
            count = int(rng.poisson(phase.seconds * phase.rate))
            moments: NDArray[np.float64] = np.sort(rng.uniform(0, phase.seconds, count))
        else:
            count = round(phase.seconds * phase.rate)
            moments = np.arange(0.5, count, dtype=np.float64) / max(phase.rate, 1e-9)
        arrivals += [(moment, place) for moment in (start + moments).tolist()]
        start += phase.seconds
    return arrivals


@frozen
class Visit:
    """One planned request, with its plan number, that of the visit that it repeats or races with,
    and that of the `person` whose face it shows; `has_repeat`: a later one uses its key."""

    number: int
    due_s: float
    traffic: Traffic
    kind: Kind
    call: Call = field(repr=False)
    expected: ExpectedAnswer
    phase: int = 0
    partner: int | None = None
    person: int | None = None
    has_repeat: bool = False


@frozen
class Outcome:
    """The outcome of a visit, in seconds from the start of its run; latency counts from when it was
    due, so that a slow service cannot hide behind a load that waits for it."""

    visit: Visit
    started_s: float
    done_s: float
    answer: Answer
    size_bytes: int = 0

    @property
    def latency_s(self) -> float:
        return self.done_s - self.visit.due_s


NEGATIVE_SHARE = 0.3
"""Share of matches, queries and searches whose answer must be no."""
_CALLED: Mapping[Kind, tuple[Traffic, bool]] = {
    Kind.MATED: (Traffic.MATCH, False),
    Kind.STRANGERS: (Traffic.MATCH, True),
    Kind.OWN_LINES: (Traffic.QUERY, False),
    Kind.OTHERS_LINES: (Traffic.QUERY, True),
    Kind.KNOWN: (Traffic.SEARCH, False),
    Kind.UNKNOWN: (Traffic.SEARCH, True),
}
"""The traffic of each kind that stores nothing, and whether its answer must be no."""


class Planner:
    """Plans the visits of one or more steps; people who enroll once do so in one of them."""

    def __init__(
        self, participants: LoadParticipants, specimens: SpecimenNumbers, rng: np.random.Generator
    ) -> None:
        self.participants, self.specimens, self.rng = participants, specimens, rng
        self._numbers = count(1)
        self._newcomers = list(reversed(participants.newcomers))
        self._racers = list(reversed(participants.racers))
        self._holders = cycle(participants.holders)
        self._impostor_pairs = cycle(participants.impostor_pairs)
        self._outsiders = cycle(participants.outsiders)

    def write(self, arrivals: Sequence[Due], mix: Mix) -> tuple[Visit, ...]:
        """All visits, in the order in which they are due."""
        traffics = list(mix)
        shares = np.array([mix[traffic] for traffic in traffics])
        drawn = self.rng.choice(len(traffics), len(arrivals), p=shares)
        visits: list[Visit] = []
        for place, traffic in enumerate(traffics):
            due = [one for one, own in zip(arrivals, drawn, strict=True) if own == place]
            visits += self._enroll(due) if traffic is Traffic.ENROLL else self._call(traffic, due)
        return tuple(sorted(visits, key=lambda visit: (visit.due_s, visit.number)))

    def draw(self, kind: Kind) -> tuple[Visit, ...]:
        """A visit of this kind, of some kinds two, for whoever sends it when he likes.

        Where nobody is there for it, a known subscriber opens another line.
        """
        now: Due = (0.0, 0)
        if kind in PLANTED:
            if self._count_plantable(kind, 1):
                return tuple(self._plant(kind, now, now))
            return (self._visit_returning(Traffic.ENROLL, now),)
        if kind is Kind.NEWCOMER and self._newcomers:
            return (self._visit_newcomer(now),)
        if kind in _CALLED:
            traffic, is_other = _CALLED[kind]
            found, call, expected, number = self._choose_call(traffic, is_other=is_other)
            return (self._visit(traffic, found, now, call, expected, number),)
        return (self._visit_returning(Traffic.RETURN, now),)

    def _enroll(self, due: Sequence[Due]) -> Iterator[Visit]:
        kinds: list[Kind] = []
        for kind, share in PLANTED.items():
            times = max(1, round(share * len(due)))
            kinds += [kind] * min(times, self._count_plantable(kind, times))
        planted, plain = choose_places([moment for moment, _ in due], kinds, self.rng)
        fresh = set(self._choose_fresh(plain))
        for place in sorted([*planted, *plain]):
            if place in planted:
                kind, second = planted[place]
                yield from self._plant(kind, due[place], due[second])
            elif place in fresh:
                yield self._visit_newcomer(due[place])
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

    def _plant(self, kind: Kind, first: Due, later: Due) -> Iterator[Visit]:
        if kind is Kind.RACE:
            # One face under two new documents at one moment; `criteria` compares both answers.
            person = self._racers.pop()
            one = self._visit_enrolling(kind, first, person.first, NEW, person.number)
            yield one
            other = person.first.swap()
            again = self._visit_enrolling(kind, first, other, NEW, person.number)
            yield replace(again, partner=one.number)
        elif kind is Kind.DUPLICATE:
            holder = next(self._holders)
            truth = expect_duplicate(holder.fused_score, self.participants.thresholds)
            number = holder.person.number
            yield self._visit_enrolling(kind, first, holder.second, truth, number)
        elif kind is Kind.STOLEN:
            pair = next(self._impostor_pairs)
            face, number = pair.impostor.second, pair.impostor.person.number
            passport = pair.holder.passport
            yield self._visit_enrolling(kind, first, face, IMPOSTOR_REJECTED, number, passport)
        else:
            yield from self._repeat(kind, first, later)

    def _repeat(self, kind: Kind, first: Due, later: Due) -> Iterator[Visit]:
        """A returning subscriber, then the same key again with the same payload or with another."""
        one = self._visit_returning(Traffic.ENROLL, first)
        call = one.call
        if kind is Kind.CONFLICT:
            msisdn = self.specimens.msisdn(self.specimens.draw())
            call = replace(call, body=structs.replace(call.body, msisdn=msisdn))
        yield replace(one, has_repeat=True)
        again = self._visit(Traffic.ENROLL, kind, later, call, NEW, one.person)
        yield replace(again, partner=one.number)

    def _visit_newcomer(self, due: Due) -> Visit:
        one = self._newcomers.pop()
        return self._visit_enrolling(Kind.NEWCOMER, due, one.first, NEW, one.number)

    def _visit_returning(self, traffic: Traffic, due: Due) -> Visit:
        one = next(self._holders)
        number = one.person.number
        kind = Kind.RETURNING
        visit = self._visit_enrolling(kind, due, one.second, NEW, number, one.passport)
        return replace(visit, traffic=traffic)

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

    def _visit_enrolling(
        self,
        kind: Kind,
        due: Due,
        pair: PhotographPair,
        expected: ExpectedAnswer,
        person: int,
        passport: Document | None = None,
    ) -> Visit:
        """An enrollment for a new line, by default under a new document."""
        numbers, serial = self.specimens, self.specimens.draw()
        key = f"loadtest-{numbers.tag}-{serial}"
        shown = passport or numbers.passport(serial)
        call = enroll(key, shown, pair, numbers.msisdn(serial))
        return self._visit(Traffic.ENROLL, kind, due, call, expected, person)

    def _visit(
        self,
        traffic: Traffic,
        kind: Kind,
        due: Due,
        call: Call,
        expected: ExpectedAnswer,
        person: int | None,
    ) -> Visit:
        number, (due_s, phase) = next(self._numbers), due
        return Visit(number, due_s, traffic, kind, call, expected, phase, person=person)


def require_planted(visits: Sequence[Visit], mix: Mix) -> None:
    """`LoadTestRefused` if no visit of a plan with enrollments is planted."""
    if Traffic.ENROLL in mix and not any(visit.kind in PLANTED for visit in visits):
        raise LoadTestRefused(
            "nothing can be planted in so few enrollments: give a higher rate or a longer time"
        )
