"""Wire types of enrollments: request, decision, record, face crops and erasure certificate."""

from typing import Annotated

from msgspec import Meta

from schema import documents, reasons
from schema.decisions import (
    DecidingScores,
    Folio,
    JudgeEvidence,
    OpenedCase,
    RecordedLiveness,
    RecordedProof,
    Scores,
    SearchedGallery,
)
from schema.documents import AuthorityResult
from schema.people import (
    FIRST_FACE,
    MAX_CONSENT_LENGTH,
    NOT_KEPT,
    RENEWED,
    ExceptionCause,
    GivenConsent,
    ProofWay,
)
from schema.reasons import WITHHELD, Decision, Reason
from serving.wire.fields import (
    MAX_FRAMES,
    Advice,
    AnswerBody,
    Code,
    Document,
    FacePoint,
    Frames,
    Id,
    KnownDocument,
    LivenessToken,
    MatchWord,
    Moment,
    Msisdn,
    OtherWays,
    Photograph,
    PrivateAnswer,
    ProofToken,
    QueryString,
    RequestBody,
    SentKind,
    TriesLeft,
    about,
    known,
)
from serving.wire.matching import Candidate, ExpectedFalseCandidates

MAX_AHEAD_MIN = 10
MAX_AGE_H = 24

ShownDecision = Annotated[str, known(*Decision)]
ShownReason = Annotated[str, known(*Reason, WITHHELD)]
ShownScope = Annotated[
    str, known(*documents.ErasureScope), about("`face`: the document and its lines stay")
]
WhichPhotograph = Annotated[str, known(*reasons.Photograph)]


_TAKEN = about(f"taken now, base64 in JSON: one photograph, or up to {MAX_FRAMES} frames")


class Guardian(RequestBody, kw_only=True):
    """Who answers for a minor. A portrait is needed unless the guardian is enrolled already."""

    document: Document
    live: Annotated[Photograph | Frames, _TAKEN]
    portrait: Annotated[Photograph, about("the guardian's document's")] | None = None
    portrait_kind: SentKind | None = None
    live_point: FacePoint | None = None
    portrait_point: FacePoint | None = None


class EnrollmentConsent(GivenConsent, RequestBody, kw_only=True):
    """The record of a consent to the use of the face."""

    given_at: Moment


class EnrollmentRequest(RequestBody, kw_only=True):
    """One activation attempt: two photographs, a document, a number.

    Either photograph may be left out with an `exception`, both where a guardian's face is enough
    or a `proof` comes in their place.
    """

    outlet: (
        Annotated[Code, about("may be left out by an outlet's own key, and by no other")] | None
    ) = None
    document: Document
    msisdn: Msisdn
    live: Annotated[Photograph | Frames | None, _TAKEN] = None
    portrait: Annotated[Photograph, about("the document's, base64 in JSON")] | None = None
    portrait_kind: SentKind | None = None
    live_point: FacePoint | None = None
    portrait_point: FacePoint | None = None
    consent_ref: Annotated[
        str,
        about(
            "where the subscriber's consent is on file", min_length=1, max_length=MAX_CONSENT_LENGTH
        ),
    ]
    consent: Annotated[EnrollmentConsent, about("its record, if it is sent along")] | None = None
    captured_at: Annotated[
        Moment,
        about(
            "when the live photograph was taken, with a time zone: at most "
            f"{MAX_AGE_H} hours ago and {MAX_AHEAD_MIN} minutes ahead (REQUEST.CAPTURE_TIME)"
        ),
    ]
    liveness: LivenessToken | None = None
    guardian: Annotated[Guardian, about("who came with a minor")] | None = None
    exception: (
        Annotated[
            ExceptionCause,
            about(
                "why a photograph is missing or cannot be used: then two people decide, where the "
                "carrier takes exceptions; see docs/people.md"
            ),
        ]
        | None
    ) = None
    replaces: (
        Annotated[
            KnownDocument,
            about(
                "a document of the same person that this one takes the place of: its lines "
                "move, and it enrolls nobody any more"
            ),
        ]
        | None
    ) = None
    proof: ProofToken | None = None

    def __post_init__(self) -> None:
        RequestBody.__post_init__(self)
        missing = [name for name in ("live", "portrait") if getattr(self, name) is None]
        is_waived = self.guardian is not None or self.proof is not None
        is_excused = self.exception is not None or (is_waived and len(missing) == 2)
        if missing and not is_excused:
            raise ValueError(f"{missing[0]} is missing: bring it, an exception or a proof")


class EnrollmentQuery(QueryString, forbid_unknown_fields=False):
    """An enrollment by the Idempotency-Key that it was asked with."""

    idempotency_key: Annotated[str, Meta(min_length=1, max_length=255)]


class Finding(AnswerBody, omit_defaults=True):
    """A row of the decision table that applied; of a photograph where it names one: of several of a
    photograph the first is to be mended first.

    WITHHELD stands for rows about a holder whose face was not shown: it is for tenants alone.
    """

    reason: ShownReason
    decision: ShownDecision
    photograph: WhichPhotograph | None = None
    advice: Advice | None = None


CalibrationVersion = Annotated[
    int | None, about("of the calibration that gave the thresholds; null in decisions before it")
]


class Thresholds(DecidingScores, AnswerBody):
    """The scores that decisions depend on; of an enrollment, `verify` as it was applied."""


class DuplicateSearch(SearchedGallery, AnswerBody, omit_defaults=False):
    """The 1:N search; where it did not run, the answer says so."""

    candidates: tuple[Candidate, ...] | None = None
    expected_false_candidates: ExpectedFalseCandidates | None = None


class Frame(AnswerBody):
    """One of several frames of the live face, in the order they came."""

    is_fused: Annotated[bool, about("false where it was left out")]
    problems: tuple[ShownReason, ...]
    quality: dict[str, float]


SeenFrames = Annotated[
    tuple[Frame, ...],
    about("empty where one photograph was given; `quality.live` is the best frame's"),
]


class ShownConsent(GivenConsent, AnswerBody, kw_only=True):
    """The record of a consent."""

    given_at: Moment


class ExceptionState(AnswerBody):
    """What became of an exception; with a `line_id` it was granted."""

    cause: Annotated[str, known(*ExceptionCause, *ProofWay, NOT_KEPT, RENEWED, FIRST_FACE)]
    state: Annotated[str, known("asked", "granted", "refused")]
    asked_at: Moment
    decided_at: Moment | None
    line_id: str | None


class ShownFolio(Folio, AnswerBody):
    """The receipt for a holder of whose face nothing is kept."""

    number: Annotated[str, about("the enrollment's id")]
    captured_at: Annotated[  # type: ignore[assignment]
        Moment | None, about("when the face was taken")
    ]
    decided_at: Moment  # type: ignore[assignment]


class Enrollment(AnswerBody):
    """The whole decision, durable and visible to every later search."""

    enrollment_id: str
    decision: ShownDecision
    reasons: tuple[Finding, ...]
    scores: Scores
    thresholds: Thresholds
    duplicate_search: DuplicateSearch
    cases: Annotated[tuple[OpenedCase, ...], about("to a tenant without those of withheld reasons")]
    document_id: Annotated[
        str | None, about("null to a tenant where it was rejected, or a reason withheld")
    ]
    line_id: str | None
    quality: dict[str, dict[str, float]]
    model_digest: str
    policy_version: str
    decided_at: Moment
    idempotency_key: str
    is_repeated: Annotated[bool, about("true for the stored answer of an earlier request")]
    calibration_version: CalibrationVersion = None
    frames: SeenFrames = ()
    guardian_document_id: Annotated[
        str | None, about("of who answers for a minor's line; null of everybody else")
    ] = None
    other_ways: OtherWays = ()
    tries_left: TriesLeft = None
    folio: Annotated[
        ShownFolio | None, about("to be given to the holder; null where faces are kept")
    ] = None
    match_word: MatchWord = None

    @property
    def is_approved(self) -> bool:
        return self.decision == "approved"


class LivenessEvidence(RecordedLiveness, AnswerBody, omit_defaults=True):
    """What came of the evidence of liveness; `problem` is a reason, absent where all was well."""

    mode: Annotated[str, known("observe", "required")]
    problem: ShownReason | None = None  # type: ignore[assignment]
    issued_at: Moment | None = None


class ShownProof(RecordedProof, AnswerBody, omit_defaults=True):
    """The proof that came in place of the face; `problem` is a reason, absent where all was
    well."""

    problem: ShownReason | None = None  # type: ignore[assignment]
    way: Annotated[str, known(*ProofWay)] | None = None  # type: ignore[assignment]
    issued_at: Moment | None = None


class AuthorityEvidence(AuthorityResult, AnswerBody, omit_defaults=True):
    """What an authority said of the document: nothing about the person stands in it."""

    kind: Annotated[str, known("listed", "http", "none")]
    code: Annotated[  # type: ignore[assignment]
        str,
        about(
            "CONFIRMED, UNKNOWN_DOCUMENT, a contradiction (NOT_VALID, DIFFERS, AMBIGUOUS, "
            "INCONSISTENT), or why there was no answer"
        ),
    ]
    at: Moment
    standings: tuple[str, ...] = ()  # type: ignore[assignment]
    differs: tuple[str, ...] = ()  # type: ignore[assignment]


class EnrollmentRecord(AnswerBody):
    """What is on record of an enrollment: the decision and its evidence, no name, no number."""

    enrollment_id: str
    carrier: str
    outlet: str
    decision: ShownDecision
    reasons: tuple[Finding, ...]
    scores: Scores
    thresholds: Thresholds
    duplicate_search: DuplicateSearch
    document_id: Annotated[
        str | None, about("null to a tenant where it was rejected, or a reason withheld")
    ]
    quality: dict[str, dict[str, float]]
    model_digest: str
    policy_version: str
    consent_ref: str | None
    captured_at: Moment | None
    decided_at: Moment
    expired_at: Annotated[
        Moment | None,
        about("since when scores, candidates, consent and capture time are gone by retention"),
    ]
    calibration_version: CalibrationVersion = None
    frames: SeenFrames = ()
    liveness: Annotated[
        LivenessEvidence | None, about("null where it was not asked for, or has left")
    ] = None
    liveness_judge: Annotated[
        JudgeEvidence | None,
        about("null where there is no judge, or it has left, and to every tenant"),
    ] = None
    authority: Annotated[
        AuthorityEvidence | None,
        about("null where none is asked, or it has left, and to a tenant where it was withheld"),
    ] = None
    exception: Annotated[
        ExceptionState | None, about("null where none was asked for, or it has left")
    ] = None
    guardian_authority: Annotated[
        AuthorityEvidence | None,
        about("of the guardian's document; as `authority`, and null to every tenant"),
    ] = None
    replaced_authority: Annotated[
        AuthorityEvidence | None, about("the same of the document that is replaced")
    ] = None
    proof: Annotated[ShownProof | None, about("null where none came, or it has left")] = None
    is_face_kept: Annotated[bool, about("whether anything of the face may be")] = True
    consent: Annotated[ShownConsent | None, about("null where none came, or it has left")] = None


class Crop(PrivateAnswer):
    """An aligned face of 112 by 112 pixels, as it was compared."""

    photograph: WhichPhotograph
    image: Annotated[bytes, about("JPEG or PNG: base64 in JSON, binary in MessagePack")]
    kept_until: Moment


class Crops(AnswerBody):
    """Empty where crops are not kept, or not any more."""

    enrollment_id: Id
    crops: tuple[Crop, ...]


class ErasureCertificate(documents.ErasureCertificate, AnswerBody):
    """The certificate of an erasure: from `gallery_sequence` on no search sees the holder."""

    document_id: Id
    erased_at: Moment
    scope: ShownScope = documents.ErasureScope.HOLDER  # type: ignore[assignment]


class Erasure(AnswerBody):
    """How far the erasure of a document is.

    `pending`: acknowledged, and waiting for open cases that need the document; it is done when they
    are closed, and at `due_at` although they are not. Nothing is enrolled under it meanwhile.
    """

    document_id: Id
    state: Annotated[
        str,
        known("none", "pending", "done", "shared"),
        about("`shared`: consent is withdrawn from a carrier, and others go on having the face"),
    ]
    asked_at: Annotated[Moment | None, about("when it was asked first; null where nothing waited")]
    due_at: Annotated[Moment | None, about("at the latest; null unless pending")]
    cases: Annotated[tuple[str, ...], about("that it waits for, by id; none are told to a tenant")]
    erased_at: Moment | None
    certificate: Annotated[
        ErasureCertificate | None, about("once done; null where retention wiped the document")
    ]
    scope: ShownScope = documents.ErasureScope.HOLDER
