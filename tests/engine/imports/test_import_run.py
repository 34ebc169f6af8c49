from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest

from engine.imports.columns import Wording
from engine.imports.faults import Code, Field
from engine.imports.import_run import Ending
from engine.matching.documents import Document
from engine.matching.holders import block_document, find_document, watch_face
from engine.matching.recovery import restore_gallery
from engine.matching.requests import EnrollmentRequest
from engine.reasons import Decision, Reason
from engine.registry.audit import verify_chain
from engine.registry.records import LineStatus


def document_of(row: dict[str, str]) -> Document:
    return Document(row["document_type"], row["document_number"], row["name"])


def find(office: Any, row: dict[str, str]) -> Any:
    return find_document(office.store, document_of(row), date(2026, 11, 25))


def state(office: Any) -> dict[str, Any]:
    """What the registry holds, free of ids and moments."""
    counts = office.store.counts()
    gallery = restore_gallery(office.store, office.folder / "gallery").gallery.contents()
    return {
        **{name: counts[name] for name in ("documents", "lines", "references", "live_references")},
        "vectors": gallery.vectors.tobytes(),
    }


def test_a_base_is_in_the_registry_with_lines_and_faces(office: Any, base: Any) -> None:
    rows = [base.add(serial) for serial in range(10)]
    path = base.write()
    ending, tally = office.run(path)
    assert ending is Ending.DONE
    assert (tally.rows, tally.admitted, tally.lines, tally.failed) == (10, 10, 10, 0)
    assert tally.photographs == 10
    record = find(office, rows[7])
    assert office.store.identity(record.id).name == "Holder 7"
    (line,) = office.store.lines_of(record.id)
    assert (line.carrier, line.outlet, line.status) == ("red", "r1", LineStatus.ACTIVE)
    assert line.opened_at == datetime(2020, 5, 1, 8, tzinfo=UTC)
    assert office.store.numbers([line.id])[line.id] == "+8613000000007"
    assert office.faults(path) == []
    assert verify_chain(office.store).intact


def test_who_was_imported_is_known_to_every_later_decision(office: Any, base: Any) -> None:
    first, second = base.add(1), base.add(2)
    office.run(base.write())
    faces = {
        row["name"]: office.take([(base.folder / base.photograph(person, "9")).read_bytes()])[0]
        for row, person in ((first, "person1"), (second, "person2"))
    }

    def request(key: str, document: Document, face: Any, msisdn: str) -> EnrollmentRequest:
        return EnrollmentRequest(
            idempotency_key=key,
            carrier="red",
            outlet="r1",
            document=document,
            msisdn=msisdn,
            live=face,
            portrait=face,
        )

    thief = request("k1", document_of(first), faces["Holder 2"], "+8613900000001")
    again = request("k2", document_of(second), faces["Holder 2"], "+8613900000002")
    in_use = request("k3", document_of(second), faces["Holder 2"], first["msisdn"])
    with office.registrar() as registrar:
        answers = registrar.enroll([thief, again, in_use])
    assert [one.decision for one in answers] == [
        Decision.REJECTED,
        Decision.APPROVED,
        Decision.REJECTED,
    ]
    assert Reason.DOCUMENT_HELD_BY_ANOTHER_FACE in answers[0].reasons
    assert answers[2].reasons == (Reason.LINE_IN_USE,)


def test_one_document_may_have_many_lines_and_has_one_reference(office: Any, base: Any) -> None:
    for place in range(6):
        live = base.photograph("person1", str(place))
        base.add(1, live=live, msisdn=f"+861380000000{place}")
    _, tally = office.run(base.write(), chunk_rows=4)
    assert (tally.admitted, tally.lines, tally.present, tally.failed) == (1, 6, 0, 0)
    assert len(find(office, base.rows[0]).reference_ids) == 1
    assert len(office.store.lines_of(find(office, base.rows[0]).id)) == 6


@pytest.mark.parametrize("chunk_rows", [1, 10])
def test_one_document_with_two_faces_fails_from_the_second_on(
    chunk_rows: int, office: Any, base: Any
) -> None:
    base.add(1)
    base.add(1, "stranger", msisdn="+8613800000099")
    base.add(1, live=base.photograph("person1", "2"), msisdn="+8613800000098")
    path = base.write()
    _, tally = office.run(path, chunk_rows=chunk_rows)
    assert office.faults(path) == [
        (2, "failure", "document_number", "DOCUMENT_HELD_BY_ANOTHER_FACE")
    ]
    assert (tally.admitted, tally.lines, tally.failed) == (1, 2, 1)


@pytest.mark.parametrize("chunk_rows", [1, 10])
def test_repeated_rows_leave_nothing_twice(chunk_rows: int, office: Any, base: Any) -> None:
    for _ in range(3):
        base.add(1)
    path = base.write()
    _, tally = office.run(path, chunk_rows=chunk_rows)
    assert (tally.admitted, tally.lines, tally.present, tally.failed) == (1, 1, 2, 0)
    before = state(office)
    _, tally = office.run(path, resumes=False)
    assert (tally.admitted, tally.lines, tally.present) == (0, 0, 3)
    assert state(office) == before


@pytest.mark.parametrize("chunk_rows", [1, 10])
def test_a_number_is_one_documents(chunk_rows: int, office: Any, base: Any) -> None:
    first = base.add(1)
    base.add(2, msisdn=first["msisdn"])
    path = base.write()
    _, tally = office.run(path, chunk_rows=chunk_rows)
    assert office.faults(path) == [(2, "failure", "msisdn", "LINE_IN_USE")]
    assert (tally.admitted, tally.lines) == (1, 1)
    assert office.store.counts()["documents"] == 1, "what is refused leaves nothing"


def test_one_face_under_two_documents_is_taken_and_counted(office: Any, base: Any) -> None:
    base.add(1, "same")
    base.add(2, live=base.photograph("same", "2"))
    base.add(3)
    base.add(4, live=base.photograph("same", "3"))
    path = base.write()
    _, tally = office.run(path, chunk_rows=3)
    assert (tally.admitted, tally.failed, tally.look_alikes) == (4, 0, 2)
    assert office.faults(path) == []


def test_two_photographs_are_compared_and_fused(office: Any, base: Any) -> None:
    base.columns = (*base.columns, "portrait")
    base.add(1, portrait=base.photograph("person1", "2"))
    base.add(2, portrait=base.photograph("stranger"))
    base.add(3, portrait=base.photograph("person3", "2", "BLURRED"))
    base.add(4, live=base.photograph("person4", "1", "NO_FACE"), portrait="none.jpg")
    path = base.write()
    _, tally = office.run(path)
    assert office.faults(path) == [
        (2, "failure", "portrait", "FACE_MISMATCH"),
        (3, "warning", "portrait", "BLURRED"),
        (4, "failure", "live", "NO_FACE"),
        (4, "failure", "portrait", "FILE_MISSING"),
    ]
    assert (tally.admitted, tally.fused, tally.failed, tally.warned) == (2, 1, 2, 1)
    assert tally.failures == {"FACE_MISMATCH": 1, "NO_FACE": 1, "FILE_MISSING": 1}
    assert tally.warnings == {"BLURRED": 1}


def test_a_bad_row_never_stops_the_rest(office: Any, base: Any) -> None:
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
    ending, tally = office.run(path)
    assert ending is Ending.DONE
    assert office.failures(path) == {
        2: [Reason.DOCUMENT_INVALID],
        3: [Code.ROW_MALFORMED],
        4: [Code.PATH_OUTSIDE],
        5: ["IMAGE.DAMAGED"],
        6: [Code.TIME_INVALID],
        7: [Code.OUTLET_UNKNOWN],
        8: [Code.FACE_MISSING],
    }
    assert (tally.rows, tally.admitted, tally.failed) == (9, 2, 7)


def test_a_document_known_from_attempts_alone_gets_its_holder(office: Any, base: Any) -> None:
    row = base.add(1)
    look = office.take([(base.folder / row["live"]).read_bytes()])[0]
    other = office.take([(base.folder / base.photograph("twin")).read_bytes()])[0]
    with office.registrar() as registrar:
        watch_face(registrar, other.vector, "stolen", "test")
        attempt = EnrollmentRequest(
            idempotency_key="k",
            carrier="red",
            outlet="r1",
            document=Document("cn-ric", row["document_number"], "Somebody Else"),
            msisdn="+8613900000001",
            live=other,
            portrait=other,
        )
        assert registrar.enroll([attempt])[0].decision is Decision.REVIEW
    path = base.write()
    _, tally = office.run(path)
    record = find(office, row)
    assert (tally.admitted, tally.failed, tally.warned) == (1, 0, 0)
    assert office.store.identity(record.id).name == "Holder 1"
    assert np.array_equal(
        restore_gallery(office.store, office.folder / "gallery").gallery.vectors(
            np.array(record.reference_ids)
        )[0],
        look.vector,
    )


def test_a_blocked_document_is_refused_and_a_watched_face_is_told(office: Any, base: Any) -> None:
    blocked, watched = base.add(1), base.add(2)
    office.run(base.write("first.csv"))
    face = office.take([(base.folder / watched["live"]).read_bytes()])[0]
    with office.registrar() as registrar:
        block_document(registrar, office.store, document_of(blocked), "test")
        watch_face(registrar, face.vector, "seen", "test")
    path = base.write("second.csv")
    _, tally = office.run(path)
    assert office.faults(path) == [
        (1, "failure", "document_number", "DOCUMENT_BLOCKED"),
        (2, "warning", "", "WATCHLISTED"),
    ]
    assert (tally.failed, tally.present, tally.warned) == (1, 1, 1)


def test_another_name_for_a_known_document_is_a_warning(office: Any, base: Any) -> None:
    base.add(1)
    base.add(1, name="Another Name", msisdn="+8613800000001")
    path = base.write()
    _, tally = office.run(path)
    assert office.faults(path) == [(2, "warning", "name", "NAME_MISMATCH")]
    assert (tally.lines, tally.warned, tally.failed) == (2, 1, 0)
    assert office.store.identity(find(office, base.rows[0]).id).name == "Holder 1"


def test_names_in_right_to_left_script_come_back_as_they_were(office: Any, base: Any) -> None:
    name = "محمد بن \u200fعبد الله"
    row = base.add(1, name=name)
    office.run(base.write())
    assert office.store.identity(find(office, row).id).name == name


def test_a_chunk_is_in_the_audit_chain_and_nobody_of_it(office: Any, base: Any) -> None:
    row = base.add(1)
    base.add(2)
    path = base.write()
    office.run(path)
    entries = [record.entry for record in office.store.audit_entries()]
    (admitted,) = [one for one in entries if one.action == "subscribers.admitted"]
    assert admitted.actor == "test"
    assert (admitted.detail["references"], admitted.detail["lines"]) == (2, 2)
    text = repr(entries) + office.report(path).read_text() + office.journal(path).read_text()
    for value in (row["document_number"], row["name"], row["msisdn"], row["live"]):
        assert value not in text


def test_mapped_and_defaulted_columns_are_imported(office: Any, base: Any) -> None:
    base.add(1)
    path = base.write()
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header.replace("document_number", "id_no"), *rows]) + "\n")
    wording = Wording({Field.DOCUMENT_NUMBER: "id_no"}, {Field.OUTLET: "r2"})
    _, tally = office.run(path, wording=wording)
    assert tally.admitted == 1


def test_a_formula_in_the_data_stays_out_of_the_report(office: Any, base: Any) -> None:
    base.add(1, name="=HYPERLINK(1)", outlet='=cmd|"/C calc"!A0')
    path = base.write()
    office.run(path)
    text = office.report(path).read_text()
    assert "HYPERLINK" not in text
    assert "cmd" not in text
    assert office.failures(path) == {1: [Code.OUTLET_UNKNOWN]}
