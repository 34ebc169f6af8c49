"""Authorization: what a role may do, to whose rows, and whom its answers name. What a tenant may
not see is `NotFound`, as if it were not; it sees that a face looks alike, not whose it is and not
how alike, since enough scores against a stored reference give the face."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar, assert_never

from msgspec import structs

from engine.errors import NotFound
from schema import frozen
from schema.actors import Role, describe_actor
from schema.cases import CaseKind
from schema.documents import AuthorityCode
from schema.reasons import WITHHELD, About, Decision, Reason, Told, find_idle
from serving.errors import Forbidden, Malformed

if TYPE_CHECKING:
    # Commands that only name a role need no registry and no types of answers.
    from engine.registry.enrollments import EnrollmentRecord
    from engine.registry.vault import Vault
    from schema.decisions import DecidedEnrollment
    from serving.wire import enrollments as wire
    from serving.wire.matching import Candidate

E = TypeVar("E", "wire.Enrollment", "wire.EnrollmentRecord")

MIN_BURST = 256
"""Burst of a key, however low its rate: the largest batch of one call."""


class Holder(NamedTuple):
    """The owner of a share: a carrier, or a role of all tenants, and in it a key."""

    tenant: str
    key_id: str


NOBODY = Holder("", "")
"""Whose share it is where no key has been admitted."""


@frozen
class Principal:
    """The holder of a key or a session. `carrier` is None for roles of all tenants, `outlet` for
    all but one; `rate_limit` is in items a second, None for the setting. Of a session `key_id` is
    its own, and `ends_at` when it ends at the latest. `person` is whose key it is."""

    key_id: str
    role: Role
    carrier: str | None = None
    outlet: str | None = None
    rate_limit: float | None = None
    person: str | None = None
    ends_at: datetime | None = None

    @property
    def credential(self) -> str:
        """By what it is authenticated."""
        return f"{'key' if self.ends_at is None else 'session'}:{self.key_id}"

    @property
    def holder(self) -> Holder:
        """The owner of the share that it takes."""
        return Holder(tenant_of(self), self.key_id)

    @property
    def name(self) -> str:
        """Its name in the queue and the history of cases: two keys of a person are one."""
        return self.person or self.credential

    @property
    def actor(self) -> str:
        """Its name in the audit chain."""
        return describe_actor(self.person, self.credential)


_OUTLET, _CARRIER, _FRAUD, _OPERATOR = Role.OUTLET, Role.CARRIER, Role.FRAUD, Role.OPERATOR
_PEOPLE = (_OUTLET, _CARRIER, _FRAUD, _OPERATOR)
_FACES = (_OUTLET, _CARRIER, _FRAUD)


class Action(StrEnum):
    """The kind of a call, and the roles that may make it; one that does several needs permission
    for each."""

    roles: frozenset[Role]

    def __new__(cls, name: str, *roles: Role) -> Self:
        made = str.__new__(cls, name)
        made._value_ = name
        made.roles = frozenset(roles)
        return made

    ENROLL = "enroll", _OUTLET, _CARRIER
    READ_ENROLLMENT = "read_enrollment", *_PEOPLE
    """By its id."""
    FIND_ENROLLMENT = "find_enrollment", _OUTLET, _CARRIER
    """By its Idempotency-Key, which is a tenant's own."""
    MATCH = "match", *_FACES
    """1:1, nothing stored."""
    ISSUE_TEMPLATES = "issue_templates", *_FACES
    SEARCH = "search", _CARRIER, _FRAUD
    """1:N items of a match."""
    VERIFY_IMAGES = "verify_images", *_FACES
    VERIFY_HOLDER = "verify_holder", *_FACES
    """A face against a line or a document."""
    IDENTIFY = "identify", _FRAUD
    READ_LINES = "read_lines", *_FACES
    DISPUTE_LINE = "dispute_line", *_FACES
    CLOSE_LINE = "close_line", _CARRIER, _OPERATOR
    REPORT_EVENTS = "report_events_of_lines", _CARRIER, _OPERATOR
    RUN_CAMPAIGNS = "run_campaigns", _CARRIER, _OPERATOR
    EXEMPT = "exempt_documents_from_limits", _FRAUD
    READ_HISTORY = "read_the_history_of_lines", _CARRIER, _FRAUD, _OPERATOR
    READ_SIM_CHANGES = "read_changes_of_sim", _CARRIER, _FRAUD
    ERASE_DOCUMENT = "erase_document", _CARRIER, _OPERATOR
    SEARCH_PEOPLE = "search_people", _FRAUD
    """By face, document or number; and what stands in the name of one document."""
    READ_CROPS = "read_crops", _FRAUD
    SWEEP = "sweep", _FRAUD
    """To start and steer sweeps, and to see what they found."""
    WORK_CASES = "work_on_cases", _FRAUD
    RESTRICT_OUTLETS = "restrict_outlets", _FRAUD
    """To suspend an outlet, bar it, and lift that."""
    REPORT_DEATH = "report_a_death", _FRAUD, _OPERATOR
    """To say that a holder is dead, to confirm it, and to take it back."""
    REVEAL = "reveal_names_and_numbers", _FRAUD
    """Of one case: with a reason, or in its report where it is asked for."""
    EXPORT_SUBJECT = "export_what_is_kept_of_a_person", _OPERATOR
    READ_THRESHOLDS = "read_thresholds", *_PEOPLE
    READ_EVENTS = "read_events", _CARRIER, _FRAUD, _OPERATOR
    MANAGE_WEBHOOKS = "manage_webhooks", _CARRIER, _OPERATOR
    """To say where events are sent."""
    READ_AUDIT = "read_the_audit_chain", _OPERATOR
    BACK_UP = "back_up", _OPERATOR
    IMPORT = "import", _OPERATOR
    READ_METRICS = "read_metrics", _OPERATOR, Role.METRICS
    READ_KEY = "read_whose_key_it_is", *_PEOPLE


def authorize(principal: Principal, action: Action) -> None:
    """`Forbidden` where the role may not do it at all."""
    if principal.role not in action.roles:
        raise Forbidden(f"a key of role {principal.role} may not {action.replace('_', ' ')}")


def outlet_of(principal: Principal, asked_outlet: str | None) -> tuple[str, str]:
    """The carrier and the outlet of an enrollment: a key enrolls for its own tenant alone, whatever
    the body asks. The registry says whether the outlet is the carrier's, and open."""
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
    match principal.role:
        case Role.FRAUD | Role.OPERATOR:
            return None
        case Role.OUTLET | Role.CARRIER | Role.METRICS:
            if principal.carrier is None:
                # Or a key without its bounds would be one without any.
                raise Forbidden(f"the key of role {principal.role} has no carrier: make another")
            return principal.carrier
        case other:
            assert_never(other)


def tenant_of(principal: Principal) -> str:
    """Whom an issued template is bound to, and who shares what there is with others before its keys
    do: a carrier with all its outlets, or the role."""
    carrier = None if principal.role is Role.METRICS else scope_of(principal)
    # Prefixed, since a carrier's code may be a role's name.
    return f"role:{principal.role}" if carrier is None else f"carrier:{carrier}"


HOLDER_LENGTH = 32
"""Hex digits: 128 bits."""

ShowCandidate = Callable[[str, int, float], "Candidate"]
"""From document's id, reference's id and score to the candidate in an answer."""


def name_holder(vault: Vault, carrier: str, document_id: str) -> str:
    """A holder's pseudonym for one carrier: stable, and different for every other carrier."""
    return vault.look_up(f"holder:{carrier}", document_id).hex()[:HOLDER_LENGTH]


def choose_candidates(principal: Principal, vault: Vault) -> ShowCandidate:
    """Chooses how this caller's answers show candidates: by pseudonym to a tenant, by ids to the
    others."""
    from serving.wire.matching import Candidate  # noqa: PLC0415 - see above

    carrier = scope_of(principal)

    def show(document_id: str, reference_id: int, score: float) -> Candidate:
        if carrier is None:
            return Candidate(
                holder=None, document_id=document_id, reference_id=reference_id, score=score
            )
        return Candidate(holder=name_holder(vault, carrier, document_id), score=None)

    return show


def order_candidates(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Best first; by name where the scores are not shown, or their order would tell of them."""
    return tuple(sorted(candidates, key=lambda one: (-(one.score or 0.0), one.holder or "")))


def find_withheld(decided: DecidedEnrollment, found: Collection[Reason]) -> frozenset[Reason]:
    """The reasons that a tenant is not told: those about a holder whose face was not shown.

    Face and document agree where both photographs are one person's who was alive before the camera
    as far as that is asked, who is the document's holder if it has one, and is known under no
    other; so is a minor's guardian. Else documents and numbers could be tried out without their
    holders, one after another. What is told of lines elsewhere needs a holder's face on file.
    """
    is_waived = decided.is_face_waived
    if is_waived or any(one.shows_nobody for one in found):
        # Whether a guardian's document is held is no matter of an attempt that shows nobody.
        told = {Told.ALWAYS, *([Told.FACE_OR_GUARDIAN] if is_waived else [])}
        return frozenset(one for one in found if one.row.told not in told)
    withheld: set[Reason] = set()
    if _is_anothers(decided, found):
        told = {Told.OWN_HOLDER} if decided.is_own_holder else set()
        withheld |= {one for one in found if one.is_of_holder and one.row.told not in told}
    if Reason.GUARDIAN_DUPLICATE in found:
        withheld |= {one for one in found if one.row.is_guardians_too}
    return frozenset(withheld)


def _is_anothers(decided: DecidedEnrollment, found: Collection[Reason]) -> bool:
    """True where the face is, or may be, another's than the document's holder's."""
    is_of_shown = any(one.row.told is Told.HOLDER_SHOWN for one in found)
    return (is_of_shown and decided.is_holder_unseen) or any(
        one is Reason.DOCUMENT_HELD_BY_ANOTHER_FACE or one.row.about is About.LOOK_ALIKE
        for one in found
    )


def show_decision(caller: Principal, decided: DecidedEnrollment, told: E) -> E:
    """What is `told` of a decision, without others' data: to a tenant no score but that of its own
    two photographs, no candidate, and the document's id only where the face was its holder's or
    nobody holds it. What does not bring the decision is kept from it as if nobody had been
    found."""
    if scope_of(caller) is None:
        return told
    from serving.wire.enrollments import Enrollment, Finding  # noqa: PLC0415 - see above

    findings = [(one.reason, one.decision) for one in decided.reasons]
    idle = find_idle(findings, decided.decision) if findings else frozenset[Reason]()
    given = [reason for reason, _ in findings if reason not in idle]
    withheld = find_withheld(decided, given)
    reasons = tuple(one for one in told.reasons if one.reason not in withheld | idle)
    # Where these alone would not bring the decision, one more.
    if (withheld or idle) and all(one.decision != told.decision for one in reasons):
        reasons += (Finding(WITHHELD, told.decision),)
    # Who has shown nobody's face is told the same, whoever has the document, the number or a face.
    is_unseen = any(one.shows_nobody for one in given)
    is_unnamed = is_unseen or withheld or decided.decision is Decision.REJECTED
    shown = structs.replace(
        told,
        reasons=reasons,
        scores=structs.replace(told.scores, holder=None, best_candidate=None),
        # Not even an empty list: which of several were found is not for tenants, either.
        duplicate_search=structs.replace(told.duplicate_search, candidates=None),
        document_id=None if is_unnamed else told.document_id,
    )
    if isinstance(shown, Enrollment):
        untold = {kind for one in withheld for kind in (one.row.opens, one.row.asks)}
        kinds = {kind for kind in CaseKind if kind.is_told and kind not in untold}
        return structs.replace(shown, cases=tuple(one for one in shown.cases if one.kind in kinds))
    # Whoever tries attacks would see there how near each came.
    hidden = dict.fromkeys(("liveness_judge", "guardian_authority", "replaced_authority"))
    return structs.replace(shown, **hidden, authority=_show_authority(shown))


def _show_authority(shown: wire.EnrollmentRecord) -> wire.AuthorityEvidence | None:
    """Shows an authority's answer about the document, without its score; nothing where its own
    reason was not told either, or documents could be tried out at it with faces of others."""
    # Here, for commands that need roles alone.
    from engine.matching.checks.document import find_problem  # noqa: PLC0415

    said = shown.authority
    problem = None if said is None else find_problem(AuthorityCode(said.code))
    is_told = problem is not None and any(one.reason == problem for one in shown.reasons)
    if said is None or not (is_told or shown.decision == Decision.APPROVED):
        return None
    return structs.replace(said, face_score=None, min_face_score=None)
