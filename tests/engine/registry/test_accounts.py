"""Accounts and sessions on both databases: who an account is, and what ends with what."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from engine.errors import NotFound, RegistryError, SealBroken
from engine.registry import audit
from engine.registry.accounts import Session
from schema.actors import describe_actor

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


def session(place: int, person: str = "anna", **changes: object) -> Session:
    fields = (f"s{place:011}", bytes([place] * 32), "fraud", None, None, NOW)
    ends = NOW + timedelta(hours=10)
    made = Session(*fields, person=person, expires_at=ends, seen_at=NOW)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_an_account_keeps_its_first_person_and_its_name_to_itself(store) -> None:
    accounts = store.accounts
    assert accounts.sign_in(session(1), "u1", "c-1")
    assert accounts.sign_in(session(2, "anna b."), "u1", "c-2")
    assert accounts.find("s00000000002").person == "anna"
    assert not accounts.sign_in(session(3, " ANNA "), "u2", "c-3")
    with pytest.raises(NotFound):
        accounts.find("s00000000003")
    [account] = accounts.everyone(NOW)
    assert (account.person, account.sessions, account.seen_at) == ("anna", 2, NOW)
    accounts.touch("s00000000002", NOW + timedelta(minutes=3))
    accounts.touch("s00000000002", NOW + timedelta(minutes=2))
    assert accounts.find("s00000000002").seen_at == NOW + timedelta(minutes=3)
    accounts.sign_out("s00000000001", actor="test")
    assert accounts.sign_out_person("Anna", actor="test", forgets=True) == 1
    assert accounts.everyone(NOW) == []
    assert accounts.sign_in(session(4, "ANNA"), "u2", "c-4")
    actions = [one.entry.action for one in store.audit_entries() if "ount" in one.entry.action]
    assert actions == ["account.forgotten"]


def test_a_new_account_by_whose_name_one_could_pass_as_another_is_not_kept(store) -> None:
    accounts = store.accounts
    assert accounts.sign_in(session(1, "kim"), "u1", "c-1")
    for name in ("\uff2b\uff49m", "k\u0456m", "\u738b kim"):
        assert not accounts.sign_in(session(2, name), "u2", "c-2")
    # Of an account that is known the provider's names change nothing.
    assert accounts.sign_in(session(2, "k\u0456m"), "u1", "c-3")
    assert [one.person for one in accounts.everyone(NOW)] == ["kim"]


def test_an_account_that_an_earlier_version_took_signs_in_as_before(store, monkeypatch) -> None:
    monkeypatch.setattr("engine.registry.accounts.mixes_scripts", lambda _: False)
    assert store.accounts.sign_in(session(1, "k\u0456m"), "u1", "c-1")
    monkeypatch.undo()
    assert store.accounts.sign_in(session(2, "k\u0456m"), "u1", "c-2")
    assert store.accounts.sign_out_person("K\u0456m", actor="test") == 2


def test_a_new_sign_in_sweeps_out_what_has_expired(store) -> None:
    store.accounts.sign_in(session(1), "u1", "c-1")
    later = NOW + timedelta(hours=10)
    new = session(2, created_at=later, seen_at=later, expires_at=later + timedelta(hours=1))
    assert store.accounts.sign_in(new, "u1", "c-2")
    with pytest.raises(NotFound):
        store.accounts.find("s00000000001")


def test_a_session_of_an_unknown_outlet_or_an_altered_account_is_not_kept(store) -> None:
    accounts = store.accounts
    bounds = {"role": "outlet", "carrier": "red", "outlet": "nowhere"}
    with pytest.raises(RegistryError, match="is not here"):
        accounts.sign_in(session(1, **bounds), "u1", "c-1")
    assert accounts.everyone(NOW) == []
    assert accounts.sign_in(session(2), "u1", "c-2")
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE accounts SET person = 'bo'")
    with pytest.raises(SealBroken):
        accounts.sign_in(session(3), "u1", "c-3")


def test_the_audit_is_asked_for_a_person_whichever_key_or_session_they_used(store) -> None:
    by = [describe_actor("a_na 100%", f"{what}:0123456789ab") for what in ("key", "session")]
    others = ["axna 100%", "a_na 1000", "a_na 100% (key:0123456789abc)"]
    for actor in (*by, *(describe_actor(one, "key:0123456789ab") for one in others), "a_na 100%"):
        store.note(audit.AuditEntry(actor, "case.noted", "x"))
    found = [one.entry.actor for one in audit.read_audit(store, 0, 100, actor="a_na 100%")]
    assert found == [*by, "a_na 100%"]
