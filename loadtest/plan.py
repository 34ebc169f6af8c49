"""The plan: who comes when, as what, with which truth. One seed and one cast give one plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, cycle

import numpy as np

from loadtest.access import Serials
from loadtest.arrivals import Moments
from loadtest.calls import Call, Enroll, Match, Query, Search
from loadtest.cast import Cast, Pair, Person, Resident, Theft
from loadtest.errors import LoadTestRefused
from loadtest.mix import PAIRED, PLANTED, Kind, Mix, Traffic
from loadtest.slots import Slots
from loadtest.truth import NEW, STOPPED, Expectation, Found, Recognised, expect_duplicate
from loadtest.visits import Visit

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
