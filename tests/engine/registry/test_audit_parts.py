"""The audit chain verified in parts: together they say what verifying the whole says."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from engine.registry.audit import AuditReport, verify_chain


@pytest.fixture
def trail(store, writer, enroll):
    writer.commit(enroll(writer, 5))
    return store


def verify_parts(trail, most: int) -> list[AuditReport]:
    last, after, found = trail.audit_head()[0], 0, []
    while after < last:
        found.append(verify_chain(trail, after=after, most=most))
        if not found[-1].intact:
            break
        after = found[-1].entries
    return found


@pytest.mark.parametrize("most", [1, 3, 11, 100])
def test_parts_of_an_honest_chain_are_intact_to_its_head(trail, most: int) -> None:
    parts = verify_parts(trail, most)
    assert all(part.intact for part in parts)
    assert parts[-1].entries == trail.audit_head()[0]
    assert len(parts) == -(-11 // most)


@pytest.mark.parametrize("most", [1, 3, 4, 100])
@pytest.mark.parametrize(
    ("statement", "first_bad"),
    [
        ("UPDATE audit SET actor = 'nobody' WHERE number = 7", 7),
        ("DELETE FROM audit WHERE number = 4", 4),
        ("DELETE FROM audit WHERE number >= 10", 10),
        ("UPDATE audit SET number = 1000 - number", 1),
        ("UPDATE deployment SET audit_number = audit_number - 1", 11),
    ],
)
def test_the_first_bad_part_names_the_place_that_the_whole_names(
    trail, statement: str, first_bad: int, most: int
) -> None:
    with trail._engine.begin() as connection:
        connection.execute(text(statement))
    assert verify_chain(trail).first_bad == first_bad
    *before, last = verify_parts(trail, most)
    assert all(part.intact for part in before)
    assert (last.intact, last.first_bad) == (False, first_bad)


def test_a_part_behind_a_missing_entry_is_not_intact(trail) -> None:
    with trail._engine.begin() as connection:
        connection.execute(text("DELETE FROM audit WHERE number = 4"))
    assert verify_chain(trail, after=4, most=2) == AuditReport(4, intact=False, first_bad=4)
