"""Evidence as it is recorded beside a decision, and read back to replay it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from engine.errors import NotFound
from engine.matching.policy import Candidate, Evidence, Verdict, decide
from engine.matching.thresholds import Thresholds
from engine.reasons import Decision, Reason
from engine.registry.records import EnrollmentRecord

_BARE = ("findings", "model_digest", "policy_version")
_BARE_INPUTS = ("thresholds", "searched")


@dataclass(frozen=True, slots=True)
class Replay:
    """A recorded decision beside what `decide` says of its evidence today."""

    recorded: Decision
    recorded_reasons: tuple[Reason, ...]
    replayed: Decision
    replayed_reasons: tuple[Reason, ...]
    recorded_policy: str

    @property
    def agrees(self) -> bool:
        return (self.recorded, self.recorded_reasons) == (self.replayed, self.replayed_reasons)


def write_evidence(evidence: Evidence) -> dict[str, Any]:
    """Evidence as plain JSON values."""
    return asdict(evidence)


def read_evidence(recorded: Mapping[str, Any]) -> Evidence:
    """The evidence that `write_evidence` wrote, after a way through JSON."""
    fields = dict(recorded)
    fields["thresholds"] = Thresholds(**fields["thresholds"])
    fields["candidates"] = tuple(Candidate(**item) for item in fields["candidates"])
    for name in ("document_findings", "live_problems", "portrait_problems"):
        fields[name] = tuple(Reason(item) for item in fields[name])
    return Evidence(**fields)


def strip_evidence(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """What stays of the evidence beside a decision when its time is over: the rules it was judged
    by and its findings; no score, no candidate, nothing measured on a face."""
    inputs = recorded.get("inputs", {})
    stays = {name: recorded[name] for name in _BARE if name in recorded}
    return stays | {"inputs": {name: inputs[name] for name in _BARE_INPUTS if name in inputs}}


def write_findings(verdict: Verdict) -> list[dict[str, str]]:
    """The findings of a verdict for people: reason, what it brings, which photograph."""
    return [
        {"reason": finding.reason.value, "decision": finding.decision.value}
        | ({"photograph": finding.photograph.value} if finding.photograph else {})
        for finding in verdict.findings
    ]


def replay(enrollment: EnrollmentRecord) -> Replay:
    """Decides a recorded enrollment again, from nothing but its recorded evidence.

    `NotFound` where that has left.
    """
    if enrollment.expired_at is not None:
        raise NotFound("the evidence of this attempt has left by retention: it cannot be replayed")
    verdict = decide(read_evidence(enrollment.evidence["inputs"]))
    return Replay(
        recorded=Decision(enrollment.decision),
        recorded_reasons=tuple(dict.fromkeys(Reason(item) for item in enrollment.reasons)),
        replayed=verdict.decision,
        replayed_reasons=verdict.reasons,
        recorded_policy=str(enrollment.evidence["policy_version"]),
    )
