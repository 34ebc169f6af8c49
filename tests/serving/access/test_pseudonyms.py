"""What a tenant is shown of other people: stable for it, and of no use to anybody else."""

from __future__ import annotations

from typing import Any

import pytest

from engine.registry.keyring import KeyRing
from engine.registry.vault import Vault
from serving.access.authorization import Principal, Role
from serving.access.pseudonyms import choose_candidates, name_holder, show_decision
from serving.wire.codec import plain
from serving.wire.matching import Candidate

OUTLET = Principal("k1", Role.OUTLET, "red", "r1")
CARRIER = Principal("k2", Role.CARRIER, "red")
ELSEWHERE = Principal("k3", Role.CARRIER, "blue")
FRAUD = Principal("k4", Role.FRAUD)
OPERATOR = Principal("k5", Role.OPERATOR)
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
        show(OUTLET) == show(CARRIER) == {"holder": name_holder(vault, "red", "d1"), "score": 0.6}
    )
    assert show(ELSEWHERE)["holder"] != show(CARRIER)["holder"]
    ids = {"holder": None, "document_id": "d1", "reference_id": 7, "score": 0.6}
    assert show(FRAUD) == show(OPERATOR) == ids


def test_a_stored_decision_is_shown_without_the_ids_of_others_and_stays_as_it_is(
    vault: Vault,
) -> None:
    shown = show_decision(OUTLET, vault, STORED)
    candidates = [Candidate(holder=name_holder(vault, "red", "d1"), score=0.6)]
    assert shown == STORED | {"duplicate_search": {"ran": True, "candidates": candidates}}
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


def test_how_like_its_holder_another_face_is_stays_hidden_from_tenants(vault: Vault) -> None:
    held = [{"reason": "DOCUMENT_HELD_BY_ANOTHER_FACE", "decision": "rejected"}]
    stored = STORED | {"decision": "rejected", "reasons": held}
    for principal in (OUTLET, CARRIER):
        shown = show_decision(principal, vault, stored)
        assert shown["scores"] == {"live_portrait": 0.8, "holder": None, "best_candidate": 0.6}
        assert show_decision(principal, vault, STORED)["scores"]["holder"] == 0.5
    for principal in (FRAUD, OPERATOR):
        assert show_decision(principal, vault, stored)["scores"]["holder"] == 0.5


@pytest.mark.parametrize("search", [{"ran": False}, {"ran": False, "candidates": None}])
def test_a_search_that_did_not_run_is_shown_as_such(vault: Vault, search: dict[str, Any]) -> None:
    stored = STORED | {"duplicate_search": search}
    assert show_decision(OUTLET, vault, stored)["duplicate_search"] == search
