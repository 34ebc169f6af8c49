from datetime import UTC, date, datetime
from typing import Any

import pytest

from engine.errors import NotFound, RequestError, StorageFailed, TenantConflict
from engine.matching.comparison import WatchList
from engine.matching.documents import check_document
from engine.matching.holders import (
    FoundLines,
    block_document,
    erase_holder,
    read_lines,
    show_lines,
    watch_face,
)
from engine.matching.lines import unblock_document
from engine.matching.registrar import Registrar
from engine.matching.requests import document_look_up
from engine.matching.verification import identify
from engine.registry.accounts import Carrier
from engine.registry.audit import AuditEntry, AuditRecord, verify_chain
from engine.registry.database import new_id
from engine.registry.rows import Write
from engine.registry.watchlist import BY_CASE, WatchEntry
from engine.registry.writer import Writer
from schema.documents import Document, DocumentStatus
from schema.reasons import Decision, Reason
from tests.engine.matching.conftest import guard_of


def read(
    lab: Any, registrar: Registrar, document: Document, probe: Any, audit: Any = None
) -> FoundLines:
    return read_lines(
        lab.store,
        registrar.gallery,
        document,
        probe,
        0.42,
        actor="outlet:blue-1",
        audit=audit or registrar.audit,
    )


def test_an_erased_holder_is_out_of_every_search_and_of_the_store(lab, registrar) -> None:
    person, request = lab.newcomer()
    first = registrar.enroll([request, lab.request()])[0]
    certificate = erase_holder(registrar, lab.store, request.document, "test")
    found = identify(person[None], registrar.gallery, lab.store, threshold=0.6)[0]
    again = registrar.enroll([lab.request(person)])[0]
    assert found.candidates == ()
    assert found.gallery_sequence >= certificate.gallery_sequence
    assert again.decision is Decision.APPROVED
    record = lab.store.documents_by_id([first.decided.document_id])[certificate.document_id]
    assert record.status is DocumentStatus.ERASED
    assert (record.lookup, record.name_lookup, record.reference_ids) == (None, None, ())
    with pytest.raises(NotFound):
        lab.store.identity(certificate.document_id)
    assert (certificate.references, certificate.lines) == (1, 1)
    assert verify_chain(lab.store).intact


def test_nobody_can_be_erased_who_is_not_enrolled(lab, registrar) -> None:
    before = lab.store.counts()
    with pytest.raises(NotFound):
        erase_holder(registrar, lab.store, lab.request().document, "test")
    with pytest.raises(RequestError):
        erase_holder(registrar, lab.store, Document("cn-ric", "123", "A Name"), "test")
    assert lab.store.counts() == before


def test_an_erasure_does_not_lift_a_block(lab, registrar) -> None:
    person, request, _ = lab.holder(registrar)
    block_document(registrar, lab.store, request.document, "test")
    erase_holder(registrar, lab.store, request.document, "test")
    again = registrar.enroll([lab.request(person, document=request.document)])[0]
    with pytest.raises(NotFound):
        erase_holder(registrar, lab.store, request.document, "test")
    with pytest.raises(NotFound):
        read(lab, registrar, request.document, person)
    unblock_document(registrar, lab.store, request.document, "test")
    later = registrar.enroll([lab.request(person, document=request.document)])[0]
    assert again.reasons == (Reason.DOCUMENT_BLOCKED,)
    assert later.decision is Decision.APPROVED


def test_a_watched_face_goes_to_review_now_and_after_a_restart(lab) -> None:
    person = lab.people.person()
    with lab.registrar() as registrar:
        watch_face(registrar, person, "seen at a resale ring", "test")
        with pytest.raises(RequestError, match="say it in words"):
            watch_face(registrar, person, BY_CASE + new_id(), "test")
        first = registrar.enroll([lab.request(person), lab.request()])
    with lab.registrar() as reopened:
        second = reopened.enroll([lab.request(person)])[0]
    assert first[0].decision is Decision.REVIEW
    assert first[0].reasons == (Reason.WATCHLISTED,)
    assert first[1].decision is Decision.APPROVED
    assert second.reasons == (Reason.WATCHLISTED,)


def test_a_watched_document_goes_to_review(lab) -> None:
    request = lab.request()
    checked = check_document(request.document, date(2026, 1, 1))
    watchlist = WatchList(lab.vault.dim)
    entry = WatchEntry(
        id=1,
        document_lookup=document_look_up(lab.vault, checked),
        template=None,
        reason="reported stolen",
        added_at=datetime.now(UTC),
    )
    watchlist.add(entry)
    with lab.registrar(watchlist=watchlist) as registrar:
        outcome = registrar.enroll([request])[0]
        watchlist.remove(1)
        later = registrar.enroll([lab.request(document=request.document)])[0]
    assert outcome.reasons == (Reason.WATCHLISTED,)
    assert later.decision is Decision.APPROVED


def test_the_lines_of_a_holder_are_shown_to_the_holder_alone(lab, registrar) -> None:
    person, request = lab.newcomer()
    registrar.enroll([request, lab.request(person, document=request.document)])
    mine = lab.people.sample(person).vector
    other = lab.people.sample(lab.people.person()).vector
    shown = read(lab, registrar, request.document, mine)
    hidden = read(lab, registrar, request.document, other)
    assert shown.is_holder
    assert request.msisdn in shown.numbers.values()
    assert len(shown.numbers) == len(shown.lines) == 2
    assert not hidden.is_holder
    assert (hidden.lines, hidden.numbers) == ((), {})
    assert request.msisdn not in repr(shown)
    assert [entry.detail for entry in lab.entries("lines.read")] == [
        {"shown": True, "lines": 2},
        {"shown": False, "lines": 0},
    ]


def test_whoever_is_not_the_holder_cannot_tell_who_is_enrolled_nor_how_like(lab, registrar) -> None:
    person, stranger = lab.people.person(), lab.people.person()
    held, erased, unknown = lab.request(person), lab.request(), lab.request()
    entries: list[AuditEntry] = []
    registrar.enroll([held, erased])
    reference = registrar.gallery.vectors(registrar.gallery.ids)[0]
    alike = lab.people.between(reference, 0.42 - 0.001)
    erase_holder(registrar, lab.store, erased.document, "test")

    def show(request: Any, probe: Any) -> FoundLines:
        given = lab.store, registrar.gallery, request.document, probe, 0.42
        guard = guard_of(lab.store, registrar)
        return show_lines(*given, guard=guard, audit=lambda entry, _: entries.append(entry))

    assert show(held, person).is_holder
    answers = [show(held, stranger), show(held, alike), show(erased, stranger)]
    answers.append(show(unknown, stranger))
    assert answers == [FoundLines(is_holder=False, score=None, threshold=0.42)] * 4
    assert {(one.actor, one.action) for one in entries} == {("key:k1", "lines.read")}
    assert [one.detail for one in entries[1:]] == [{"shown": False, "lines": 0}] * 4
    assert [one.subject for one in entries[3:]] == ["unheld"] * 2


def test_a_certificate_names_its_own_audit_entry_whatever_is_written_meanwhile(
    lab, monkeypatch
) -> None:
    request = lab.request()
    commit = Writer.commit

    def commit_and_be_overtaken(writer: Writer, changes: list[Write]) -> AuditRecord:
        last = commit(writer, changes)
        lab.store.add_carrier(Carrier("late", "Late"), actor="test")
        return last

    with lab.registrar() as registrar:
        registrar.enroll([request])
        monkeypatch.setattr(Writer, "commit", commit_and_be_overtaken)
        certificate = erase_holder(registrar, lab.store, request.document, "test")
    (written,) = [one for one in lab.store.audit_entries() if one.entry.action == "document.erased"]
    told = certificate.audit_number, certificate.audit_hash
    assert told == (written.number, written.hash.hex())
    assert lab.store.audit_head()[0] > certificate.audit_number


def test_lines_that_cannot_be_audited_are_not_shown(lab, registrar) -> None:
    person, request, _ = lab.holder(registrar)

    def fail(_entry: AuditEntry) -> None:
        raise StorageFailed("the database is gone")

    with pytest.raises(StorageFailed):
        read(lab, registrar, request.document, person, fail)


def test_lines_are_read_while_the_writer_is_busy(lab, registrar, busy) -> None:
    person, request, _ = lab.holder(registrar)
    entries: list[AuditEntry] = []
    with busy(registrar):
        shown = read(lab, registrar, request.document, person, entries.append)
    assert list(shown.numbers.values()) == [request.msisdn]
    assert [entry.subject for entry in entries] == [shown.lines[0].document_id]


def test_a_tenant_erases_only_whom_it_alone_serves(lab, registrar) -> None:
    mine, shared = lab.people.person(), lab.people.person()
    own, common = lab.request(mine), lab.request(shared)
    elsewhere = lab.request(shared, document=common.document, carrier="red", outlet="red-1")
    answers = registrar.enroll([own, common, elsewhere])
    own_id, common_id = (answer.decided.document_id for answer in answers[:2])
    for carrier in ("blue", "red"):
        with pytest.raises(TenantConflict):
            erase_holder(registrar, lab.store, common_id, "test", carrier)
    with pytest.raises(NotFound):
        erase_holder(registrar, lab.store, own_id, "test", "red")
    with pytest.raises(NotFound):
        erase_holder(registrar, lab.store, "no such id", "test", "blue")
    assert erase_holder(registrar, lab.store, own_id, "test", "blue").references == 1
    assert erase_holder(registrar, lab.store, common_id, "test").lines == 2
    with pytest.raises(NotFound):
        erase_holder(registrar, lab.store, common_id, "test")
