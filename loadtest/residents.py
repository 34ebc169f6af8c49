"""Enrolls residents before the load, and finds two who cannot be taken for each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from loadtest.access import Access, Serials
from loadtest.calls import ENROLLMENTS, Enroll
from loadtest.cast import Resident, Theft
from loadtest.casting import Candidate, are_strangers, list_crossings
from loadtest.crew import work_together
from loadtest.guests import Guests
from loadtest.survey import Survey, ask_patiently
from loadtest.truth import APPROVED, read_answer

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
