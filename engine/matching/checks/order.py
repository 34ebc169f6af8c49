"""The checks in their order, and recorded decisions decided again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import NotFound
from engine.matching.calibration import Thresholds
from engine.matching.checks.authority import AuthorityPart
from engine.matching.checks.document import DocumentPart
from engine.matching.checks.face import FacePart, LinePart
from engine.matching.checks.liveness import LivenessPart
from engine.matching.checks.people import PeoplePart
from engine.matching.checks.picture import PicturePart
from engine.matching.policy import Evidence, EvidencePart, decide, unasked
from engine.registry.enrollments import EnrollmentRecord
from schema.reasons import Decision, Reason

PARTS: tuple[type[EvidencePart], ...] = (
    DocumentPart,
    AuthorityPart,
    PicturePart,
    LivenessPart,
    FacePart,
    LinePart,
    PeoplePart,
)
"""What evidence has, in the order of findings."""


BLANK = tuple(unasked(kind) for kind in PARTS)
"""Of evidence before anything is weighed."""


def read_evidence(recorded: Mapping[str, Any]) -> Evidence:
    """The evidence that `write_evidence` wrote, after a way through JSON."""
    thresholds = Thresholds(**recorded["thresholds"])
    return Evidence(thresholds, tuple(kind.read(recorded) for kind in PARTS))


@dataclass(frozen=True, slots=True)
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
    policy = str(enrollment.evidence["policy_version"])
    verdict = decide(read_evidence(enrollment.evidence["inputs"]), policy)
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
