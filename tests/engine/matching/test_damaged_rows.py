"""A batch beside damaged rows: whoever needs one is refused, and all others are decided."""

from collections.abc import Iterator
from typing import Any

import pytest

from engine.errors import SealBroken
from engine.matching.holders import erase_holder
from engine.registry.damage import find_damage
from engine.registry.database import changing

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
