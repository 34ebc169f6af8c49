"""Whom templates and holders' names are for, and what of a decision a tenant is shown.

`tests/serving/api/test_access_matrix.py` has every route for every role and tenant.
"""

from __future__ import annotations

import pytest

from engine.registry.keyring import KeyRing
from engine.registry.vault import Vault
from schema.actors import Role
from schema.cases import CaseKind
from schema.reasons import About, Reason, Row
from serving.access.authorization import (
    PERMISSIONS,
    Action,
    Principal,
    name_holder,
    outlet_of,
    scope_of,
    show_decision,
    tenant_of,
)
from serving.errors import Forbidden

OUTLET = Principal("k1", Role.OUTLET, "red", "r1")
CARRIER = Principal("k2", Role.CARRIER, "red")
FRAUD = Principal("k3", Role.FRAUD)
OPERATOR = Principal("k4", Role.OPERATOR)
METRICS = Principal("k8", Role.METRICS)
EVERYBODY = (OUTLET, CARRIER, FRAUD, OPERATOR)


def test_a_template_belongs_to_the_carrier_or_to_the_role() -> None:
    tenants = [tenant_of(principal) for principal in EVERYBODY]
    assert tenants == ["carrier:red", "carrier:red", "role:fraud", "role:operator"]
    named_alike = Principal("k5", Role.CARRIER, "role:fraud")
    assert tenant_of(named_alike) not in tenants


def test_a_key_for_metrics_reads_them_and_touches_nobodys_rows() -> None:
    assert {one for one in Action if METRICS.role in PERMISSIONS[one]} == {Action.READ_METRICS}
    with pytest.raises(Forbidden):
        scope_of(METRICS)
    assert METRICS.holder == ("role:metrics", "k8")


@pytest.mark.parametrize("role", [Role.OUTLET, Role.CARRIER])
def test_a_tenants_key_without_a_tenant_may_do_nothing(role: Role) -> None:
    unbound = Principal("k6", role)
    with pytest.raises(Forbidden):
        scope_of(unbound)
    with pytest.raises(Forbidden):
        outlet_of(unbound, "r1")
    with pytest.raises(Forbidden):
        tenant_of(unbound)
    half = Principal("k7", Role.OUTLET, "red")
    with pytest.raises(Forbidden):
        outlet_of(half, None)


ELSEWHERE = Principal("k5", Role.CARRIER, "blue")
STORED = {
    "enrollment_id": "e1",
    "decision": "review",
    "reasons": [{"reason": "POSSIBLE_DUPLICATE", "decision": "review"}],
    "scores": {"live_portrait": 0.8, "holder": 0.5, "best_candidate": 0.6},
    "document_id": "d0",
    "duplicate_search": {
        "ran": True,
        "candidates": [{"reference_id": 7, "document_id": "d1", "score": 0.6}],
    },
}


def test_no_case_tells_a_tenant_what_is_withheld_of_anothers_child(vault: Vault) -> None:
    case = {"id": "c1", "kind": "stolen_document"}
    told = [{"reason": "GUARDIAN_CHANGED", "decision": "review"}]
    body = STORED | {"reasons": told, "cases": [case], "is_face_waived": True}
    shown = show_decision(CARRIER, vault, body)
    assert "GUARDIAN_CHANGED" not in str(shown)
    assert shown["cases"] == []
    assert show_decision(FRAUD, vault, body)["cases"] == [case]


def test_a_reason_without_an_audience_cannot_be_written() -> None:
    with pytest.raises(TypeError):
        Row(About.GUARDIAN)  # type: ignore[call-arg]
    with pytest.raises(AssertionError):
        Reason._new_member_(Reason, "NEW")  # type: ignore[attr-defined]


def test_a_kind_of_case_that_nobody_gave_an_audience_is_told_to_no_tenant(vault: Vault) -> None:
    body = STORED | {"reasons": [], "cases": [{"id": one, "kind": one} for one in [*CaseKind, "x"]]}
    told = {one["kind"] for one in show_decision(CARRIER, vault, body)["cases"]}
    assert told == {"stolen_document", "exception"}
    assert show_decision(FRAUD, vault, body)["cases"] == body["cases"]


def test_a_holder_has_one_name_for_each_carrier_and_deployment(vault: Vault) -> None:
    others = Vault(KeyRing.generate(), 8)
    names = [
        name_holder(keys, carrier, document)
        for keys in (vault, others)
        for carrier in ("red", "blue")
        for document in ("d1", "d2")
    ]
    assert len(set(names)) == 8
    assert {len(bytes.fromhex(name)) for name in names} == {16}
    assert names[0] == name_holder(vault, "red", "d1")


@pytest.mark.parametrize(
    ("decision", "document_id"), [("approved", "d0"), ("review", "d0"), ("rejected", None)]
)
def test_a_rejected_enrollment_names_no_document_to_a_tenant(
    vault: Vault, decision: str, document_id: str | None
) -> None:
    stored = STORED | {"decision": decision}
    assert show_decision(CARRIER, vault, stored)["document_id"] == document_id
    assert show_decision(OPERATOR, vault, stored)["document_id"] == "d0"


def test_how_like_anybody_a_face_is_stays_hidden_from_tenants(vault: Vault) -> None:
    held = [{"reason": "DOCUMENT_HELD_BY_ANOTHER_FACE", "decision": "rejected"}]
    stored = STORED | {"decision": "rejected", "reasons": held}
    for principal in (OUTLET, CARRIER):
        for body in (stored, STORED):
            shown = show_decision(principal, vault, body)["scores"]
            assert shown == {"live_portrait": 0.8, "holder": None, "best_candidate": None}
    for principal in (FRAUD, OPERATOR):
        assert show_decision(principal, vault, stored)["scores"]["holder"] == 0.5


@pytest.mark.parametrize(
    ("reasons", "is_own", "told"),
    [
        (("BLURRED", "NAME_MISMATCH", "LINE_IN_USE"), True, ("BLURRED",)),
        (("NAME_MISMATCH", "FACE_MISMATCH", "POSSIBLE_DUPLICATE"), True, ("FACE_MISMATCH",)),
        (("DOCUMENT_INVALID", "LINE_IN_USE"), False, ("DOCUMENT_INVALID",)),
        (("DOCUMENT_HELD_BY_ANOTHER_FACE", "NAME_MISMATCH"), False, ("WITHHELD",)),
        (
            ("NAME_MISMATCH", "DOCUMENT_HELD_BY_ANOTHER_FACE", "WATCHLISTED"),
            True,
            ("NAME_MISMATCH", "DOCUMENT_HELD_BY_ANOTHER_FACE"),
        ),
        (("DUPLICATE_IDENTITY", "LINE_IN_USE"), False, ("LINE_IN_USE",)),
        (("DUPLICATE_IDENTITY", "NAME_MISMATCH"), False, ("DUPLICATE_IDENTITY",)),
        (("GUARDIAN_DUPLICATE", "LINE_LIMIT_REACHED"), True, ("LINE_LIMIT_REACHED",)),
        (("NAME_MISMATCH", "LINE_IN_USE"), False, ("NAME_MISMATCH", "LINE_IN_USE")),
        (("NAME_MISMATCH", "GUARDIAN_DUPLICATE", "WATCHLISTED"), True, ("GUARDIAN_DUPLICATE",)),
        (("GUARDIAN_MISSING", "LINE_IN_USE"), True, ("GUARDIAN_MISSING", "LINE_IN_USE")),
    ],
)
def test_a_tenant_is_told_of_a_holder_where_face_and_document_agree(
    vault: Vault, reasons: tuple[str, ...], is_own: bool, told: tuple[str, ...]
) -> None:
    findings = [
        {"reason": one, "decision": "review" if one in REVIEWED else "rejected"} for one in reasons
    ]
    stored = STORED | {"decision": "rejected", "reasons": findings, "is_own_holder": is_own}
    shown = show_decision(CARRIER, vault, stored)
    assert tuple(one["reason"] for one in shown["reasons"]) == told
    assert show_decision(FRAUD, vault, stored)["reasons"] == findings


REVIEWED = {"NAME_MISMATCH", "POSSIBLE_DUPLICATE", "WATCHLISTED"}


@pytest.mark.parametrize(
    "beside",
    ["LINE_IN_USE", "DOCUMENT_HELD_BY_ANOTHER_FACE", "NAME_MISMATCH", "WATCHLISTED", "BLURRED"],
)
@pytest.mark.parametrize("found", ["DUPLICATE_IDENTITY", "POSSIBLE_DUPLICATE"])
def test_an_attempt_that_fails_anyway_is_shown_as_if_nobody_looked_alike(
    vault: Vault, beside: str, found: str
) -> None:
    brings = "review" if beside in REVIEWED else "rejected"
    finding = {"reason": beside, "decision": brings}
    alike = {"reason": found, "decision": brings}
    case = {"id": "c1", "kind": found.lower()}
    nobody = {"ran": True, "candidates": []}
    missed = STORED | {"decision": brings, "reasons": [finding], "cases": []}
    hit = missed | {"reasons": [finding, alike], "cases": [case]}
    shown = show_decision(CARRIER, vault, hit)
    assert shown == show_decision(CARRIER, vault, missed | {"duplicate_search": nobody})
    assert show_decision(FRAUD, vault, hit)["reasons"] == [finding, alike]
    assert show_decision(FRAUD, vault, hit)["cases"] == [case]
