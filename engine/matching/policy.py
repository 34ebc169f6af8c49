"""The decision: a pure function from what the checks weighed to decision and reasons.

A recorded decision can therefore be replayed from its recorded evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import fields
from typing import Any, ClassVar, Self, TypeVar

import msgspec

from engine.matching.calibration import Thresholds
from schema import frozen
from schema.cases import UNTOLD, CaseKind
from schema.decisions import Finding, FoundReference
from schema.decoding import prepare
from schema.reasons import About, Decision, Reason, find_idle

POLICY_VERSION = "5"
"""Changes whenever the same evidence could lead to another decision, or to other reasons."""
_TELLS_ALL = frozenset({"1"})
"""Versions that gave findings on document and number beside an unusable photograph."""


@frozen(kw_only=True)
class FaceScores:
    """The cosines of the live face, of the portrait and of their mean with one stored face; None
    where it was not compared, and where it is below what it was searched for at."""

    live: float | None = None
    portrait: float | None = None
    mean: float | None = None


class Candidate(FoundReference, frozen=True):
    """A reference of another document that looks like what is shown.

    `score` is the gravest of `each`, on the scale of fused comparisons (`on_fused_scale` of
    `Thresholds`); of the mean alone in decisions that have no `each`.
    """

    each: FaceScores | None = None


@frozen
class Verdict:
    """The gravest decision of all findings, the findings in the table's order, and what an
    analyst is asked to decide."""

    decision: Decision
    findings: tuple[Finding, ...]
    cases: tuple[CaseKind, ...]

    @property
    def reasons(self) -> tuple[Reason, ...]:
        return tuple(dict.fromkeys(finding.reason for finding in self.findings))

    @property
    def idle(self) -> frozenset[Reason]:
        """Of these what no tenant is told of."""
        return find_idle([(one.reason, one.decision) for one in self.findings], self.decision)

    @property
    def asking(self) -> frozenset[Reason]:
        """Of these what its cases about who holds the document ask."""
        return frozenset(
            one for one in self.reasons if one.row.opens not in (None, CaseKind.EXCEPTION)
        )

    def name_untold(self, about: Set[Reason], enrollment_id: str) -> str | None:
        """The group key of a case about these reasons, where no tenant is told of any of them: with
        nobody found it would not be there."""
        return f"{UNTOLD}{enrollment_id}" if about <= self.idle else None


_GRAVITY = list(Decision)
_ALONE = ((About.CONSENT,), (About.EXCEPTION,), (About.PHOTOGRAPH, About.LIVENESS))
"""Subjects of rejections beside which no other is told, the first of these first: who shows no
face, none that may be looked at, or none that is shown to be alive, asks about nobody's document or
number."""


class EvidencePart:
    """The evidence of one check on an attempt. A record keeps its fields, and an earlier record may
    lack some: each has a default."""

    __slots__ = ()
    key: ClassVar[str | None] = None
    """Of what a record keeps, None where nothing was asked; else each field has its own."""

    def find(self, evidence: Evidence, version: str) -> Iterable[Finding]:
        """The findings, in the table's order, by this version of the policy."""
        raise NotImplementedError

    def temper(self, findings: Sequence[Finding], _version: str) -> Sequence[Finding]:
        """All findings, other checks' too, as they are by this one."""
        return findings

    def is_compared(self, _decision: Decision) -> bool:
        """True where by it enough was compared for this decision."""
        return False

    def write(self) -> dict[str, Any]:
        """As JSON values."""
        written: dict[str, Any] = msgspec.to_builtins(self, enc_hook=float)
        if self.key is None:
            return written
        return {self.key: None if self == unasked(type(self)) else written}

    @classmethod
    def read(cls, recorded: Mapping[str, Any]) -> Self:
        """The part of recorded evidence, after a way through JSON."""
        kept = recorded if cls.key is None else recorded.get(cls.key) or {}
        names = (one.name for one in fields(cls))  # type: ignore[arg-type]
        known = {name: kept[name] for name in names if name in kept}
        return msgspec.convert(known, prepare(cls))


P = TypeVar("P", bound=EvidencePart)


_UNASKED: dict[type[EvidencePart], EvidencePart] = {}


def unasked(kind: type[EvidencePart]) -> EvidencePart:
    """The one part of a check that was not asked: it finds nothing."""
    if kind not in _UNASKED:
        _UNASKED[kind] = kind()
    return _UNASKED[kind]


@frozen
class Evidence:
    """Everything that a decision depends on, a part for each check, in their order; scores are
    cosines, None where nothing was compared."""

    thresholds: Thresholds
    parts: Mapping[type[EvidencePart], EvidencePart]

    def of(self, kind: type[P]) -> P:
        """The part of a check."""
        part = self.parts[kind]
        assert isinstance(part, kind)
        return part

    def having(self, *changed: EvidencePart) -> Evidence:
        """The same with these parts in place of those of their kind."""
        return Evidence(self.thresholds, {**self.parts, **{type(one): one for one in changed}})

    def write(self) -> dict[str, Any]:
        """As JSON values."""
        written: dict[str, Any] = {"thresholds": msgspec.to_builtins(self.thresholds)}
        for part in self.parts.values():
            written |= part.write()
        return written


def decide(evidence: Evidence, version: str = POLICY_VERSION) -> Verdict:
    """The whole table; every check that finds something leaves a finding.

    An unusable photograph, or a face that is not shown to be alive, is the only thing told.
    `version` is the policy's that is applied. Raises `ValueError` for evidence that compared
    nothing and gives no reason for it: what was not looked at is never approved.
    """
    parts = [one for one in evidence.parts.values() if one is not unasked(type(one))]
    each = (one for part in parts for one in part.find(evidence, version))
    # Of a minor and of the guardian the same may be found.
    found: Sequence[Finding] = list(dict.fromkeys(each))
    for part in parts:
        found = part.temper(found, version)
    findings = tuple(_find_alone(found, version) or found)
    decision = max(
        (finding.decision for finding in findings), key=_GRAVITY.index, default=Decision.APPROVED
    )
    if decision is not Decision.REJECTED and not any(one.is_compared(decision) for one in parts):
        raise ValueError("evidence without a comparison approves nobody")
    kinds = (finding.reason.row.opens for finding in findings)
    asked = {CaseKind.EXCEPTION} if decision is Decision.REJECTED else set()
    return Verdict(
        decision,
        findings,
        tuple(dict.fromkeys(one for one in kinds if one is not None and one not in asked)),
    )


def _find_alone(found: Sequence[Finding], version: str) -> list[Finding]:
    """The findings that are told alone; none where all are told."""
    for subjects in _ALONE[: 2 if version in _TELLS_ALL else None]:
        alone = [
            one
            for one in found
            if one.reason.row.about in subjects and one.decision is Decision.REJECTED
        ]
        if alone:
            return alone
    return []
