"""How other people are shown in a tenant's answers: by names that mean nothing elsewhere.

A search looks at everybody, so its candidates are mostly other carriers' people. A tenant sees that
somebody looks alike, and whether it is the same one as before; not who.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engine.reasons import Decision, Reason
from engine.registry.vault import Vault
from serving.access.authorization import Principal, scope_of
from serving.wire.matching import Candidate

HOLDER_LENGTH = 32
"""Hex digits: 128 bits."""

ShowCandidate = Callable[[str, int, float], Candidate]
"""A look-alike as an answer shows it: document's id, reference's id, score."""


def name_holder(vault: Vault, carrier: str, document_id: str) -> str:
    """What a holder is called towards one carrier: always the same, and the same to nobody else."""
    return vault.look_up(f"holder:{carrier}", document_id).hex()[:HOLDER_LENGTH]


def choose_candidates(principal: Principal, vault: Vault) -> ShowCandidate:
    """How this caller's answers show candidates: named to a tenant, by their ids to the others."""
    carrier = scope_of(principal)
    if carrier is None:
        return _show_ids

    def show(document_id: str, _reference_id: int, score: float) -> Candidate:
        return Candidate(holder=name_holder(vault, carrier, document_id), score=score)

    return show


def show_decision(principal: Principal, vault: Vault, body: Mapping[str, Any]) -> dict[str, Any]:
    """An answer about an enrollment that the caller may see, as it is stored, without the ids of
    others.

    A tenant sees the document's id where the face was its holder's or nobody holds it; where it
    was rejected the document may be held elsewhere, by another face. How like the holder another
    face is, it does not see: else any two people could be compared by it.
    """
    show = choose_candidates(principal, vault)
    search = dict(body["duplicate_search"])
    if search.get("candidates"):
        search["candidates"] = [
            show(one["document_id"], one["reference_id"], one["score"])
            for one in search["candidates"]
        ]
    shown = {**body, "duplicate_search": search}
    if scope_of(principal) is None:
        return shown
    if body["decision"] == Decision.REJECTED:
        shown["document_id"] = None
    if any(one["reason"] == Reason.DOCUMENT_HELD_BY_ANOTHER_FACE for one in body["reasons"]):
        shown["scores"] = {**body["scores"], "holder": None}
    return shown


def _show_ids(document_id: str, reference_id: int, score: float) -> Candidate:
    return Candidate(holder=None, document_id=document_id, reference_id=reference_id, score=score)
