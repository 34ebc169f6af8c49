"""Enrolls residents before the load, and finds two who cannot be taken for each other."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

import gevent

from loadtest.exchange import NOT_STARTED, OVERDUE, Reply, work_together
from loadtest.oracle import APPROVED, Answer, read_answer
from loadtest.people import (
    RESERVE,
    RETRIABLE,
    WAIT_S,
    Candidate,
    Cast,
    Crowd,
    Person,
    Resident,
    Scores,
    Survey,
    Tell,
    Theft,
    Wanted,
    are_strangers,
    ask_patiently,
    drop_known,
    list_candidates,
    list_crossings,
    meet_people,
    require_enough,
)
from loadtest.service_calls import ENROLLMENTS, Access, Enroll, Report, Serials

# Whom a load test may have enrolled: those it knows of, and those of whom no answer told.

TIMED_OUT = 408


@dataclass(slots=True)
class Guests:
    """`documents` have a holder now; `open` are Idempotency-Keys, each with the number of its
    requests of which nobody knows what became."""

    documents: dict[str, None] = field(default_factory=dict)
    open: Counter[str] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """At most so many people are enrolled."""
        return len(self.documents) + len(self.open)

    def expect(self, key: str) -> None:
        """Before each request with that key: an interrupt may come before its answer."""
        self.open[key] += 1

    def settle(self, key: str, answer: Answer) -> None:
        """When a request has ended, with an answer or without."""
        if answer.is_good:
            # A key is decided once.
            self.open.pop(key, None)
            self.admit(answer.decision, answer.document_id)
        elif _is_undecided(answer):
            self.forget(key)

    def admit(self, decision: str | None, document_id: str | None) -> None:
        """A decision that has become known."""
        if decision == APPROVED and document_id is not None:
            self.documents[document_id] = None

    def forget(self, key: str) -> None:
        """One request of that key has enrolled nobody."""
        self.open[key] -= 1
        if self.open[key] <= 0:
            del self.open[key]


def _is_undecided(answer: Answer) -> bool:
    """The service says that it has not decided; a lost or late answer says nothing, nor does a
    fault of the service's own."""
    is_refused = 400 <= answer.status < 500 and answer.status != TIMED_OUT
    return is_refused or answer.status == NOT_STARTED


MOST_CROSSINGS = 256
"""Pairs of residents that are looked at for thieves."""
Tokens = tuple[bytes, bytes]


def settle(
    access: Access,
    candidates: Sequence[Candidate],
    serials: Serials,
    guests: Guests,
    dropped: Counter[str],
) -> tuple[Resident, ...]:
    """Those who were approved; each is among the `guests` from before the service is asked."""
    own = Survey(access.exchange, access.keys.enroll)
    shots = [shot.photograph for one in candidates for shot in one.person.first.shots]
    issued = own.issue(shots)
    jobs: list[tuple[Candidate, int, Tokens]] = []
    for place, candidate in enumerate(candidates):
        one, two = issued[2 * place : 2 * place + 2]
        if isinstance(one, bytes) and isinstance(two, bytes):
            jobs.append((candidate, serials.draw(), (one, two)))

    def settle_one(job: tuple[Candidate, int, Tokens]) -> Resident | str:
        return _enroll(access, serials, guests, *job)

    made = work_together(settle_one, jobs)
    dropped.update(f"not approved: {one}" for one in made if isinstance(one, str))
    return tuple(one for one in made if isinstance(one, Resident))


def find_thefts(
    survey: Survey, candidates: Sequence[Candidate], residents: Sequence[Resident], low: float
) -> tuple[Theft, ...]:
    """Each resident as the owner, the next one as the thief, where no score of theirs is `low`."""
    if len(residents) < 2:
        return ()
    by_person = {one.person.number: one for one in candidates}
    pairs = list(zip(residents, (*residents[1:], residents[0]), strict=True))[:MOST_CROSSINGS]
    asked = [list_crossings(owner.person, thief.person) for owner, thief in pairs]
    scores = survey.compare([one for crossing in asked for one in crossing])
    thefts, start = [], 0
    for (owner, thief), crossing in zip(pairs, asked, strict=True):
        mine = scores[start : start + len(crossing)]
        start += len(crossing)
        if are_strangers(owner.person, by_person[thief.person.number], mine, low):
            thefts.append(Theft(owner, thief))
    return tuple(thefts)


def _enroll(
    access: Access,
    serials: Serials,
    guests: Guests,
    candidate: Candidate,
    serial: int,
    tokens: Tokens,
) -> Resident | str:
    """The resident, or the reasons why there is none."""
    papers = serials.papers
    key = f"loadtest-{papers.tag}-resident-{serial}"
    call = Enroll(key, papers.paper(serial), candidate.person.first, papers.msisdn(serial))
    body, headers = call.write(access.terms), {"Idempotency-Key": key}
    guests.expect(key)
    answer = read_answer(
        ask_patiently(access.exchange, "POST", ENROLLMENTS, access.keys.enroll, body, headers)
    )
    guests.settle(key, answer)
    if answer.decision != APPROVED or answer.document_id is None:
        return " ".join(sorted(answer.reasons)) or answer.describe()
    return Resident(
        person=candidate.person,
        second=candidate.second,
        likeness=candidate.likeness,
        probe=candidate.probe,
        paper=call.paper,
        document_id=answer.document_id,
        tokens=tokens,
    )


# Makes the truth that a load is held against: surveys people, enrolls residents, finds thieves.

LEAST_RESIDENTS = 2


def prepare(
    access: Access,
    crowd: Crowd,
    wanted: Wanted,
    serials: Serials,
    guests: Guests,
    report: Report,
) -> Cast:
    """The cast; residents are enrolled, and among the `guests`."""
    survey = Survey(access.exchange, access.keys.fraud)
    thresholds = survey.read_thresholds()
    met, dropped = meet_people(crowd, survey, thresholds, _count_up(crowd, report))
    met, had_references = drop_known(met, survey, dropped)
    require_enough(len(met), wanted, dropped)
    candidates = list(list_candidates(met, thresholds))[: round(wanted.residents * RESERVE)]
    report("enrolling residents", 0, len(candidates))
    residents = settle(access, candidates, serials, guests, dropped)
    chosen = {one.person.number for one in candidates}
    others = [one for one in met if one[0].number not in chosen]
    # Whom a resident's reference resembles would be taken for him, which is the model's own error.
    others, _ = drop_known(others, survey, dropped)
    is_enough = len(residents) >= LEAST_RESIDENTS
    require_enough((len(residents) + len(others)) * is_enough, wanted, dropped)
    racers, outsiders, newcomers = _part(others, wanted)
    low = min(thresholds.verify, thresholds.same_document)
    return Cast(
        thresholds=thresholds,
        residents=residents,
        thefts=find_thefts(survey, candidates, residents, low),
        newcomers=newcomers,
        racers=racers,
        outsiders=outsiders,
        had_references=had_references,
        dropped={reason: times for reason, times in dropped.most_common() if times},
        # The fraud key's templates are the first.
        expires_at=survey.expires_at,
    )


def count_people(wanted: Wanted) -> tuple[int, int]:
    """How many to draw from a crowd, and of how many all photographs may be of use."""
    return round(wanted.people * RESERVE) + 2, round(wanted.residents * RESERVE)


def _count_up(crowd: Crowd, report: Report) -> Tell:
    total = sum(len(one.photographs) for one in crowd.people)
    done = 0

    def tell(photographs: int) -> None:
        nonlocal done
        done += photographs
        report("looking at photographs", done, total)

    return tell


def _part(
    others: Sequence[tuple[Person, Scores]], wanted: Wanted
) -> tuple[tuple[Person, ...], tuple[Person, ...], tuple[Person, ...]]:
    people = [person for person, _ in others]
    first, second = wanted.racers, wanted.racers + wanted.outsiders
    end = second + wanted.newcomers
    return tuple(people[:first]), tuple(people[first:second]), tuple(people[second:end])


# Takes out of a registry whom a load test has put in.

PATIENCE_S = 60.0
"""For all of it: a service that still answers nothing then is left as it is, and that is said."""
SETTLE_S = 2.0
"""A request whose client has given up may be decided for so long."""
NOT_FOUND = 404


@dataclass(slots=True)
class Cleaner:
    """Asks again while the service says "later" and there is time."""

    access: Access
    guests: Guests
    report: Report
    patience_s: float = PATIENCE_S
    settle_s: float = SETTLE_S

    def clean(self, *, keeps: bool) -> None:
        """Erases the holders that are known, and those it finds by the keys of requests without
        an answer. `guests` are those who are left: all, where no key may erase or it `keeps` them.

        What was planted and refused leaves attempts and cases, as any refusal does.
        """
        end = time.monotonic() + self.patience_s
        if self.guests.open:
            work_together(lambda key: self._find(key, end, is_last=False), list(self.guests.open))
        if self.guests.open:
            gevent.sleep(self.settle_s)
            work_together(lambda key: self._find(key, end, is_last=True), list(self.guests.open))
        if not keeps and self.access.eraser is not None:
            documents = list(self.guests.documents)
            work_together(lambda one: self._erase(one, end, len(documents)), documents)

    def _find(self, key: str, end: float, *, is_last: bool) -> None:
        path = f"{ENROLLMENTS}?idempotency_key={quote(key, safe='')}"
        reply = self._ask("GET", path, self.access.keys.enroll, end)
        if reply.status == NOT_FOUND and is_last:
            del self.guests.open[key]
        elif 200 <= reply.status < 300 and isinstance(reply.value, dict):
            del self.guests.open[key]
            self.guests.admit(reply.value.get("decision"), reply.value.get("document_id"))
        self.report("looking up whom no answer told of", 0, 0)

    def _erase(self, document_id: str, end: float, total: int) -> None:
        path = f"/v1/documents/{document_id}"
        reply = self._ask("DELETE", path, self.access.eraser, end)
        # Not there any more is as good.
        if 200 <= reply.status < 300 or reply.status == NOT_FOUND:
            del self.guests.documents[document_id]
        done = total - len(self.guests.documents)
        self.report("erasing whom the test enrolled", done, total)

    def _ask(self, method: str, path: str, key: str | None, end: float) -> Reply:
        reply = Reply(OVERDUE)
        while time.monotonic() < end:
            reply = self.access.exchange.ask(method, path, key)
            if reply.status not in RETRIABLE and reply.status != OVERDUE:
                break
            gevent.sleep(WAIT_S)
        return reply
