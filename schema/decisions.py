"""Decisions, the scores and thresholds that they depend on, and the kinds of comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from msgspec import Meta, Struct

from schema.decoding import Value
from schema.documents import AuthorityResult
from schema.people import ProofWay
from schema.reasons import Decision, Photograph, Reason


class Comparison(StrEnum):
    """What is compared: single photographs, or references fused of two photographs of a person."""

    ONE_TO_ONE = "one_to_one"
    FUSED_TO_ONE = "fused_to_one"
    FUSED = "fused"


class Interval(Value):
    """A rate, or an expected count, with its 95 % interval; where `is_bound`, no more is known than
    "at most `value`"."""

    value: float
    low: float
    high: float
    is_bound: bool


class HolderScore(Value):
    """A probe against a face, or against the references of a document."""

    is_match: bool
    score: Annotated[
        float | None,
        Meta(
            description="of two faces of the caller's own; against a holder null to a tenant, and "
            "where there is no reference"
        ),
    ]
    threshold: float
    document_id: Annotated[str | None, Meta(description="null between two faces")]
    line_id: str | None


class DecidingScores(Value):
    """The scores that decisions depend on, of enrollments of any age."""

    verify: float
    same_document: float
    review: float
    certain: float
    verify_fused: Annotated[
        float | None,
        Meta(
            description="the most that `verify` becomes where several frames are fused; null, as "
            "the next, in decisions before there were frames"
        ),
    ] = None
    one_person: Annotated[
        float | None, Meta(description="that one of several frames must have with each other")
    ] = None
    same_document_single: Annotated[
        float | None,
        Meta(
            description="of one photograph against a reference; null, as the next two, in "
            "decisions from before live face and portrait were each held against references"
        ),
    ] = None
    review_single: float | None = None
    certain_single: float | None = None


class CalibrationSource(Value):
    """The source of a calibration's rates, and how large it is."""

    version: int
    source: str
    people: int
    photographs: int


class Finding(Value, omit_defaults=True):
    """One reason, the decision that it alone would bring, and the photograph it is about."""

    reason: Reason
    decision: Decision
    photograph: Photograph | None = None

    @classmethod
    def of(cls, reason: Reason, photograph: Photograph | None = None) -> Self:
        """With the decision that the reason itself brings."""
        return cls(reason, reason.row.brings, photograph)

    @property
    def advice(self) -> Mapping[str, str] | None:
        return self.reason.advice


class Scores(Value):
    """Cosines; null where that was not compared, and to a tenant where a stored reference was."""

    live_portrait: Annotated[
        float | None, Meta(description="of the caller's own two photographs: shown to all")
    ]
    holder: Annotated[
        float | None,
        Meta(description="against the references of the same document; null to a tenant"),
    ]
    best_candidate: Annotated[
        float | None, Meta(description="of the duplicate search; null to a tenant")
    ]


class FoundReference(Value):
    """A reference of another document that looks like what is shown, and how much."""

    reference_id: int
    document_id: str
    score: float


class SearchedGallery(Value, omit_defaults=True):
    """Whether the 1:N search ran, and over what."""

    ran: bool
    searched: Annotated[int | None, Meta(description="references that were looked at")] = None
    gallery_sequence: int | None = None


class FoundReferences(SearchedGallery, frozen=True, omit_defaults=True):
    """The 1:N search as it is kept."""

    candidates: tuple[FoundReference, ...] | None = None
    expected_false_candidates: Interval | None = None


class SeenFrame(Value):
    """One of several frames of the live face: what evidence keeps of it."""

    image_sha256: str
    problems: tuple[Reason, ...]
    is_fused: bool
    quality: Mapping[str, float]


class Folio(Value):
    """The receipt of an attempt of whose face nothing is kept, for its holder: a number, when the
    face was taken, and when it was decided on."""

    number: str
    captured_at: str | None
    decided_at: str


class OpenedCase(Value):
    """A case that a decision opened, or was added to."""

    id: str
    kind: str


class DecidedEnrollment(Struct, kw_only=True):
    """A decision as it is stored and answered: the judge begins it, the checks add what they find.
    `decided_at` is a text, ISO 8601 in UTC. Fields with a default may be missing in older ones."""

    enrollment_id: str
    decision: Decision
    reasons: tuple[Finding, ...]
    thresholds: DecidingScores
    cases: list[OpenedCase] = []
    document_id: str | None = None
    line_id: str | None = None
    guardian_document_id: str | None = None
    is_face_waived: bool = False
    other_ways: tuple[ProofWay, ...] = ()
    tries_left: int | None = None
    decided_at: str
    quality: Mapping[str, Mapping[str, float]] = {}
    frames: list[SeenFrame] = []
    scores: Scores = Scores(None, None, None)
    duplicate_search: FoundReferences = FoundReferences(ran=False)
    is_own_holder: bool = False
    is_holder_unseen: bool = False
    folio: Folio | None = None
    model_digest: str
    calibration_version: int | None = None
    policy_version: str


_SPENT = (None, Reason.LIVENESS_FAILED, Reason.LIVENESS_UNCERTAIN)


class RecordedLiveness(Value, omit_defaults=True):
    """What came of the evidence of liveness, as it was checked when it came; `problem` is absent
    where all was well. Without a known signer all else is, too. `level` is what the issuer's
    detector was tested to (as `iso30107-3:2`), `iad` the same of injected pictures. `jti`, its own
    name, behind which a vendor may have pictures, is kept apart and leaves with the holder."""

    mode: str
    problem: Reason | None = None
    issuer: Annotated[str | None, Meta(description="absent where nobody known has signed")] = None
    jti: str | None = None
    decision: str | None = None
    method: str | None = None
    level: str | None = None
    iad: str | None = None
    issued_at: datetime | None = None
    is_repeated: Annotated[bool, Meta(description="it had come before")] = False

    @property
    def is_spent(self) -> bool:
        """Whether its name must not come again: not of one that speaks of another photograph, or
        whoever has seen it could use it up."""
        return self.jti is not None and self.problem in _SPENT


class RecordedProof(Value, omit_defaults=True):
    """What came of another proof than a face, as it was checked when it came; `problem` is absent
    where all was well. Without a known signer all else is, too. `jti`, its own name, is kept
    apart."""

    problem: Reason | None = None
    way: ProofWay | None = None
    issuer: Annotated[str | None, Meta(description="absent where nobody known has signed")] = None
    jti: str | None = None
    level: str | None = None
    issued_at: datetime | None = None


class JudgeEvidence(Value):
    """What the operator's judge of the picture itself made of the live face."""

    mode: Annotated[str, Meta(extra_json_schema={"enum": ["observe", "enforce"]})]
    model_digest: str
    found: Annotated[
        str,
        Meta(
            description="none: not judged",
            extra_json_schema={"enum": ["live", "spoof", "uncertain", "none"]},
        ),
    ]
    score: Annotated[float | None, Meta(description="probability of a live face, by its model")]
    live: Annotated[float, Meta(description="from this score on it counts as live")]
    spoof: Annotated[float, Meta(description="below it, as not live")]


class SecondScores(Struct, omit_defaults=True):
    """What a second model saw, and would have decided; null where it compared nothing."""

    model_digest: str
    live_portrait: float | None
    holder: float | None
    best_candidate: float | None
    thresholds: DecidingScores | None
    decision: Decision | None = None


class PhotographRecord(Value):
    """The record that a photograph came in, which a chip's signed list of hashes can be held
    against, and its image."""

    record_sha256: str
    image_sha256: str


class Watermarks(Value):
    """The gallery's sequence when an attempt was searched for, and when it was decided: what
    changed between was compared one by one."""

    searched: int
    decided: int


class RecordedEvidence(Struct, kw_only=True, omit_defaults=True):
    """What is kept of how a decision was made: each check adds what it saw. `inputs` are the parts
    that decide, as their checks write and read them; of an attempt that has expired little is left.
    """

    inputs: dict[str, Any] = {}
    findings: tuple[Finding, ...] = ()
    model_digest: str = ""
    calibration_version: int | None = None
    policy_version: str = ""
    watermarks: Watermarks | None = None
    quality: Mapping[str, Mapping[str, float]] = {}
    frames: list[SeenFrame] = []
    records: dict[str, PhotographRecord] = {}
    liveness: RecordedLiveness | None = None
    liveness_judge: JudgeEvidence | None = None
    proof: RecordedProof | None = None
    authority: AuthorityResult | None = None
    guardian_authority: AuthorityResult | None = None
    replaced_authority: AuthorityResult | None = None
    second: SecondScores | None = None
    is_face_kept: bool = True

    def strip(self) -> RecordedEvidence:
        """Evidence without what is about a person, for retention: the rules and the findings stay;
        no score, no candidate, nothing measured on a face."""
        stays = ("thresholds", "searched")
        return RecordedEvidence(
            inputs={name: self.inputs[name] for name in stays if name in self.inputs},
            findings=self.findings,
            model_digest=self.model_digest,
            calibration_version=self.calibration_version,
            policy_version=self.policy_version,
            # Rules ask later by what a line was opened.
            proof=self.proof and RecordedProof(way=self.proof.way, level=self.proof.level),
            is_face_kept=self.is_face_kept,
        )
