from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from engine.cases.opening import CaseBatch, NewCase
from engine.errors import NotFound
from engine.imports.import_run import Ending
from engine.matching.checks.second_model import Filled, fill_from_crops
from engine.matching.documents import check_document
from engine.matching.holders import block_document, erase_holder, find_document, watch_face
from engine.matching.recovery import restore_gallery
from engine.matching.requests import EnrollmentRequest, document_look_up
from engine.matching.samples import SecondEmbedder
from engine.registry.audit import AuditEntry, verify_chain
from engine.registry.database import changing, utc_now
from engine.registry.documents import ERASURE_ASKED, AskedErasure
from engine.registry.store import every_table
from indexes.gallery import Gallery
from schema.cases import CaseKind, CaseOrigin
from schema.documents import Document, DocumentStatus
from schema.lines import LineStatus
from schema.options import CropPolicy
from schema.phases import CropScope
from schema.reasons import RECORD_DAMAGED, Decision, Reason
from tests.engine.records import ENTRY, make_document


def document_of(row: dict[str, str]) -> Document:
    return Document(row["document_type"], row["document_number"], row["name"])


def request(key: str, document: Document, face: Any, msisdn: str) -> EnrollmentRequest:
    asked = {"document": document, "msisdn": msisdn, "live": face}
    asked["portrait"] = replace(face, digest=b"p" * 32)
    return EnrollmentRequest(idempotency_key=key, carrier="red", outlet="r1", **asked)


def look(importer: Any, base: Any, photograph: str) -> Any:
    return importer.extract([(base.folder / photograph).read_bytes()])[0]


TODAY = date(2026, 11, 25)


def find(importer: Any, row: dict[str, str]) -> Any:
    return find_document(importer.store, document_of(row), TODAY)


def gallery_of(importer: Any) -> Gallery:
    return restore_gallery(importer.store, importer.folder / "gallery").gallery


def state(importer: Any) -> dict[str, Any]:
    """What the registry holds, free of ids and moments."""
    counts, gallery = importer.store.counts(), gallery_of(importer)
    return {
        **{name: counts[name] for name in ("documents", "lines", "references", "live_references")},
        "vectors": gallery.vectors(gallery.ids).tobytes(),
    }


def test_an_import_adds_documents_lines_and_faces(importer, base) -> None:
    name = "محمد بن \u200fعبد الله"
    rows = [base.add(serial, name=name) for serial in range(10)]
    path = base.write()
    ending, tally = importer.run(path)
    assert ending is Ending.DONE
    assert (tally.rows, tally.admitted, tally.lines, tally.failed) == (10, 10, 10, 0)
    assert tally.photographs == 10
    record = find(importer, rows[7])
    assert importer.store.identity(record.id).name == name
    (line,) = importer.store.lines_of(record.id)
    assert (line.carrier, line.outlet, line.status) == ("red", "r1", LineStatus.ACTIVE)
    assert line.opened_at == datetime(2020, 5, 1, 8, tzinfo=UTC)
    assert importer.store.numbers([line.id])[line.id] == "+8613000000007"
    assert importer.faults(path) == []
    assert verify_chain(importer.store).intact


def test_imported_subscribers_count_in_every_later_decision(importer, base) -> None:
    first, second = base.add(1), base.add(2)
    importer.run(base.write())
    face = look(importer, base, base.photograph("person2", "9"))
    impostor = request("k1", document_of(first), face, "+8613900000001")
    again = request("k2", document_of(second), face, "+8613900000002")
    in_use = request("k3", document_of(second), face, first["msisdn"])
    with importer.registrar() as registrar:
        answers = registrar.enroll([impostor, again, in_use])
    assert [one.decision for one in answers] == [
        Decision.REJECTED,
        Decision.APPROVED,
        Decision.REJECTED,
    ]
    assert Reason.DOCUMENT_HELD_BY_ANOTHER_FACE in answers[0].reasons
    assert answers[2].reasons == (Reason.LINE_IN_USE,)


def test_one_document_may_have_many_lines_and_has_one_reference(importer, base) -> None:
    for place in range(6):
        live = base.photograph("person1", str(place))
        base.add(1, live=live, msisdn=f"+861380000000{place}")
    _, tally = importer.run(base.write(), chunk_rows=4)
    assert (tally.admitted, tally.lines, tally.present, tally.failed) == (1, 6, 0, 0)
    assert len(find(importer, base.rows[0]).reference_ids) == 1
    assert len(importer.store.lines_of(find(importer, base.rows[0]).id)) == 6


@pytest.mark.parametrize("chunk_rows", [1, 10])
def test_one_document_with_two_faces_fails_from_the_second_on(
    chunk_rows: int, importer, base
) -> None:
    base.add(1)
    base.add(1, "stranger", msisdn="+8613800000099")
    base.add(1, live=base.photograph("person1", "2"), msisdn="+8613800000098")
    path = base.write()
    _, tally = importer.run(path, chunk_rows=chunk_rows)
    assert importer.faults(path) == [
        (2, "failure", "document_number", "DOCUMENT_HELD_BY_ANOTHER_FACE")
    ]
    assert (tally.admitted, tally.lines, tally.failed) == (1, 2, 1)


@pytest.mark.parametrize("chunk_rows", [1, 10])
def test_repeated_rows_leave_nothing_twice(chunk_rows: int, importer, base) -> None:
    for _ in range(3):
        base.add(1)
    path = base.write()
    _, tally = importer.run(path, chunk_rows=chunk_rows)
    assert (tally.admitted, tally.lines, tally.present, tally.failed) == (1, 1, 2, 0)
    before = state(importer)
    _, tally = importer.run(path, resumes=False)
    assert (tally.admitted, tally.lines, tally.present) == (0, 0, 3)
    assert state(importer) == before


@pytest.mark.parametrize("chunk_rows", [1, 10])
def test_a_number_belongs_to_one_document(chunk_rows: int, importer, base) -> None:
    first = base.add(1)
    base.add(2, msisdn=first["msisdn"])
    path = base.write()
    _, tally = importer.run(path, chunk_rows=chunk_rows)
    assert importer.faults(path) == [(2, "failure", "msisdn", "LINE_IN_USE")]
    assert (tally.admitted, tally.lines) == (1, 1)
    assert importer.store.counts()["documents"] == 1, "what is refused leaves nothing"


def test_one_face_under_two_documents_is_imported_and_counted(importer, base) -> None:
    base.add(1, "same")
    base.add(2, live=base.photograph("same", "2"))
    base.add(3)
    base.add(4, live=base.photograph("same", "3"))
    path = base.write()
    _, tally = importer.run(path, chunk_rows=3)
    assert (tally.admitted, tally.failed, tally.look_alikes) == (4, 0, 2)
    assert importer.faults(path) == []


def test_two_photographs_are_compared_and_fused(importer, base) -> None:
    base.columns = (*base.columns, "portrait")
    base.add(1, portrait=base.photograph("person1", "2"))
    base.add(2, portrait=base.photograph("stranger"))
    base.add(3, portrait=base.photograph("person3", "2", "BLURRED"))
    base.add(4, live=base.photograph("person4", "1", "NO_FACE"), portrait="none.jpg")
    path = base.write()
    _, tally = importer.run(path)
    assert importer.faults(path) == [
        (2, "failure", "portrait", "FACE_MISMATCH"),
        (3, "warning", "portrait", "BLURRED"),
        (4, "failure", "live", "NO_FACE"),
        (4, "failure", "portrait", "FILE_MISSING"),
    ]
    assert (tally.admitted, tally.fused, tally.failed, tally.warned) == (2, 1, 2, 1)
    assert tally.failures == {"FACE_MISMATCH": 1, "NO_FACE": 1, "FILE_MISSING": 1}
    assert tally.warnings == {"BLURRED": 1}


def test_a_bad_row_never_stops_the_rest(importer, base) -> None:
    base.add(1)
    base.add(2, document_number="110105199003071238")
    base.add(3, live="../outside.jpg")
    base.add(4, live=base.photograph("person4", "1", "damaged"))
    base.add(5, opened_at="soon")
    base.add(6, outlet="nowhere")
    base.add(7, live="")
    base.add(8)
    path = base.write()
    text = path.read_text().splitlines()
    path.write_text("\n".join([*text[:3], "too,short", *text[3:]]) + "\n")
    ending, tally = importer.run(path)
    assert ending is Ending.DONE
    assert importer.failures(path) == {
        2: [Reason.DOCUMENT_INVALID],
        3: ["ROW_MALFORMED"],
        4: ["PATH_OUTSIDE"],
        5: ["IMAGE.DAMAGED"],
        6: ["TIME_INVALID"],
        7: ["OUTLET_UNKNOWN"],
        8: ["FACE_MISSING"],
    }
    assert (tally.rows, tally.admitted, tally.failed) == (9, 2, 7)


@pytest.mark.both_databases
def test_damaged_rows_fail_the_rows_that_need_them_and_no_other(importer, base) -> None:
    kept = [base.add(serial) for serial in range(6)]
    importer.run(base.write())
    ids = [find(importer, row).id for row in kept]
    with changing(importer.store.engine) as connection:
        for table, value, key in (
            ("documents", "expires_on = '2001-01-01'", f"id = '{ids[0]}'"),
            ('"references"', "added_sequence = 0", f"document_id = '{ids[1]}'"),
            ("lines", "outlet = 'r2'", f"document_id = '{ids[2]}'"),
        ):
            connection.exec_driver_sql(f"UPDATE {table} SET {value} WHERE {key}")
    base.rows = []
    base.add(0, msisdn="+8613800000000")
    base.add(1, "impostor", msisdn="+8613800000001")
    base.add(50, msisdn=kept[2]["msisdn"])
    for serial in (2, 3, 60):
        base.add(serial, msisdn=f"+86139{serial:08}")
    path = base.write("again.csv")
    for is_check in (True, False):
        _, tally = importer.run(path, is_check=is_check, resumes=False, chunk_rows=6)
        damaged = [RECORD_DAMAGED]
        assert importer.failures(path) == {1: damaged, 2: damaged, 3: damaged}
        assert (tally.rows, tally.failed, tally.lines, tally.admitted) == (6, 3, 3, 1)
    assert importer.vault.set_aside.count() == {"documents": 1, "references": 1, "lines": 1}


def test_a_document_known_from_attempts_alone_gets_its_holder(importer, base) -> None:
    row = base.add(1)
    own, other = (look(importer, base, one) for one in (row["live"], base.photograph("twin")))
    with importer.registrar() as registrar:
        watch_face(registrar, other.vector, "stolen", "test")
        named = Document("cn-ric", row["document_number"], "Somebody Else")
        attempt = request("k", named, other, "+8613900000001")
        assert registrar.enroll([attempt])[0].decision is Decision.REVIEW
    path = base.write()
    _, tally = importer.run(path)
    record = find(importer, row)
    assert (tally.admitted, tally.failed, tally.warned) == (1, 0, 0)
    assert importer.store.identity(record.id).name == "Holder 1"
    held = gallery_of(importer).vectors(np.array(record.reference_ids))
    assert np.array_equal(held[0], own.vector)


@pytest.mark.both_databases
def test_a_blocked_document_and_one_that_awaits_erasure_are_refused_and_a_watched_face_is_reported(
    importer, base
) -> None:
    blocked, watched, leaving = base.add(1), base.add(2), base.add(3)
    importer.run(base.write("first.csv"))
    face = look(importer, base, watched["live"])
    with importer.registrar() as registrar:
        block_document(registrar, importer.store, document_of(blocked), "test")
        watch_face(registrar, face.vector, "seen", "test")
        asked = AskedErasure(find(importer, leaving).id, "test", utc_now() + timedelta(days=1))
        entry = AuditEntry("test", ERASURE_ASKED, asked.document_id)
        registrar.run(lambda writer, _: writer.commit([entry, asked]))
    path = base.write("second.csv")
    _, tally = importer.run(path)
    assert importer.faults(path) == [
        (1, "failure", "document_number", "DOCUMENT_BLOCKED"),
        (2, "warning", "", "WATCHLISTED"),
        (3, "failure", "document_number", "ERASURE_PENDING"),
    ]
    assert (tally.failed, tally.present, tally.warned) == (2, 1, 1)


def test_another_name_for_a_known_document_is_a_warning(importer, base) -> None:
    base.add(1)
    base.add(1, name="Another Name", msisdn="+8613800000001")
    path = base.write()
    _, tally = importer.run(path)
    assert importer.faults(path) == [(2, "warning", "name", "NAME_MISMATCH")]
    assert (tally.lines, tally.warned, tally.failed) == (2, 1, 0)
    assert importer.store.identity(find(importer, base.rows[0]).id).name == "Holder 1"


def test_a_chunk_is_in_the_audit_chain_without_personal_data(importer, base) -> None:
    row = base.add(1)
    base.add(2)
    path = base.write()
    importer.run(path)
    entries = [record.entry for record in importer.store.audit_entries()]
    (admitted,) = [one for one in entries if one.action == "subscribers.admitted"]
    assert admitted.actor == "test"
    assert (admitted.detail["references"], admitted.detail["lines"]) == (2, 2)
    text = repr(entries) + importer.report(path).read_text() + importer.journal(path).read_text()
    for value in (row["document_number"], row["name"], row["msisdn"], row["live"]):
        assert value not in text


@pytest.mark.both_databases
def test_the_faces_of_imported_references_are_held_for_a_case(importer, base) -> None:
    """Of photographs that made no reference none is, nor where nothing is to be kept."""
    importer.crops = CropPolicy(CropScope.CASES, 30, hold_days=7)
    rows = [base.add(serial) for serial in range(3)]
    # Another line of the first, whose reference stays, and a row that is refused.
    base.add(0, msisdn="+8613000000099", live=base.photograph("person0", "2"))
    base.add(9, live=base.photograph("person9", problem=Reason.NO_FACE))
    importer.run(base.write(), is_check=True, resumes=False)
    assert importer.store.counts()["crops"] == 0
    importer.run(base.write(), resumes=False)
    ids = [find(importer, row).id for row in rows]
    assert importer.store.cases.faces(ids, 9) == {key: [] for key in ids}
    assert importer.store.counts()["crops"] == 3
    assert fill(importer) == Filled(without_photograph=3), "held for a case, and for nothing else"
    with importer.registrar() as registrar:
        case = NewCase(kind=CaseKind.DUPLICATE_IDENTITY, origin=CaseOrigin.SWEEP, document_ids=ids)

        def open_case(writer: Any, now: datetime) -> None:
            batch = CaseBatch(importer.store, now)
            batch.open(case, "test")
            writer.commit(batch.writes())

        registrar.run(open_case)
    for key, [face] in importer.store.cases.faces(ids, 9).items():
        assert (face.crop.document_id, face.crop.photograph) == (key, "live")
        assert (face.is_of_reference, face.decision, face.crop.enrollment_id) == (True, None, None)
        assert face.crop.quality == {"sharpness": 123.0}
    assert fill(importer) == Filled(filled=3)


def fill(importer: Any) -> Filled:
    """Templates of a second model from crops."""

    class Shade:
        def embed(self, crops: Any) -> Any:
            return np.stack([crops.mean(axis=(1, 2, 3)), np.ones(len(crops))], 1, dtype=np.float32)

    second = SecondEmbedder(Shade(), "sha256:second", importer.vault.of_dimension(2))  # type: ignore[arg-type]
    return fill_from_crops(importer.store, second, "test")


CONSENT = "C-2020-17"


def consent_of(importer: Any, row: dict[str, str]) -> str | None:
    return importer.store.identity(find(importer, row).id).consent


def test_it_is_kept_with_the_document_open_nowhere_and_goes_with_the_holder(importer, base) -> None:
    rows = [base.add(1, consent_ref=CONSENT), base.add(2, consent_ref="")]
    # Of a document that is there already only a line is new.
    base.add(1, consent_ref="C-2024-99", msisdn="+8613800000099")
    path = base.write()
    importer.run(path)
    assert [consent_of(importer, row) for row in rows] == [CONSENT, None]
    assert CONSENT not in repr([importer.store.rows(select(one)) for one in every_table()])
    assert CONSENT not in importer.report(path).read_text() + importer.journal(path).read_text()
    record = find(importer, rows[0])
    with importer.registrar() as registrar:
        erase_holder(registrar, importer.store, record.id, "test")
    with pytest.raises(NotFound):
        importer.store.identity(record.id)


def test_it_is_kept_of_a_document_that_was_known_from_attempts(importer, base) -> None:
    row = base.add(1, consent_ref=CONSENT)
    checked = check_document(document_of(row), TODAY)
    attempted = make_document(
        importer.vault,
        checked.number,
        kind=checked.type,
        lookup=document_look_up(importer.vault, checked),
        status=DocumentStatus.ATTEMPTED,
    )
    with importer.store.writer() as writer:
        writer.commit([ENTRY, attempted])
    importer.run(base.write())
    assert consent_of(importer, row) == CONSENT
    assert importer.store.identity(attempted.id).name == row["name"]
