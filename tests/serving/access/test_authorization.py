"""Every action for every role, and every object for its own tenant and another's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from engine.errors import NotFound
from engine.registry.keyring import KeyRing
from engine.registry.records import EnrollmentRecord
from engine.registry.vault import Vault
from serving.access.authorization import (
    PERMISSIONS,
    Action,
    Principal,
    Role,
    authorize,
    choose_candidates,
    name_holder,
    outlet_of,
    scope_of,
    see_enrollment,
    show_decision,
    template_tenant,
)
from serving.errors import Forbidden, Malformed
from serving.wire.fields import plain
from serving.wire.matching import Candidate

OUTLET = Principal("k1", Role.OUTLET, "red", "r1")
CARRIER = Principal("k2", Role.CARRIER, "red")
FRAUD = Principal("k3", Role.FRAUD)
OPERATOR = Principal("k4", Role.OPERATOR)
EVERYBODY = (OUTLET, CARRIER, FRAUD, OPERATOR)

#                       outlet carrier fraud operator
ALLOWED = {
    "enroll":          ("yes", "yes", "no", "no"),
    "read_enrollment": ("yes", "yes", "yes", "yes"),
    "find_enrollment": ("yes", "yes", "no", "no"),
    "match":           ("yes", "yes", "yes", "no"),
    "issue_templates": ("yes", "yes", "yes", "no"),
    "search":          ("no", "yes", "yes", "no"),
    "verify_images":   ("yes", "yes", "yes", "no"),
    "verify_holder":   ("yes", "yes", "yes", "no"),
    "identify":        ("no", "no", "yes", "no"),
    "read_lines":      ("yes", "yes", "yes", "no"),
    "dispute_line":    ("yes", "yes", "yes", "no"),
    "close_line":      ("no", "yes", "no", "yes"),
    "erase_document":  ("no", "yes", "no", "yes"),
    "search_people":   ("no", "no", "yes", "no"),
    "read_crops":      ("no", "no", "yes", "no"),
    "sweep":           ("no", "no", "yes", "no"),
    "work_on_cases":   ("no", "no", "yes", "no"),
    "read_thresholds": ("yes", "yes", "yes", "yes"),
    "read_the_audit_chain": ("no", "no", "no", "yes"),
    "read_metrics":    ("no", "no", "no", "yes"),
}  # fmt: skip


def test_the_table_speaks_of_every_action_and_role() -> None:
    assert {action.value for action in Action} == set(ALLOWED) == set(PERMISSIONS)
    assert {principal.role for principal in EVERYBODY} == set(Role)


@pytest.mark.parametrize("action", ALLOWED)
@pytest.mark.parametrize("place", range(4))
def test_every_action_of_every_role_is_allowed_or_forbidden_as_written(
    action: str, place: int
) -> None:
    if ALLOWED[action][place] == "yes":
        authorize(EVERYBODY[place], Action(action))
    else:
        with pytest.raises(Forbidden) as caught:
            authorize(EVERYBODY[place], Action(action))
        assert EVERYBODY[place].role in str(caught.value)


#  who       asked outlet    the answer
ENROLLING: list[tuple[Principal, str | None, Any]] = [
    (OUTLET, None, ("red", "r1")),
    (OUTLET, "r1", ("red", "r1")),
    (OUTLET, "r2", Forbidden),
    (OUTLET, "b1", Forbidden),
    (OUTLET, "", Forbidden),
    (CARRIER, "r1", ("red", "r1")),
    (CARRIER, "r2", ("red", "r2")),
    (CARRIER, None, Malformed),
    (FRAUD, "r1", Forbidden),
    (FRAUD, None, Forbidden),
    (OPERATOR, "r1", Forbidden),
    (OPERATOR, None, Forbidden),
]


@pytest.mark.parametrize(("who", "outlet", "expected"), ENROLLING)
def test_a_key_enrolls_for_its_own_tenant_alone(
    who: Principal, outlet: str | None, expected: Any
) -> None:
    if isinstance(expected, tuple):
        assert outlet_of(who, outlet) == expected
    else:
        with pytest.raises(expected):
            outlet_of(who, outlet)


#   enrolled by     outlet carrier fraud operator
SEEN = {
    ("red", "r1"):  ("yes", "yes", "yes", "yes"),
    ("red", "r2"):  ("no", "yes", "yes", "yes"),
    ("blue", "b1"): ("no", "no", "yes", "yes"),
    ("blue", "r1"): ("no", "no", "yes", "yes"),
}  # fmt: skip


@pytest.mark.parametrize("tenant", SEEN)
@pytest.mark.parametrize("place", range(4))
def test_an_enrollment_of_another_tenant_is_not_there(tenant: tuple[str, str], place: int) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    record = EnrollmentRecord(
        "e1", 0, *tenant, None, "approved", (), {}, None, None, moment
    )  # fmt: skip
    if SEEN[tenant][place] == "yes":
        see_enrollment(EVERYBODY[place], record)
    else:
        with pytest.raises(NotFound) as caught:
            see_enrollment(EVERYBODY[place], record)
        assert str(caught.value) == "no enrollment has this id: check it"


def test_a_tenants_key_is_confined_to_its_carrier_and_the_others_to_none() -> None:
    assert [scope_of(principal) for principal in EVERYBODY] == ["red", "red", None, None]


def test_a_template_belongs_to_the_carrier_or_to_the_role() -> None:
    tenants = [template_tenant(principal) for principal in EVERYBODY]
    assert tenants == ["carrier:red", "carrier:red", "role:fraud", "role:operator"]
    named_alike = Principal("k5", Role.CARRIER, "role:fraud")
    assert template_tenant(named_alike) not in tenants


@pytest.mark.parametrize("role", [Role.OUTLET, Role.CARRIER])
def test_a_tenants_key_without_a_tenant_may_do_nothing(role: Role) -> None:
    unbound = Principal("k6", role)
    with pytest.raises(Forbidden):
        scope_of(unbound)
    with pytest.raises(Forbidden):
        outlet_of(unbound, "r1")
    with pytest.raises(Forbidden):
        template_tenant(unbound)
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


def test_a_tenant_is_shown_its_own_name_and_the_others_the_ids(vault: Vault) -> None:
    def show(principal: Principal) -> dict[str, Any]:
        shown: dict[str, Any] = plain(choose_candidates(principal, vault)("d1", 7, 0.6))
        return shown

    assert (
        show(OUTLET) == show(CARRIER) == {"holder": name_holder(vault, "red", "d1"), "score": None}
    )
    assert show(ELSEWHERE)["holder"] != show(CARRIER)["holder"]
    ids = {"holder": None, "document_id": "d1", "reference_id": 7, "score": 0.6}
    assert show(FRAUD) == show(OPERATOR) == ids


def test_a_stored_decision_is_shown_without_the_ids_of_others_and_stays_as_it_is(
    vault: Vault,
) -> None:
    shown = show_decision(OUTLET, vault, STORED)
    candidates = (Candidate(holder=name_holder(vault, "red", "d1"), score=None),)
    assert shown == STORED | {
        "duplicate_search": {"ran": True, "candidates": candidates},
        "scores": {"live_portrait": 0.8, "holder": None, "best_candidate": None},
    }
    assert STORED["duplicate_search"]["candidates"][0]["document_id"] == "d1"  # type: ignore[index]
    whole = show_decision(FRAUD, vault, STORED)
    assert whole["duplicate_search"]["candidates"][0].document_id == "d1"


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
        (("DUPLICATE_IDENTITY", "LINE_IN_USE"), False, ("DUPLICATE_IDENTITY",)),
        (("NAME_MISMATCH", "LINE_IN_USE"), False, ("NAME_MISMATCH", "LINE_IN_USE")),
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


@pytest.mark.parametrize("search", [{"ran": False}, {"ran": False, "candidates": None}])
def test_a_search_that_did_not_run_is_shown_as_such(vault: Vault, search: dict[str, Any]) -> None:
    stored = STORED | {"duplicate_search": search}
    assert show_decision(OUTLET, vault, stored)["duplicate_search"] == search
