"""The checks in their order, and recorded decisions decided again."""

from collections.abc import Mapping
from typing import Any

from engine.errors import NotFound
from engine.matching.calibration import Thresholds
from engine.matching.checks.document import AuthorityCheck, DocumentCheck
from engine.matching.checks.face import FaceCheck
from engine.matching.checks.limits import LimitsCheck
from engine.matching.checks.lines import LineCheck
from engine.matching.checks.liveness import NOT_ASKED, LivenessCheck
from engine.matching.checks.people import PeopleCheck
from engine.matching.checks.picture import PictureCheck
from engine.matching.checks.second_model import SecondModelCheck
from engine.matching.judge import Checks
from engine.matching.policy import Evidence, decide, unasked
from engine.registry.enrollments import EnrollmentRecord
from schema import frozen
from schema.options import NO_LIMITS, NO_RULES, LineLimits
from schema.reasons import Decision, Reason

CHECKS: Checks = {
    DocumentCheck: (),
    AuthorityCheck: None,
    PictureCheck: (),
    LivenessCheck: NOT_ASKED,
    FaceCheck: (),
    LineCheck: LineLimits(),
    PeopleCheck: NO_RULES,
    LimitsCheck: NO_LIMITS,
    SecondModelCheck: None,
}
"""With their terms where a deployment says nothing of them."""
BLANK = {kind.part: unasked(kind.part) for kind in CHECKS if kind.part is not None}
"""Of evidence before anything is weighed."""


def read_evidence(recorded: Mapping[str, Any]) -> Evidence:
    """The evidence that `write` of it gave, after a way through JSON."""
    thresholds = Thresholds(**recorded["thresholds"])
    return Evidence(thresholds, {kind: kind.read(recorded) for kind in BLANK})


@frozen
class ReplayedDecision:
    """A recorded decision beside what `decide` says of its evidence today."""

    recorded: Decision
    recorded_reasons: tuple[Reason, ...]
    replayed: Decision
    replayed_reasons: tuple[Reason, ...]
    recorded_policy: str
    agrees: bool


def replay(enrollment: EnrollmentRecord) -> ReplayedDecision:
    """Decides a recorded enrollment again from its recorded evidence, by the policy of its time.

    `NotFound` where retention has removed that.
    """
    if enrollment.expired_at is not None:
        raise NotFound("the evidence of this attempt has left by retention: it cannot be replayed")
    policy = enrollment.evidence.policy_version
    verdict = decide(read_evidence(enrollment.evidence.inputs), policy)
    recorded = Decision(enrollment.decision)
    reasons = tuple(dict.fromkeys(Reason(item) for item in enrollment.reasons))
    return ReplayedDecision(
        recorded=recorded,
        recorded_reasons=reasons,
        replayed=verdict.decision,
        replayed_reasons=verdict.reasons,
        recorded_policy=policy,
        agrees=(recorded, reasons) == (verdict.decision, verdict.reasons),
    )
