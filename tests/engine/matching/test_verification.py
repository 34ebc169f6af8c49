"""A face against a holder: the right score, the right tenant, and an entry in the audit."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from engine.errors import GalleryBehind, NotFound, RequestError, StorageFailed
from engine.matching import holders
from engine.matching.checks.second_model import FILLED
from engine.matching.comparison import fuse_vectors
from engine.matching.lines import close_line
from engine.matching.verification import HolderCheck, HolderComparison, HolderProbe
from engine.registry import references
from engine.registry.audit import AuditEntry
from engine.registry.cases import CaseChange
from indexes.errors import IdInvalid, VectorInvalid
from indexes.gallery import Gallery
from indexes.segmented.segments import SegmentedIndex
from schema.cases import CaseOrigin, NoteKind
from tests.engine.matching.conftest import guard_of
from tests.engine.records import ENTRY, newest_cases

ANY = HolderProbe(vector=np.zeros(64, np.float32), threshold=0.42, actor="key:1")


def check_document(*given: Any) -> HolderCheck:
    return _compare(*given[:2], *given[3:]).check_document(given[2])


def check_line(*given: Any) -> HolderCheck:
    return _compare(*given[:2], *given[3:]).check_line(given[2])


def _compare(registrar: Any, registry: Any, probe: Any, audit: Any) -> HolderComparison:
    guard = guard_of(registry, registrar)
    return HolderComparison(registrar, registry, probe, lambda entry, _: audit(entry), guard)


def probe_of(vector: Any, carrier: str | None = None) -> HolderProbe:
    return replace(ANY, vector=vector, carrier=carrier)


def test_a_face_is_scored_against_the_reference_that_the_enrollment_left(lab, registrar) -> None:
    person, request = lab.newcomer()
    entries: list[AuditEntry] = []
    probe = lab.people.sample(person).vector
    other = lab.people.between(probe, 0.2)
    document_id = registrar.enroll([request, lab.request()])[0].decided.document_id
    target = request.document
    mine = check_document(registrar, lab.store, target, probe_of(probe), entries.append)
    by_id = check_document(registrar, lab.store, document_id, probe_of(probe), entries.append)
    by_line = check_line(registrar, lab.store, request.msisdn, probe_of(probe), entries.append)
    theirs = check_document(registrar, lab.store, target, probe_of(other), entries.append)
    reference = fuse_vectors(request.live.vector, request.portrait.vector)
    expected = float(np.float32(reference.astype(np.float64) @ probe.astype(np.float64)))
    assert (mine.is_match, mine.score, mine.threshold) == (True, expected, 0.42)
    assert by_id == mine
    assert by_line.line_id
    assert structs.replace(by_line, line_id=None) == mine
    assert not theirs.is_match
    line = {"line": by_line.line_id}
    assert [(each.subject, each.detail) for each in entries] == [
        (document_id, {"matched": True}),
        (document_id, {"matched": True}),
        (document_id, {"matched": True} | line),
    ]
    assert {(each.actor, each.action) for each in entries} == {("key:1", "holder.checked")}
    (kept,) = lab.entries("holder.checked")
    assert (kept.actor, kept.subject, kept.detail) == ("key:1", document_id, {"matched": False})


def test_another_face_on_a_line_opens_one_case_however_often_it_comes(lab, registrar) -> None:
    (holder, request, held), other = lab.holder(registrar), lab.people.person()
    line, document = held.line_id, held.document_id
    checks = [
        check_line(registrar, lab.store, text, probe_of(other), pytest.fail)
        for text in (request.msisdn, line)
    ]
    checks.append(check_document(registrar, lab.store, document, probe_of(other), pytest.fail))
    matched = check_line(registrar, lab.store, line, probe_of(holder), print)
    assert matched.case_id is None
    (case,) = newest_cases(lab.store.cases)
    assert {check.case_id for check in checks} == {case.id}
    assert (case.kind, case.origin) == ("line_changed_face", CaseOrigin.REVERIFICATION)
    assert (case.document_ids, case.line_id, case.line_ids) == ((document,), line, (line,))
    assert case.enrollment_id == held.enrollment_id
    # The holder is wronged, if anybody is.
    assert case.suspect_ids == ()
    assert case.score == checks[0].score
    # Each time is in the audit, and the history is not filled by whoever tries on and on.
    assert [note.kind for note in lab.store.cases.notes(case.id)] == [NoteKind.OPENED]
    told = lab.entries("holder.checked", "case.opened")
    actions = [one.action for one in told if one.actor == "key:1"]
    assert actions == ["holder.checked", "case.opened", "holder.checked", "holder.checked"]


def test_a_line_that_fails_again_days_later_says_so_in_its_case(lab, registrar) -> None:
    line, other = lab.holder(registrar).decided.line_id, lab.people.person()
    check_line(registrar, lab.store, line, probe_of(other), pytest.fail)
    (case,) = newest_cases(lab.store.cases)
    older = replace(
        case,
        opened_at=case.opened_at - timedelta(days=2),
        updated_at=case.updated_at - timedelta(days=2),
    )
    registrar.run(lambda writer, _: writer.commit([ENTRY, CaseChange(older)]))
    check_line(registrar, lab.store, line, probe_of(other), pytest.fail)
    (merged,) = lab.store.cases.merged_into(case.id)
    assert (merged.line_id, merged.opened_at) == (line, case.opened_at)
    assert [one.kind for one in lab.store.cases.notes(case.id)][1:] == [NoteKind.MERGED]


def test_where_no_face_is_on_file_a_check_is_no_evidence(lab, registrar) -> None:
    impostor, stranger = lab.people.person(), lab.people.person()
    entries: list[AuditEntry] = []
    registrar.enroll([lab.request(impostor)])
    refused = registrar.enroll([lab.request(impostor)])[0]
    opened = newest_cases(lab.store.cases)
    document = refused.decided.document_id
    probe = probe_of(stranger)
    check = check_document(registrar, lab.store, document, probe, entries.append)
    assert (check.is_match, check.score, check.case_id) == (False, None, None)
    assert [entry.action for entry in entries] == ["holder.checked"]
    assert newest_cases(lab.store.cases) == opened


def test_a_tenant_checks_only_its_own_lines_and_holders(lab, registrar) -> None:
    person, request, _ = lab.holder(registrar)
    for carrier in ("blue", None):
        probe = probe_of(person, carrier)
        assert check_line(registrar, lab.store, request.msisdn, probe, print).is_match
        assert check_document(registrar, lab.store, request.document, probe, print).is_match
    foreign = probe_of(person, "red")
    with pytest.raises(NotFound) as unseen:
        check_line(registrar, lab.store, request.msisdn, foreign, print)
    with pytest.raises(NotFound) as unknown:
        check_line(registrar, lab.store, "+8613999999999", foreign, print)
    assert str(unseen.value) == str(unknown.value)
    with pytest.raises(NotFound):
        check_document(registrar, lab.store, request.document, foreign, print)
    close_line(registrar, lab.store, request.msisdn, "test")
    with pytest.raises(NotFound):
        check_line(registrar, lab.store, request.msisdn, probe_of(person), print)
    with pytest.raises(NotFound):
        check_document(registrar, lab.store, request.document, probe_of(person, "blue"), print)
    assert check_document(registrar, lab.store, request.document, probe_of(person), print)


def test_a_check_that_cannot_be_audited_is_not_told(lab, registrar) -> None:
    person, request, _ = lab.holder(registrar)

    def fail(_entry: AuditEntry) -> None:
        raise StorageFailed("the database is gone")

    with pytest.raises(StorageFailed):
        check_document(registrar, lab.store, request.document, probe_of(person), fail)


def test_what_is_no_face_or_no_line_is_refused_as_input(lab, registrar) -> None:
    _, request, _ = lab.holder(registrar)
    for vector in (np.zeros(64, np.float32), np.ones((2, 2), np.float32)):
        with pytest.raises(VectorInvalid):
            check_document(registrar, lab.store, request.document, probe_of(vector), pytest.fail)
    with pytest.raises(RequestError):
        check_line(registrar, lab.store, "my number", ANY, pytest.fail)


class Lagging(Gallery):
    """Shows references only after it was asked so often: a commit comes before it is visible."""

    lag = 0

    def vectors(self, ids: Any) -> Any:
        self.lag -= 1
        if self.lag >= 0:
            raise IdInvalid("not there yet")
        return super().vectors(ids)


def test_a_reference_that_is_committed_and_not_yet_visible_is_waited_for(lab, monkeypatch) -> None:
    gallery = Lagging(SegmentedIndex(lab.vault.dim))
    with lab.registrar(gallery=gallery) as registrar:
        person, request, _ = lab.holder(registrar)
        gallery.lag = 3
        assert check_document(
            registrar, lab.store, request.document, probe_of(person), print
        ).is_match
        monkeypatch.setattr(holders, "_LAG_S", 0.05)
        gallery.lag = 1_000_000
        with pytest.raises(GalleryBehind):
            check_document(registrar, lab.store, request.document, probe_of(person), pytest.fail)


def test_a_holder_who_is_verified_fills_in_the_second_model_and_nobody_else_does(
    lab, registrar
) -> None:
    person, request, held = lab.holder(registrar)
    vector = lab.people.sample(person).vector
    other = lab.people.between(vector, 0.2)
    second = references.SecondTemplate("sha256:second", np.eye(1, 16, dtype=np.float32)[0])
    ids = lab.store.document(held.document_id).reference_ids
    for face, expected in ((other, 0), (vector, 1), (vector, 1)):
        probe = replace(probe_of(face), second=second)
        check_document(registrar, lab.store, request.document, probe, lambda _: None)
        known = lab.store.second_templates(ids, second.digest, 16)
        assert len(known) == expected
    assert [one.detail for one in lab.entries(FILLED)] == [{"references": 1}]
