"""Authorization: what a role may do, to whose rows, and whom its answers name.

What a role may not do is `Forbidden`; what a tenant may not see is `NotFound`, as if it were not.
A search covers all carriers, so its candidates are mostly other carriers' holders. A tenant sees
that a face looks alike, and whether it is the same one as before; not whose it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from engine.errors import NotFound
from engine.reasons import Decision, Reason
from serving.errors import Forbidden, Malformed
from serving.wire.matching import Candidate

if TYPE_CHECKING:
    # Commands that only name a role need no registry.
    from engine.registry.records import EnrollmentRecord
    from engine.registry.vault import Vault


MIN_BURST = 256
"""Burst of a key, however low its rate: the largest batch of one call."""


class Role(StrEnum):
    """`outlet` acts for one outlet, `carrier` for one tenant; the other two for all tenants."""

    OUTLET = "outlet"
    CARRIER = "carrier"
    FRAUD = "fraud"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Principal:
    """The holder of a key. `carrier` is None for roles of all tenants, `outlet` for all but one.

    `rate_limit` is in items a second; None takes the setting.
    """

    key_id: str
    role: Role
    carrier: str | None = None
    outlet: str | None = None
    rate_limit: float | None = None

    @property
    def actor(self) -> str:
        """How the audit chain names it."""
        return f"key:{self.key_id}"


class Action(StrEnum):
    """What a call does; one that does several needs permission for each."""

    ENROLL = "enroll"
    READ_ENROLLMENT = "read_enrollment"
    """By its id."""
    FIND_ENROLLMENT = "find_enrollment"
    """By its Idempotency-Key, which is a tenant's own."""
    MATCH = "match"
    """1:1, nothing stored."""
    ISSUE_TEMPLATES = "issue_templates"
    SEARCH = "search"
    """1:N items of a match."""
    VERIFY_IMAGES = "verify_images"
    VERIFY_HOLDER = "verify_holder"
    """A face against a line or a document."""
    IDENTIFY = "identify"
    READ_LINES = "read_lines"
    DISPUTE_LINE = "dispute_line"
    CLOSE_LINE = "close_line"
    ERASE_DOCUMENT = "erase_document"
    SEARCH_PEOPLE = "search_people"
    """By face, document or number; and what stands in the name of one document."""
    READ_CROPS = "read_crops"
    SWEEP = "sweep"
    """To start and steer sweeps, and to see what they found."""
    WORK_CASES = "work_on_cases"
    READ_THRESHOLDS = "read_thresholds"
    READ_AUDIT = "read_the_audit_chain"
    BACK_UP = "back_up"
    READ_METRICS = "read_metrics"


_OUTLET, _CARRIER, _FRAUD, _OPERATOR = Role.OUTLET, Role.CARRIER, Role.FRAUD, Role.OPERATOR
_FACES = frozenset({_OUTLET, _CARRIER, _FRAUD})

PERMISSIONS: Mapping[Action, frozenset[Role]] = MappingProxyType(
    {
        Action.ENROLL: frozenset({_OUTLET, _CARRIER}),
        Action.READ_ENROLLMENT: frozenset({_OUTLET, _CARRIER, _FRAUD, _OPERATOR}),
        Action.FIND_ENROLLMENT: frozenset({_OUTLET, _CARRIER}),
        Action.MATCH: _FACES,
        Action.ISSUE_TEMPLATES: _FACES,
        Action.SEARCH: frozenset({_CARRIER, _FRAUD}),
        Action.VERIFY_IMAGES: _FACES,
        Action.VERIFY_HOLDER: _FACES,
        Action.IDENTIFY: frozenset({_FRAUD}),
        Action.READ_LINES: _FACES,
        Action.DISPUTE_LINE: _FACES,
        Action.CLOSE_LINE: frozenset({_CARRIER, _OPERATOR}),
        Action.ERASE_DOCUMENT: frozenset({_CARRIER, _OPERATOR}),
        Action.SEARCH_PEOPLE: frozenset({_FRAUD}),
        Action.READ_CROPS: frozenset({_FRAUD}),
        Action.SWEEP: frozenset({_FRAUD}),
        Action.WORK_CASES: frozenset({_FRAUD}),
        Action.READ_THRESHOLDS: frozenset(Role),
        Action.READ_AUDIT: frozenset({_OPERATOR}),
        Action.READ_METRICS: frozenset({_OPERATOR}),
        Action.BACK_UP: frozenset({_OPERATOR}),
    }
)


def authorize(principal: Principal, action: Action) -> None:
    """`Forbidden` where the role may not do it at all."""
    if principal.role not in PERMISSIONS[action]:
        raise Forbidden(f"a key of role {principal.role} may not {action.replace('_', ' ')}")


def outlet_of(principal: Principal, asked_outlet: str | None) -> tuple[str, str]:
    """The carrier and the outlet that an enrollment is for.

    A key enrolls for its own tenant alone, whatever the body asks. That the outlet is the
    carrier's, and open, is the registry's to say.
    """
    authorize(principal, Action.ENROLL)
    carrier = scope_of(principal)
    assert carrier is not None, "no role of all tenants enrolls"
    if principal.role is Role.OUTLET:
        if principal.outlet is None or asked_outlet not in (None, principal.outlet):
            raise Forbidden("the key may not act for this outlet: leave it out, or use its own key")
        return carrier, principal.outlet
    if asked_outlet is None:
        raise Malformed("no outlet is given: a carrier's key enrolls for one of its outlets")
    return carrier, asked_outlet


def see_enrollment(principal: Principal, record: EnrollmentRecord) -> None:
    """`NotFound` for the enrollment of another tenant, or of another outlet than the key's."""
    carrier = scope_of(principal)
    is_own = carrier in (None, record.carrier)
    if principal.role is Role.OUTLET:
        is_own = is_own and principal.outlet == record.outlet
    if not is_own:
        raise NotFound("no enrollment has this id: check it")


def scope_of(principal: Principal) -> str | None:
    """The one carrier whose rows may be touched; `None` for roles of all tenants."""
    if principal.role in (Role.FRAUD, Role.OPERATOR):
        return None
    if principal.carrier is None:
        # Or a key without its bounds would be one without any.
        raise Forbidden(f"the key of role {principal.role} has no carrier: make another")
    return principal.carrier


def template_tenant(principal: Principal) -> str:
    """Whom an issued template is bound to: a carrier with all its outlets, or the role."""
    carrier = scope_of(principal)
    # Prefixed, since a carrier's code may be a role's name.
    return f"role:{principal.role}" if carrier is None else f"carrier:{carrier}"


HOLDER_LENGTH = 32
"""Hex digits: 128 bits."""

ShowCandidate = Callable[[str, int, float], Candidate]
"""From document's id, reference's id and score to the candidate in an answer."""


def name_holder(vault: Vault, carrier: str, document_id: str) -> str:
    """A holder's pseudonym for one carrier: stable, and different for every other carrier."""
    return vault.look_up(f"holder:{carrier}", document_id).hex()[:HOLDER_LENGTH]


def choose_candidates(principal: Principal, vault: Vault) -> ShowCandidate:
    """How this caller's answers show candidates: by pseudonym to a tenant, by ids to the others."""
    carrier = scope_of(principal)
    if carrier is None:
        return _show_ids

    def show(document_id: str, _reference_id: int, score: float) -> Candidate:
        return Candidate(holder=name_holder(vault, carrier, document_id), score=score)

    return show


def show_decision(principal: Principal, vault: Vault, body: Mapping[str, Any]) -> dict[str, Any]:
    """A stored answer about an enrollment, without what the caller may not see of others.

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
