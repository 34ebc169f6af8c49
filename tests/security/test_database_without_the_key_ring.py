"""Whoever writes the database without the key ring: each alteration is found, or refused.

The attacker has every right on the database and nothing of the home: the rows are altered by plain
SQL, as an administrator of PostgreSQL or a thief of the disk may.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import text
from structlog import get_logger
from structlog.testing import capture_logs

from engine.cases.steps import note
from engine.errors import ChainBroken, SealBroken
from engine.matching.holders import block_document, erase_holder
from engine.matching.recovery import restore_gallery
from engine.registry.audit import AuditEntry, verify_chain
from engine.registry.damage import (
    AnchoredHead,
    find_anchor_faults,
    find_damage,
    read_anchors,
    write_anchor,
)
from engine.registry.database import changing
from engine.registry.store import Store
from schema.cases import Outcome
from serving.registrar import open_registry
from serving.registrar.open_registry import examine_rows
from serving.telemetry.metrics import Meter
from tests.engine.cases.conftest import ANNA, Service, make_pair, service
from tests.engine.conftest import database_url, sqlite_url
from tests.engine.matching.conftest import MODEL_DIGEST, lab, make_lab, people
from tests.waiting import wait_until

__all__ = ["database_url", "lab", "make_lab", "make_pair", "people", "service", "sqlite_url"]

Alter = Callable[..., None]
ROW_BEYOND = (
    "INSERT INTO audit SELECT number + 1, at, actor, action, subject, detail, hash FROM audit "
    "WHERE number = (SELECT max(number) FROM audit)"
)


@pytest.fixture
def attack(service) -> Alter:
    """`attack(statement, **values)`: SQL of whoever writes the database; it alters something."""

    def alter(statement: str, **values: Any) -> None:
        with changing(service.store.engine) as connection:
            assert connection.execute(text(statement), values).rowcount > 0

    return alter


@contextmanager
def found_by(service: Service, *words: str) -> Iterator[None]:
    """The block alters what the examination of all rows then finds, and nothing else."""
    assert find_damage(service.store) == []
    yield
    found = find_damage(service.store)
    assert found, "nothing is found"
    assert all(any(word in one for word in words) for one in found), found


def head_of(store: Store) -> tuple[int, Any, Any, int]:
    query = text("SELECT audit_number, chain_head, audit_mac, sequence FROM deployment")
    with changing(store.engine) as connection:
        return tuple(connection.execute(query).one())  # type: ignore[return-value]


def cut_tail(attack: Alter, number: int, head: Any, code: Any, sequence: int) -> None:
    """Takes off what follows an entry of the audit, and has the head say so."""
    attack("DELETE FROM audit WHERE number > :n", n=number)
    fields = "audit_number = :n, chain_head = :h, audit_mac = :m, sequence = :s"
    attack(f"UPDATE deployment SET {fields}", n=number, h=head, m=code, s=sequence)


def assert_broken(service: Service, database_url: str) -> None:
    """Found at opening, by verification, and before an audited call commits."""
    with pytest.raises(ChainBroken):
        Store.open(database_url, service.lab.vault, model_digest=MODEL_DIGEST)
    assert not verify_chain(service.store).intact
    with pytest.raises(ChainBroken):
        service.registrar.audit(AuditEntry("key:b1", "lines.read", "x"))
    # Nothing is decided any more, and it says why: an operator is asked.
    assert isinstance(service.registrar.failure, ChainBroken)


def test_a_tail_that_was_cut_off(service, attack, database_url) -> None:
    service.enroll(2)
    before = service.store.audit_head()
    service.enroll(1)
    _, _, code, sequence = head_of(service.store)
    cut_tail(attack, *before, code, sequence)
    assert_broken(service, database_url)


def test_a_tail_cut_off_with_the_head_of_then_is_found_by_the_writer_and_an_anchor(
    service, attack, tmp_path
) -> None:
    """The head is one that the key ring has authenticated: only what was seen later tells."""
    service.enroll(2)
    before = head_of(service.store)
    service.enroll(1)
    number, head = service.store.audit_head()
    file = tmp_path / "anchors"
    line = write_anchor(service.lab.vault.deployment_id, number, head)
    file.write_text(f"Nov 27 10:00:00 host sosie: {line}\nanother line\n", encoding="utf-8")
    anchors = list(read_anchors(file, service.lab.vault.deployment_id))
    assert find_anchor_faults(service.store, anchors) == (1, [])
    cut_tail(attack, *before)
    assert verify_chain(service.store).intact
    compared, [fault] = find_anchor_faults(service.store, anchors)
    assert (compared, "not there" in fault) == (1, True)
    other = AnchoredHead("now", before[0], bytes(32))
    assert "another now" in find_anchor_faults(service.store, [other])[1][0]
    with pytest.raises(ChainBroken):
        service.registrar.audit(AuditEntry("key:b1", "lines.read", "x"))


def test_a_row_beyond_the_head(service, attack, database_url) -> None:
    service.enroll(1)
    attack(ROW_BEYOND)
    assert_broken(service, database_url)


def test_two_references_whose_documents_were_swapped(service, attack) -> None:
    faces = [service.lab.people.person() for _ in range(2)]
    requests = [service.lab.request(face) for face in faces]
    one, two = (answer.decided for answer in service.registrar.enroll(requests))
    with found_by(service, "references: row", "references.template of row"):
        attack(
            'UPDATE "references" SET document_id = CASE document_id WHEN :one THEN :two '
            "ELSE :one END",
            one=one.document_id,
            two=two.document_id,
        )
    # Q comes with the document of P, whose reference is Q's now.
    theft = service.lab.request(faces[1], document=requests[0].document)
    (answer,) = service.registrar.enroll([theft])
    assert isinstance(answer, SealBroken)
    restored = restore_gallery(service.store, service.lab.folder / "again")
    assert len(restored.gallery) == 0, "nobody is compared with either"


def test_an_answer_that_is_given_again(service, attack) -> None:
    request = service.lab.request()
    service.registrar.enroll([request])
    with found_by(service, "idempotency: row"):
        attack('UPDATE idempotency SET response = \'{"decision": "rejected"}\'')
    (again,) = service.registrar.enroll([request])
    assert isinstance(again, SealBroken)


def test_a_block_that_was_lifted_and_one_that_was_put_back_to_before(service, attack) -> None:
    person = service.lab.people.person()
    request = service.lab.request(person)
    service.registrar.enroll([request])
    with changing(service.store.engine) as connection:
        free = connection.execute(text("SELECT blocked_at, mac FROM documents")).one()
    block_document(service.registrar, service.store, request.document, "key:ops")
    (blocked,) = service.store.blocked_documents()
    with found_by(service, "documents: row"):
        attack("UPDATE documents SET blocked_at = NULL")
    (answer,) = service.registrar.enroll([service.lab.request(person, document=request.document)])
    assert isinstance(answer, SealBroken)
    # The row as it was before the block, with the code that it had: the chain knows of the block.
    attack("UPDATE documents SET mac = :code", code=free.mac)
    assert find_damage(service.store) == [
        f"documents: row {blocked.id} is not as document.blocked in the audit chain says"
    ]


ALTERED = {
    "enrollments": "evidence = '{}'",
    "lines": "carrier = 'red', outlet = 'red-1'",
    "case_notes": "actor = 'bob'",
    "judged_pairs": "outcome = 'twins'",
    "cases": "outcome = 'mistake'",
    "watchlist": "removed_at = added_at, template = NULL",
}


@pytest.mark.parametrize("table", ALTERED)
def test_a_row_that_decides(service, attack, make_pair, table: str) -> None:
    """Who reads it is refused: `test_one_flipped_bit`."""
    one, two = make_pair()
    case = service.open(one.document_id, two.document_id)
    note(*service.context, case.id, "they are sisters", ANNA)
    service.decide(case.id, Outcome.FRAUD)
    with found_by(service, f"{table}: row"):
        attack(f"UPDATE {table} SET {ALTERED[table]}")


def test_a_watched_face_that_was_deleted(service, attack, make_pair) -> None:
    case = service.open(*(one.document_id for one in make_pair()))
    service.decide(case.id, Outcome.FRAUD)
    with found_by(service, "watchlist: "):
        attack("DELETE FROM watchlist WHERE id = 2")


def test_what_is_altered_is_not_vouched_for_by_the_next_change(service, attack) -> None:
    (body,) = service.enroll(1)
    attack("UPDATE lines SET carrier = 'red', outlet = 'red-1'")
    with pytest.raises(SealBroken):
        erase_holder(*service.context, body.document_id, "key:ops")
    assert any(one.startswith("lines: row") for one in find_damage(service.store))


def test_the_daily_examination_tells_by_metric_and_log(service, attack, monkeypatch) -> None:
    monkeypatch.setattr(open_registry, "PAUSE_S", 0)
    meter = Meter()
    service.enroll(1)
    assert examine_rows(service.store, meter, get_logger()) == []
    attack("UPDATE lines SET carrier = 'red', outlet = 'red-1'")
    attack("UPDATE audit SET actor = 'nobody' WHERE number = 2")
    with capture_logs() as logged:
        found = examine_rows(service.store, meter, get_logger())
    assert [one.partition(" ")[0] for one in found] == ["lines:", "the"]
    assert [(one["event"], one["found"]) for one in logged] == [("registry_damaged", found)]
    assert b"sosie_registry_damage 2.0" in meter.render()[0]


KEYS = {
    "role": "UPDATE api_keys SET role = 'operator', carrier = NULL, outlet = NULL, person = 'x'",
    "carrier": "UPDATE api_keys SET carrier = 'red', outlet = 'r1'",
    "expiry": "UPDATE api_keys SET expires_at = '2099-01-01T00:00:00.000000Z'",
    "rate": "UPDATE api_keys SET rate_limit = 1000000",
}


@pytest.mark.parametrize("what", KEYS)
def test_a_key_that_may_do_more(own_service, what: str) -> None:
    key = own_service.keys["b2"]
    store, key_id = own_service.parts.store, key.split("_")[-2]
    asked = {"method": "GET", "path": "/v1/thresholds", "key": "b2"}
    assert own_service.ask(**asked).status_code == 200
    columns = "role, carrier, outlet, person, expires_at, rate_limit"
    with changing(store.engine) as connection:
        known = connection.execute(
            text(f"SELECT {columns} FROM api_keys WHERE id = :id"), {"id": key_id}
        ).one()
        connection.execute(text(f"{KEYS[what]} WHERE id = :id"), {"id": key_id})
    try:
        assert own_service.ask(**asked).status_code == 401
        assert own_service.ask("GET", "/v1/audit", key="b2").status_code == 401
    finally:
        given = ", ".join(f"{name} = :{name}" for name in columns.split(", "))
        with changing(store.engine) as connection:
            connection.execute(
                text(f"UPDATE api_keys SET {given} WHERE id = :id"),
                dict(known._mapping) | {"id": key_id},
            )
    assert own_service.ask(**asked).status_code == 200


def test_a_key_that_was_revoked_stays_so(own_service) -> None:
    store, key = own_service.parts.store, own_service.keys["r1"]
    key_id = key.split("_")[-2]
    store.revoke_api_key(key_id, actor="test")
    with changing(store.engine) as connection:
        connection.execute(
            text("UPDATE api_keys SET revoked_at = NULL WHERE id = :id"), {"id": key_id}
        )
    assert own_service.ask("GET", "/v1/thresholds", key="r1").status_code == 401
    assert any(one.startswith("api_keys: row") for one in find_damage(store))


def test_readiness_tells_of_a_row_beyond_the_head_before_anybody_meets_it(fresh) -> None:
    store = fresh.parts.store
    with changing(store.engine) as connection:
        connection.execute(text(ROW_BEYOND))
    # No call is made: it is told before anybody meets it.
    wait_until(lambda: fresh.ask("GET", "/health/ready", key=None).status_code != 200)
    answer = fresh.ask("GET", "/health/ready", key=None)
    assert "sosie audit verify" in answer.json()["checks"]["store"]["detail"]
