"""Ids, moments, and API keys with what they are bound to."""

import uuid
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite

from engine.errors import NotFound, RegistryError, RequestError
from engine.registry.accounts import ApiKey, bind_secret
from engine.registry.audit import AuditEntry, verify_chain
from engine.registry.database import Moment, new_id, utc_now
from tests.engine.registry.conftest import ENTRY

DIALECT = sqlite.dialect()
MOMENTS = st.datetimes(
    min_value=datetime(1000, 1, 1),  # noqa: DTZ001
    timezones=st.integers(-23, 23).map(lambda hours: timezone(timedelta(hours=hours))),
)


def test_ids_are_version_7_uuids_that_differ_and_ascend_with_time() -> None:
    before = utc_now()
    ids = [uuid.UUID(new_id()) for _ in range(1000)]
    after = utc_now()
    assert len(set(ids)) == 1000
    assert {key.version for key in ids} == {7}
    assert {key.variant for key in ids} == {uuid.RFC_4122}
    times = [key.int >> 80 for key in ids]
    assert times == sorted(times)
    assert int(before.timestamp() * 1000) <= times[0] <= times[-1] <= after.timestamp() * 1000 + 1


@settings(deadline=None)
@given(MOMENTS, MOMENTS)
def test_moments_are_kept_to_the_microsecond_and_sort_by_time(one, other) -> None:
    moment = Moment()
    stored = [moment.process_bind_param(value, DIALECT) for value in (one, other)]
    assert [len(text) for text in stored] == [27, 27]
    assert [moment.process_result_value(text, DIALECT) for text in stored] == [one, other]
    assert (stored[0] < stored[1]) == (one < other)


DIGEST = bytes(range(32))


def key_of(key_id: str, role: str, carrier: str | None, outlet: str | None) -> ApiKey:
    person = None if carrier else "Ann"
    fields = (key_id, DIGEST, role, carrier, outlet, utc_now())
    return ApiKey(*fields, label="Till [3]", person=person)


OF_AN_OUTLET = key_of("k1", "outlet", "red", "r1")


def test_a_key_is_read_back_as_it_was_added(store) -> None:
    keys = [
        OF_AN_OUTLET,
        key_of("k2", "carrier", "red", None),
        replace(key_of("k3", "fraud", None, None), rate_limit=0.1),
        replace(key_of("k4", "operator", None, None), expires_at=utc_now() + timedelta(days=1)),
    ]
    for key in keys:
        store.add_api_key(key, actor="test")
    keys = [replace(key, digest=bind_secret(store.vault, key, DIGEST)) for key in keys]
    assert store.api_keys() == keys
    assert len({key.digest for key in keys}) == len(keys)
    assert [store.api_key(key.id) for key in keys] == keys
    assert verify_chain(store).intact


def test_a_key_is_added_and_revoked_beside_the_writer_and_audited(store, writer) -> None:
    store.add_api_key(OF_AN_OUTLET, actor="cli:ann")
    store.revoke_api_key("k1", actor="cli:ben")
    # The writer goes on: another's change of the audit chain does not depose it.
    writer.commit([ENTRY])
    added, revoked = [record.entry for record in store.audit_entries()][-3:-1]
    bound = {"role": "outlet", "carrier": "red", "outlet": "r1", "person": None}
    assert added == AuditEntry("cli:ann", "apikey.added", "k1", bound)
    assert revoked == AuditEntry("cli:ben", "apikey.revoked", "k1")
    assert verify_chain(store).intact


@pytest.mark.parametrize(
    ("key", "error", "words"),
    [
        (key_of("k9", "carrier", "none", None), NotFound, "no carrier has the code none"),
        (key_of("k9", "outlet", "red", "none"), NotFound, "no open outlet with the code none"),
        (key_of("k9", "outlet", "red", "b1"), NotFound, "no open outlet with the code b1"),
        (key_of("k9", "outlet", "red", "r2"), NotFound, "no open outlet with the code r2"),
        (OF_AN_OUTLET, RegistryError, "its id is taken"),
        (key_of("k9", "outlet", "red", None), RegistryError, "other bounds"),
        (replace(key_of("k9", "fraud", "red", None), person="A"), RegistryError, "other bounds"),
        (key_of("k9", "fraud", "red", None), RequestError, "say whose"),
        (replace(key_of("k9", "carrier", "red", None), rate_limit=0.0), RegistryError, "."),
    ],
)
def test_a_key_without_what_it_is_bound_to_is_refused(store, key, error, words) -> None:
    store.add_api_key(OF_AN_OUTLET, actor="test")
    store.close_outlet("r2", actor="test")
    before = store.counts(), store.audit_head()
    with pytest.raises(error, match=words):
        store.add_api_key(key, actor="test")
    assert (store.counts(), store.audit_head()) == before


def test_no_record_of_a_key_shows_its_digest(store) -> None:
    store.add_api_key(OF_AN_OUTLET, actor="test")
    shown = repr((store.api_keys(), list(store.audit_entries())))
    assert "k1" in shown
    assert str(DIGEST)[2:-1] not in shown
    assert DIGEST.hex() not in shown
