"""Before and after the load: selects and enrolls people, and erases whom the test enrolled."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import gevent

from loadtest.exchange import (
    NOT_STARTED,
    ConnectionPool,
    Keys,
    ModelClient,
    ReportProgress,
    refusing,
    run_concurrently,
)
from loadtest.participants import (
    RESERVE,
    Candidate,
    FaceDataset,
    Holder,
    ImpostorPair,
    LoadParticipants,
    ParticipantCounts,
    SpecimenNumbers,
    are_strangers,
    choose_second,
    drop_known,
    list_cross_pairs,
    make_numbers,
    open_dataset,
    require_enough,
    select_people,
)
from loadtest.service_calls import APPROVED, Access, Answer, enroll, open_access, read_version
from schema import frozen
from serving.client import Activation, ApiError, CallFailed, ErasureCertificate, Options
from serving.client.transport import Erased
from serving.wire.oversight import Version

TIMED_OUT = 408


@dataclass(slots=True)
class EnrollmentTracker:
    """Everybody whom the load test has, or may have, enrolled: ids of documents that have a holder,
    and the number of requests without a clear answer by their Idempotency-Key."""

    documents: dict[str, None] = field(default_factory=dict)
    open: Counter[str] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """The most people who can be enrolled."""
        return len(self.documents) + len(self.open)

    def begin(self, key: str | None) -> None:
        """To be called before each request: an interrupt may come before the answer to its key."""
        if key is not None:
            self.open[key] += 1

    def finish(self, key: str | None, answer: Answer) -> None:
        """To be called when a request has ended, with an answer or without."""
        if key is None:
            return
        is_refused = 400 <= answer.status < 500 and answer.status != TIMED_OUT
        if answer.is_good:
            self.settle(key, answer.decision, answer.document_id)
        elif is_refused or answer.status == NOT_STARTED:
            # It says that nothing was decided: a lost answer and an internal error do not.
            self.open -= Counter([key])

    def settle(self, key: str, decision: str | None, document_id: str | None) -> None:
        """Records the decision on a key, which is decided once."""
        self.open.pop(key, None)
        if decision == APPROVED and document_id is not None:
            self.documents[document_id] = None


MOST_IMPOSTOR_PAIRS = 256
"""Pairs of holders that are compared."""
Tokens = tuple[bytes, bytes]


def enroll_holders(
    access: Access,
    candidates: Sequence[Candidate],
    specimens: SpecimenNumbers,
    enrolled: EnrollmentTracker,
    dropped: Counter[str],
    report: ReportProgress,
) -> tuple[Holder, ...]:
    """Enrolls the candidates; returns those approved. Each is tracked before it is sent."""
    samples = [sample.photograph for one in candidates for sample in one.person.first.samples]
    issued = ModelClient(access.enroll).issue_templates(samples, report)
    jobs: list[tuple[Candidate, int, Tokens]] = []
    for place, candidate in enumerate(candidates):
        one, two = issued[2 * place : 2 * place + 2]
        if isinstance(one, bytes) and isinstance(two, bytes):
            jobs.append((candidate, specimens.draw(), (one, two)))
    report("enrolling holders", 0, len(jobs))
    made = run_concurrently(partial(_enroll, access, specimens, enrolled), jobs)
    dropped.update(f"not approved: {one}" for one in made if isinstance(one, str))
    return tuple(one for one in made if isinstance(one, Holder))


def find_impostor_pairs(
    model: ModelClient, holders: Sequence[Holder], low: float
) -> tuple[ImpostorPair, ...]:
    """Each holder with the next one as impostor, if all scores between them are below `low`."""
    if len(holders) < 2:
        return ()
    pairs = list(zip(holders, (*holders[1:], holders[0]), strict=True))[:MOST_IMPOSTOR_PAIRS]
    asked = [list_cross_pairs(holder.person, impostor.person) for holder, impostor in pairs]
    scores = iter(model.compare([one for cross_pairs in asked for one in cross_pairs]))
    return tuple(
        ImpostorPair(holder, impostor)
        for (holder, impostor), cross_pairs in zip(pairs, asked, strict=True)
        if are_strangers(holder.person, impostor, list(islice(scores, len(cross_pairs))), low)
    )


def _enroll(
    access: Access,
    numbers: SpecimenNumbers,
    enrolled: EnrollmentTracker,
    job: tuple[Candidate, int, Tokens],
) -> Holder | str:
    """The holder, or the reasons of a decision that was no approval."""
    candidate, serial, tokens = job
    key = f"loadtest-{numbers.tag}-holder-{serial}"
    passport = numbers.passport(serial)
    body = enroll(key, passport, candidate.person.first, numbers.msisdn(serial)).body
    assert isinstance(body, Activation)
    enrolled.begin(key)
    with refusing():
        answer = access.enroll.enroll(access.complete(body, datetime.now(UTC)))
    enrolled.settle(key, answer.decision, answer.document_id)
    if answer.decision != APPROVED or answer.document_id is None:
        return " ".join(sorted({one.reason for one in answer.reasons})) or answer.decision
    return Holder(
        person=candidate.person,
        second=candidate.second,
        fused_score=candidate.fused_score,
        probe=candidate.probe,
        passport=passport,
        document_id=answer.document_id,
        tokens=tokens,
    )


LEAST_HOLDERS = 2


def prepare(
    access: Access,
    dataset: FaceDataset,
    wanted: ParticipantCounts,
    specimens: SpecimenNumbers,
    enrolled: EnrollmentTracker,
    report: ReportProgress,
) -> LoadParticipants:
    """Selects the participants and enrolls the holders, whom `enrolled` tracks."""
    model = access.model
    thresholds = model.read_thresholds()
    people, dropped = select_people(dataset, model, thresholds, report)
    people, had_references = drop_known(people, model, dropped)
    require_enough(len(people), wanted, dropped)
    found = (choose_second(person, thresholds) for person in people)
    candidates = [*islice(filter(None, found), round(wanted.holders * RESERVE))]
    holders = enroll_holders(access, candidates, specimens, enrolled, dropped, report)
    chosen = {one.person.number for one in candidates}
    others = [one for one in people if one.number not in chosen]
    # A person who resembles a holder would be taken for him, which is the model's own error.
    others, _ = drop_known(others, model, dropped)
    is_enough = len(holders) >= LEAST_HOLDERS
    require_enough((len(holders) + len(others)) * is_enough, wanted, dropped)
    first, second = wanted.racers, wanted.racers + wanted.outsiders
    low = min(thresholds.verify, thresholds.same_document)
    return LoadParticipants(
        thresholds=thresholds,
        holders=holders,
        impostor_pairs=find_impostor_pairs(model, holders, low),
        newcomers=tuple(others[second : second + wanted.newcomers]),
        racers=tuple(others[:first]),
        outsiders=tuple(others[first:second]),
        had_references=had_references,
        dropped={reason: times for reason, times in dropped.most_common() if times},
        # The templates of the fraud key were issued first.
        expires_at=model.expires_at,
    )


PATIENCE_S = 60.0
"""For all of the cleaning: who is left after it is reported."""
SETTLE_S = 2.0
"""How long a request may still be decided after its client has given up."""
NOT_FOUND = 404


@dataclass(slots=True)
class Cleaner:
    """Erases from the registry whom a load test has enrolled, within `timeout_s`."""

    access: Access
    enrolled: EnrollmentTracker
    report: ReportProgress
    timeout_s: float = PATIENCE_S
    settle_s: float = SETTLE_S

    def clean(self, *, keep_enrolled: bool) -> None:
        """Looks up the requests without an answer by their keys, then erases all holders.

        `enrolled` holds afterwards who is left: all with `keep_enrolled`, or without a key that may
        erase. Refused attempts and their cases stay, as for any refusal.
        """
        end = time.monotonic() + self.timeout_s
        for is_last in (False, True):
            if is_last and self.enrolled.open:
                gevent.sleep(self.settle_s)
            find = partial(self._find, end=end, is_last=is_last)
            run_concurrently(find, list(self.enrolled.open))
        if not keep_enrolled and self.access.erase is not None:
            erase = partial(self._erase, self.access.erase.erase, end, len(self.enrolled.documents))
            run_concurrently(erase, list(self.enrolled.documents))

    def _find(self, key: str, end: float, *, is_last: bool) -> None:
        found, is_unknown = _ask(self.access.enroll.find_enrollment, key, end)
        if found is not None:
            self.enrolled.settle(key, found.decision, found.document_id)
        elif is_unknown and is_last:
            del self.enrolled.open[key]
        self.report("looking up enrollments without an answer", 0, 0)

    def _erase(self, ask: Ask[Erased], end: float, total: int, document_id: str) -> None:
        erased, is_unknown = _ask(ask, document_id, end)
        # A document that is gone needs no erasing; one may wait for a case that the test opened.
        if is_unknown or isinstance(erased, ErasureCertificate):
            del self.enrolled.documents[document_id]
        done = total - len(self.enrolled.documents)
        self.report("erasing people enrolled by the test", done, total)


T = TypeVar("T")
Ask = Callable[[str, Options], T]
"""A call of a client about one key or document."""


def _ask(ask: Ask[T], about: str, end: float) -> tuple[T | None, bool]:
    """The answer by `end` (of the monotonic clock), None without one; and whether the service knows
    nothing of it."""
    left_s = end - time.monotonic()
    if left_s <= 0:
        return None, False
    try:
        return ask(about, Options(timeout_s=left_s)), False
    except CallFailed as failure:
        return None, isinstance(failure, ApiError) and failure.status == NOT_FOUND


@frozen
class LoadSession:
    """A service with the people of a load test in it; `about` is its version and model."""

    about: Version
    access: Access
    dataset: str
    participants: LoadParticipants
    specimens: SpecimenNumbers
    enrolled: EnrollmentTracker


@contextmanager
def open_session(
    pool: ConnectionPool,
    keys: Keys,
    outlet: str | None,
    wanted: ParticipantCounts,
    *,
    faces: Path | None,
    seed: int,
    report: ReportProgress,
    keep_enrolled: bool = False,
    is_local: bool = False,
) -> Iterator[LoadSession]:
    """Prepares the people; erases all whom the test enrolled at the end, even after an interrupt,
    and says then who is left. `LoadTestRefused` where the service or the people will not do."""
    about = read_version(pool.target)
    with open_access(pool, keys, outlet) as access:
        # Some of them with all their photographs.
        people, whole = round(wanted.people * RESERVE) + 2, round(wanted.holders * RESERVE)
        dataset = open_dataset(faces, people, whole, seed)
        specimens, enrolled = make_numbers(datetime.now(UTC).year), EnrollmentTracker()
        is_over = False
        try:
            try:
                participants = prepare(access, dataset, wanted, specimens, enrolled, report)
                yield LoadSession(about, access, dataset.source, participants, specimens, enrolled)
            finally:
                # A local service is deleted with all that is in it.
                if not is_local:
                    Cleaner(access, enrolled, report).clean(keep_enrolled=keep_enrolled)
            is_over = True
        finally:
            if not is_over and not is_local:
                tell_left(enrolled)


def tell_left(enrolled: EnrollmentTracker) -> None:
    """Says on standard error who stays enrolled, if anybody."""
    if enrolled.count:
        sys.stderr.write(
            f"sosie: up to {enrolled.count} people stay enrolled: an operator can erase them\n"
        )
