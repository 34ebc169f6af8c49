"""The audit chain: tampering is found, in the whole chain and in parts."""

import pytest
from sqlalchemy import text, update

from engine.errors import ChainBroken, FourEyes, RequestError, WriterBusy
from engine.registry import audit
from engine.registry.audit import MENDED, AuditEntry, AuditReader, AuditRecord, AuditReport
from engine.registry.damage import mend_chain
from engine.registry.database import utc_now
from engine.registry.store import Store
from schema.actors import Actor
from tests.engine.registry.conftest import ENTRY, MODEL
from tests.tables import tables

TAMPERINGS = {
    "altered detail": ("UPDATE audit SET detail = '{\"score\":1}' WHERE number = 9", 9),
    "altered actor": ("UPDATE audit SET actor = 'nobody' WHERE number = 2", 2),
    "moved in time": ("UPDATE audit SET at = '2020-01-01T00:00:00.000000Z' WHERE number = 1", 1),
    "altered hash": (
        "UPDATE audit SET hash = (SELECT max(key_check) FROM deployment) WHERE number = 3",
        3,
    ),
    "removed": ("DELETE FROM audit WHERE number = 4", 4),
    "removed first": ("DELETE FROM audit WHERE number = 1", 1),
    "cut tail": ("DELETE FROM audit WHERE number >= 11", 11),
    "all removed": ("DELETE FROM audit", 1),
    "swapped": ("UPDATE audit SET number = 1000 - number", 1),
    "forgotten head": ("UPDATE deployment SET audit_number = audit_number - 1", 11),
}


@pytest.fixture
def trail(store, writer, enroll):
    writer.commit(enroll(writer, 5))
    assert store.audit_head()[0] == 11
    return store


def tamper(trail, tampering: str) -> int | None:
    """Alters the chain; the first entry that is bad."""
    statement, first_bad = TAMPERINGS[tampering]
    if trail._engine.dialect.name == "postgresql":
        statement = statement.replace("max(key_check)", "key_check")
    with trail._engine.begin() as connection:
        connection.execute(text(statement.replace(":1}", "\\:1}")))
    return first_bad


def verify_parts(trail, most: int) -> list[AuditReport]:
    last, after, found = trail.audit_head()[0], 0, []
    while after < last:
        found.append(audit.verify_chain(trail, after=after, most=most))
        if not found[-1].intact:
            break
        after = found[-1].entries
    return found


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_tampering_is_found_and_its_place_named_by_the_whole_and_by_parts(
    trail, tampering: str
) -> None:
    first_bad = tamper(trail, tampering)
    report = audit.verify_chain(trail)
    assert (report.intact, report.first_bad) == (False, first_bad)
    for most in (1, 3, 4, 100):
        *before, last = verify_parts(trail, most)
        assert all(part.intact for part in before)
        assert (last.intact, last.first_bad) == (False, first_bad)


def test_entry_forged_without_the_key_is_found(trail) -> None:
    with trail._engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO audit SELECT 12, at, actor, action, subject, detail, hash "
                "FROM audit WHERE number = 11"
            )
        )
        connection.execute(text("UPDATE deployment SET audit_number = 12"))
    assert audit.verify_chain(trail) == AuditReport(entries=12, first_bad=12)


def test_any_json_survives_the_chain(store, writer) -> None:
    details = [
        {"z": 1, "a": [1.5, None, True, {"ü": "王"}]},
        {"tiny": 5e-324, "third": 1 / 3, "big": 1e300, "whole": 3.0},
        {},
    ]
    entries = [AuditEntry("tést", "a", "b", detail) for detail in details]
    writer.commit([*entries])
    assert audit.verify_chain(store).intact
    assert [record.entry for record in store.audit_entries(after=6)] == entries


@pytest.mark.parametrize("most", [1, 3, 11, 100])
def test_parts_of_an_honest_chain_are_intact_to_its_head(trail, most: int) -> None:
    parts = verify_parts(trail, most)
    assert all(part.intact for part in parts)
    assert parts[-1].entries == trail.audit_head()[0]
    assert len(parts) == -(-11 // most)
    assert audit.verify_chain(trail) == AuditReport(entries=11)
    assert not audit.verify_chain(trail, after=10**9, most=most).intact


ANNA, BOB = Actor("anna (key:k1)", "anna"), Actor("bob (key:k2)", "bob")
LATER = {
    "altered": "UPDATE audit SET subject = 'other' WHERE number = 7",
    "removed": "DELETE FROM audit WHERE number = (SELECT max(number) - 1 FROM audit)",
    "mend altered": "UPDATE audit SET actor = 'nobody' WHERE action = 'audit.mended'",
    "mend removed": "DELETE FROM audit WHERE action = 'audit.mended'",
    "cut": "DELETE FROM audit WHERE number = (SELECT max(number) FROM audit)",
}


@pytest.mark.parametrize("tampering", [*TAMPERINGS, "head of a version without codes"])
def test_two_people_seal_a_broken_chain_and_the_mend_stays_visible(
    trail, writer, database_url, tampering: str
) -> None:
    """Whatever was broken: it goes on, shows the mend, and each later alteration is found."""
    writer.close()
    if tampering in TAMPERINGS:
        first_bad = tamper(trail, tampering)
    else:
        first_bad = trail.audit_head()[0] + 1
        write_as_before_codes(trail)
        assert audit.verify_chain(trail).first_bad == first_bad + 1
        first_bad += 1
    made = mend_chain(trail, "an old process wrote", ANNA, BOB)
    report = audit.verify_chain(trail)
    assert (report.intact, report.entries) == (True, made.number)
    assert report.mends == (made,)
    said = made.entry.detail
    assert (made.entry.actor, said["second"], said["first_bad"]) == (ANNA.name, BOB.name, first_bad)
    for most in (1, 3, 4, 100):
        *_, last = verify_parts(trail, most)
        assert (last.intact, last.entries) == (True, made.number)
    with Store.open(database_url, trail.vault, model_digest=MODEL) as opened:
        opened.note(ENTRY)
        with opened.writer() as later:
            later.commit([ENTRY])
        assert audit.verify_chain(opened).mends == (made,)
    for statement in LATER.values():
        with trail._engine.connect() as connection:
            if connection.execute(text(statement)).rowcount:
                assert not audit.verify_chain(AuditReader(connection, trail.vault)).intact, (
                    statement
                )


def write_as_before_codes(trail) -> None:
    """As a process of before 0007 does, which was opened before the upgrade to it."""
    number, head = trail.audit_head()
    entry = AuditEntry("old", "test.done", "x")
    with trail._engine.begin() as connection:
        records = audit.extend(trail.vault, number, head, utc_now(), [entry])
        audit.append(connection, records)
        moved = update(tables.deployment).values(
            audit_number=records[-1].number, chain_head=records[-1].hash
        )
        connection.execute(moved)


def test_a_mend_takes_two_people_a_broken_chain_and_no_writer(trail, writer, database_url) -> None:
    with pytest.raises(WriterBusy):
        mend_chain(trail, "x", ANNA, BOB)
    writer.close()
    with pytest.raises(RequestError, match="nothing to mend"):
        mend_chain(trail, "x", ANNA, BOB)
    tamper(trail, "cut tail")
    with pytest.raises(FourEyes, match="two people"):
        mend_chain(trail, "x", ANNA, Actor("ANNA (key:k9)", "ANNA"))
    with pytest.raises(ChainBroken):
        Store.open(database_url, trail.vault, model_digest=MODEL)


def test_no_mend_is_believed_that_was_written_without_the_key_ring(trail) -> None:
    """Nor does one hide what was altered anew at a place that was mended."""
    tamper(trail, "altered detail")
    with trail._engine.begin() as connection:
        row = connection.execute(text("SELECT * FROM audit WHERE number = 9")).one()
        for breaks in ([[9, row.hash.hex(), row.hash.hex()]], 7, [7], {}):
            number = connection.scalar(text("SELECT max(number) FROM audit")) + 1
            forged = AuditRecord(
                number, utc_now(), AuditEntry("a", MENDED, "x", {"breaks": breaks}), row.hash
            )
            audit.append(connection, [forged])
    assert audit.verify_chain(trail).first_bad == 9
