"""No pair is asked about twice, by a sweep or an attempt, unless its evidence changes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import select

from engine.cases.decided import open_sweep_cases, read_decided
from engine.matching.checks.order import replay
from engine.matching.holders import erase_holder
from engine.registry import audit, references
from engine.registry.writer import publish
from schema.cases import CaseKind, CaseOrigin, Outcome
from schema.reasons import Decision, Reason
from schema.sweeps import GroupKind
from tests.engine.cases.test_sweep_cases import ANNA, group_of
from tests.engine.records import newest_cases
from tests.tables import tables

Face = NDArray[np.float32]


class Couple:
    """Two holders with this score, and the request of the first."""

    def __init__(self, service: Any, score: float = 0.59) -> None:
        self._service = service
        self.first: Face = service.lab.people.person()
        self.second: Face = service.lab.people.between(self.first, score)
        requests = [self.request(face) for face in (self.first, self.second)]
        self.document = requests[0].document
        answers = service.registrar.enroll(requests)
        assert [one.decision for one in answers] == [Decision.APPROVED] * 2
        self.ids = tuple(one.decided.document_id for one in answers)
        self.pair = (min(self.ids), max(self.ids))

    def request(self, face: Face, **more: Any) -> Any:
        return self._service.lab.request(face, noise=0.0, **more)

    def come_again(self, likeness: float) -> Any:
        """The first under their document, so much drawn towards the second."""
        face = self.first + likeness * self.second
        face = (face / np.linalg.norm(face)).astype(np.float32)
        return self._service.registrar.enroll([self.request(face, document=self.document)])[0]

    def decide(self, outcome: Outcome) -> str:
        case = self._service.open(*self.ids)
        self._service.decide(case.id, outcome)
        return str(case.id)

    def replace_face(self, face: Face) -> None:
        """The first document has a second reference, of this face."""

        def perform(writer: Any, _: Any) -> None:
            reference = references.NewReference(
                writer.next_reference_id(), self.ids[0], None, face, writer.sequence + 1
            )
            entry = audit.AuditEntry("test", "reference.added", self.ids[0])
            changes = [entry, reference]
            publish(writer, self._service.registrar.gallery, changes)

        self._service.registrar.run(perform)


def test_a_twin_who_was_decided_on_is_no_finding_again(service) -> None:
    twins = Couple(service)
    before = twins.come_again(0.05)
    assert before.reasons == (Reason.POSSIBLE_DUPLICATE,)
    [case] = newest_cases(service.store.cases)
    assert case.id == before.decided.cases[0].id
    service.decide(case.id, Outcome.TWINS)
    after = twins.come_again(0.05)
    assert (after.decision, after.reasons, after.decided.cases) == (Decision.APPROVED, (), [])
    recorded = service.store.enrollment(after.decided.enrollment_id)
    [excepted] = recorded.evidence.inputs["excepted"]
    assert excepted["document_id"] == twins.ids[1]
    assert replay(recorded).agrees
    # The other twin's face under this document is another matter, by whatever model it is scored.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.cases.decided.MORE_ALIKE", 1.0)
        swapped = twins.come_again(3.0)
    assert Reason.DUPLICATE_IDENTITY in swapped.reasons
    drawn_near = twins.come_again(0.3)
    assert Reason.DUPLICATE_IDENTITY in drawn_near.reasons
    assert len(newest_cases(service.store.cases)) == 1


def test_who_is_not_the_holder_gains_nothing_by_what_was_decided_of_them(service) -> None:
    twins = Couple(service)
    twins.decide(Outcome.TWINS)
    stranger = service.lab.people.between(twins.second, 0.62)
    refused = service.registrar.enroll([twins.request(stranger, document=twins.document)])[0]
    assert set(refused.reasons) == {Reason.DOCUMENT_HELD_BY_ANOTHER_FACE, Reason.POSSIBLE_DUPLICATE}


def test_what_was_found_to_be_fraud_is_not_asked_again(service) -> None:
    couple = Couple(service)
    decided = couple.decide(Outcome.FRAUD)
    again = couple.come_again(0.05)
    # The finding stands; the case is the one in which people decided.
    assert Reason.POSSIBLE_DUPLICATE in again.reasons
    [case] = again.decided.cases
    assert (case.id, case.kind) == (decided, CaseKind.POSSIBLE_DUPLICATE)
    assert newest_cases(service.store.cases) == []


@pytest.mark.parametrize("outcome", [Outcome.TWINS, Outcome.FRAUD])
def test_a_later_group_asks_about_the_new_pairs_alone(service, outcome: Outcome) -> None:
    couple = Couple(service)
    earlier = couple.decide(outcome)
    [third], [fourth] = ([one.document_id] for one in service.enroll(2))
    sweep = service.store_sweep(0.5)
    grown = group_of(GroupKind.ONE_FACE, "k1", *couple.ids, third)
    apart = group_of(GroupKind.ONE_FACE, "k2", *couple.ids, fourth)
    kept = tuple(one for one in apart.links if couple.ids[1] not in (one.left, one.right))
    decided = tuple(one for one in apart.links if {one.left, one.right} == set(couple.ids))
    apart = replace(apart, links=(*kept, *decided))
    cases = open_sweep_cases(*service.context, sweep, [grown], ANNA)
    assert set(service.store.cases.get(cases["k1"]).suspect_ids) == {*couple.ids, third}
    service.decide(cases["k1"], Outcome.MISTAKE)
    judged = {(one.left_document, one.right_document): one for one in service.store.judged_pairs()}
    assert (judged[couple.pair].outcome, judged[couple.pair].case_id) == (outcome, earlier)
    assert len(judged) == 3
    # A member that is linked by a decided pair alone is no part of the question.
    later = open_sweep_cases(*service.context, service.store_sweep(0.5), [apart], ANNA)
    assert set(service.store.cases.get(later["k2"]).document_ids) == {couple.ids[0], fourth}
    assert open_sweep_cases(*service.context, service.store_sweep(0.5), [grown], ANNA) == cases


def test_other_evidence_makes_it_a_question_again(service) -> None:
    couple = Couple(service)
    first = couple.decide(Outcome.TWINS)
    assert read_decided(service.store).exceptions == {couple.pair}
    # Another reference as alike as before changes nothing.
    couple.replace_face(service.lab.people.between(couple.second, 0.6))
    assert read_decided(service.store).exceptions == {couple.pair}
    couple.replace_face(couple.second)
    decided = read_decided(service.store, couple.ids)
    assert (decided.standing, decided.changed) == ({}, {couple.pair})
    group = group_of(GroupKind.ONE_FACE, "k1", *couple.ids)
    cases = open_sweep_cases(*service.context, service.store_sweep(0.5), [group], ANNA)
    assert cases["k1"] != first
    service.decide(cases["k1"], Outcome.FRAUD)
    [pair] = service.store.judged_pairs()
    assert (pair.outcome, pair.case_id) == (Outcome.FRAUD, cases["k1"])
    assert pair.score > 0.99
    assert read_decided(service.store).standing == {couple.pair: Outcome.FRAUD}


def test_a_case_of_decided_pairs_alone_decides_them_anew(service) -> None:
    couple = Couple(service)
    couple.decide(Outcome.MISTAKE)
    again = service.open(*couple.ids, origin=CaseOrigin.DECISION)
    service.decide(again.id, Outcome.FRAUD)
    [pair] = service.store.judged_pairs()
    assert (pair.outcome, pair.case_id) == (Outcome.FRAUD, again.id)


class Newcomer:
    """Somebody who looks like a holder and was never enrolled."""

    def __init__(self, service: Any, score: float = 0.62) -> None:
        self._service = service
        people = service.lab.people
        self.holder: Face = people.person()
        self.face: Face = people.between(self.holder, score)
        first = self._request(self.holder)
        self.holders_document = service.registrar.enroll([first])[0].decided.document_id
        self.document = self._request(self.face).document

    def _request(self, face: Face, **more: Any) -> Any:
        return self._service.lab.request(face, noise=0.0, **more)

    def come(self, face: Face | None = None) -> Any:
        """Visit with the document; with somebody else's face, where one is given."""
        shown = self.face if face is None else face
        return self._service.registrar.enroll([self._request(shown, document=self.document)])[0]


@pytest.mark.parametrize("score", [0.62, 0.8])
def test_who_was_judged_a_look_alike_before_ever_being_enrolled_is_enrolled(
    service, score: float
) -> None:
    new = Newcomer(service, score)
    refused = new.come()
    assert refused.reasons in ((Reason.POSSIBLE_DUPLICATE,), (Reason.DUPLICATE_IDENTITY,))
    assert new.come().decided.cases == refused.decided.cases
    service.decide(refused.decided.cases[0].id, Outcome.TWINS)
    [pair] = service.store.judged_pairs()
    assert {pair.left_document, pair.right_document} == {
        new.holders_document,
        refused.decided.document_id,
    }
    assert pair.score == pytest.approx(score, abs=1e-5)
    after = new.come()
    assert (after.decision, after.reasons, after.decided.cases) == (Decision.APPROVED, (), [])
    assert replay(service.store.enrollment(after.decided.enrollment_id)).agrees
    assert new.come().decision is Decision.APPROVED
    assert newest_cases(service.store.cases) == []
    # The reference is compared from now on: what the attempts showed has gone.
    assert service.store.rows(select(tables.attempt_templates)) == []


def test_no_other_face_is_let_through_by_what_was_decided_of_an_attempt(service) -> None:
    new = Newcomer(service)
    case = new.come().decided.cases[0].id
    service.decide(case, Outcome.TWINS)
    people = service.lab.people
    look_alike = people.between(new.holder, 0.62)
    nearer = new.face + 0.15 * new.holder
    watched = new.come(new.holder)
    for answer in (watched, new.come(look_alike), new.come(nearer / np.linalg.norm(nearer))):
        assert answer.decision is not Decision.APPROVED
        assert answer.decided.cases[0].id != case
    # Whoever decides the next case has seen several faces under this document: none is let in.
    service.decide(watched.decided.cases[0].id, Outcome.TWINS)
    for face in (new.face, new.holder, look_alike):
        assert new.come(face).decision is not Decision.APPROVED


def test_what_was_found_to_be_fraud_of_an_attempt_is_not_asked_again(service) -> None:
    new = Newcomer(service)
    [case] = new.come().decided.cases
    service.decide(case.id, Outcome.FRAUD)
    again = new.come()
    assert (again.decision, again.decided.cases) == (Decision.REVIEW, [case])
    assert newest_cases(service.store.cases) == []
    # What the attempts showed goes with an erasure.
    assert len(service.store.rows(select(tables.attempt_templates))) == 1
    erase_holder(*service.context, again.decided.document_id, "test")
    assert service.store.rows(select(tables.attempt_templates)) == []


def test_a_photograph_of_the_day_that_was_decided_on_is_not_asked_about_again(service) -> None:
    twins = Couple(service)
    twins.decide(Outcome.TWINS)
    asked = twins.come_again(0.2)
    assert asked.decided.scores.best_candidate > 0.59 + 0.05
    service.decide(asked.decided.cases[0].id, Outcome.TWINS)
    assert twins.come_again(0.2).reasons == ()
    [pair] = service.store.judged_pairs()
    # Of the attempt, not of the references: it says nothing of what a new reference may be.
    assert pair.score == pytest.approx(0.59, abs=1e-5)
    assert twins.come_again(0.4).decided.cases
    twins.replace_face(service.lab.people.between(twins.second, 0.66))
    assert read_decided(service.store).changed == {twins.pair}
