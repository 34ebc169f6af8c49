"""A batch beside damaged rows: whoever needs one is refused, and all others are decided."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from engine.errors import SealBroken
from engine.lifecycle.reverification import report_event
from engine.lifecycle.rules import LineRules
from engine.matching.holders import erase_holder
from engine.registry.damage import find_damage
from engine.registry.database import changing
from schema.lines import LineEventKind
from schema.options import LineLimits
from schema.reasons import Reason
from tests.engine.matching.conftest import NOW

PEOPLE = 5
DAMAGED = {
    "documents": "UPDATE documents SET expires_on = '20x1-01-01' WHERE id",
    "references": "UPDATE \"references\" SET model_digest = CAST(x'ff' AS TEXT) WHERE document_id",
    "templates": "UPDATE \"references\" SET template = x'0100' WHERE document_id",
}


@pytest.fixture
def lab(make_lab, sqlite_url) -> Iterator[Any]:
    made = make_lab(sqlite_url)
    yield made
    made.store.close()


@pytest.mark.parametrize("what", DAMAGED)
def test_whoever_comes_with_a_damaged_document_is_refused_and_nobody_else(lab, what: str) -> None:
    faces = [lab.people.person() for _ in range(PEOPLE)]
    first = [lab.request(face) for face in faces]
    with lab.registrar() as registrar:
        answers = registrar.enroll(first)
    document = answers[0].decided.document_id
    with changing(lab.store.engine) as connection:
        connection.exec_driver_sql(f"{DAMAGED[what]} = '{document}'")
    assert find_damage(lab.store)
    with lab.registrar() as registrar:
        # The gallery is built from the store.
        assert len(registrar.gallery) == PEOPLE - (what == "templates")
        again = [
            lab.request(face, document=one.document) for face, one in zip(faces, first, strict=True)
        ]
        newcomer = lab.request()
        refused, *others = registrar.enroll([*again, newcomer])
        assert isinstance(refused, SealBroken)
        assert [one.decision for one in others] == ["approved"] * PEOPLE
        # Another face does not become the holder of what cannot be read.
        theft = lab.request(document=first[0].document)
        assert isinstance(*registrar.enroll([theft]), SealBroken)
        gone = others[0].decided.document_id
        erase_holder(registrar, lab.store, gone, "key:ops")
        assert [one.decision for one in registrar.enroll([lab.request()])] == ["approved"]
    assert lab.vault.set_aside.count().keys() == {
        "documents" if what == "documents" else "references"
    }


@pytest.mark.parametrize(
    ("table", "changed"),
    [
        ("lines", "opened_at = 'x' WHERE id"),
        ("lines", "opened_at = '2020-01-01 00:00:00.000000' WHERE id"),
        ("lines", "status = 'closed' WHERE id"),
        ("line_events", "at = 'x' WHERE line_id"),
        ("line_events", "cause = 'x' WHERE line_id"),
    ],
)
def test_a_damaged_opening_is_of_just_now_and_a_damaged_approval_none_for_its_person_alone(
    lab, table: str, changed: str
) -> None:
    people, now = [lab.newcomer() for _ in range(2)], [NOW]
    limits = LineLimits(day_limit=1, approval_h=1)
    with lab.registrar(lines=limits, clock=lambda: now[0]) as registrar:
        opened = [one.decided.line_id for one in registrar.enroll([one for _, one in people])]
        now[0] += timedelta(days=2)
        told = {"kind": LineEventKind.OPENING_APPROVED, "at": now[0], "actor": "key:k"}
        for line in opened:
            report_event(registrar, lab.store, LineRules(), line_text=line, **told)
        with changing(lab.store.engine) as connection:
            connection.exec_driver_sql(f"UPDATE {table} SET {changed} = '{opened[0]}'")
        again = [lab.request(person, document=one.document) for person, one in people]
        refused, other = registrar.enroll(again)
    missing = (Reason.APPROVAL_MISSING,)
    is_opening = table == "lines"
    assert refused.reasons == ((Reason.DAY_LIMIT_REACHED, *missing) if is_opening else missing)
    assert other.reasons == ()
    assert lab.replays(refused, other)
    assert lab.vault.set_aside.count() == {table: 1}
