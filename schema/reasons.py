"""Decisions, their reasons, kinds of photographs: what answers, records and metrics may say."""

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, StrEnum, auto
from pathlib import Path
from typing import Literal, NamedTuple, Self, get_args

import msgspec

from schema import frozen
from schema.cases import CaseKind


class Decision(StrEnum):
    """Decision on an enrollment, mildest first."""

    APPROVED = "approved"
    REVIEW = "review"
    REJECTED = "rejected"


class About(Enum):
    """Subjects of reasons."""

    CONSENT = auto()
    PHOTOGRAPH = auto()
    """It asks for a new one."""
    LIVENESS = auto()
    """The evidence that somebody alive was before the camera."""
    FACE = auto()
    DOCUMENT = auto()
    """As it was given."""
    HOLDER = auto()
    """The document as it is known."""
    AUTHORITY = auto()
    LOOK_ALIKE = auto()
    LINE = auto()
    GUARDIAN = auto()
    REPLACEMENT = auto()
    EXCEPTION = auto()


class Told(Enum):
    """Audiences of a reason among tenants; fraud teams and operators are told of all."""

    ALWAYS = auto()
    """It is about what was sent, and about no holder."""
    FACE_SHOWN = auto()
    """Where a face was shown to be the document's."""
    FACE_OR_GUARDIAN = auto()
    """The same, and where the guardian's face is enough."""
    OWN_HOLDER = auto()
    """It is known of a document or number, by whomever it is held: told where a face was shown and
    is like nobody else's, and to the carrier of the holder beside a look-alike, too."""
    HOLDER_ALONE = auto()
    """The same, and beside a look-alike to nobody."""
    HOLDER_SHOWN = auto()
    """The same, and of a holder with whose face none was compared to nobody."""


@frozen
class Row:
    """Facts of a reason. With one that `shows_nobody` no face was shown to be the document's.

    `brings` is the decision that it alone brings, unless settings or what comes beside it say
    another. `opens` is the case that it opens, `asks` the one by which two people confirm what the
    faces leave open. Reasons of a holder that a guardian may bring are `is_guardians_too`. A search
    by face finds what `is_searched`, about people whom the attempt does not name. `serial` stands
    for an unfit photograph in the sandbox, `refusal` says it of a row that is imported, where no
    advice does.
    """

    code: str
    about: About
    told: Told
    brings: Decision = Decision.REJECTED
    shows_nobody: bool = False
    opens: CaseKind | None = None
    asks: CaseKind | None = None
    is_guardians_too: bool = False
    is_searched: bool = False
    serial: int | None = None
    refusal: str = ""


class Reason(StrEnum):
    """A row of the decision table; image reasons belong to the live photograph or the portrait."""

    _value_: str
    row: Row

    def __new__(cls, row: Row | str) -> Self:
        # Look-ups by value, which do not come here, are typed by this signature, too.
        assert isinstance(row, Row), "each reason says what it is about and who is told"
        made = str.__new__(cls, row.code)
        made._value_, made.row = row.code, row
        return made

    @property
    def shows_nobody(self) -> bool:
        """True where no face was shown to be the document's."""
        return self.row.shows_nobody or self.row.about in (About.PHOTOGRAPH, About.LIVENESS)

    @property
    def advice(self) -> Mapping[str, str]:
        """A sentence by language of what to do."""
        return ADVICE[self]

    @property
    def refusal(self) -> str:
        """What an import says of a row; "" where that is brought by no row."""
        return ADVICE[self]["en"] if self.row.about is About.PHOTOGRAPH else self.row.refusal

    @property
    def is_of_holder(self) -> bool:
        """True for what is known of a document or a number, by whomever it is held."""
        return self.row.told in (Told.OWN_HOLDER, Told.HOLDER_ALONE, Told.HOLDER_SHOWN)

    DOCUMENT_INVALID = Row(
        "DOCUMENT_INVALID",
        About.DOCUMENT,
        Told.ALWAYS,
        shows_nobody=True,
        refusal="no number of this type: compare each digit, and the type",
    )
    DOCUMENT_EXPIRED = Row("DOCUMENT_EXPIRED", About.DOCUMENT, Told.ALWAYS)
    DOCUMENT_BLOCKED = Row(
        "DOCUMENT_BLOCKED", About.HOLDER, Told.OWN_HOLDER, refusal="the document is blocked"
    )
    ERASURE_PENDING = Row(
        "ERASURE_PENDING",
        About.HOLDER,
        Told.OWN_HOLDER,
        refusal="the document is about to be erased: see `sosie erasures`",
    )
    CONSENT_WITHDRAWN = Row(
        "CONSENT_WITHDRAWN",
        About.CONSENT,
        Told.ALWAYS,
        shows_nobody=True,
        refusal="consent to the face was withdrawn: bring one that was given since",
    )
    DOCUMENT_REPLACED = Row(
        "DOCUMENT_REPLACED",
        About.HOLDER,
        Told.OWN_HOLDER,
        refusal="another document of the same person has replaced this one",
    )
    HOLDER_DECEASED = Row(
        "HOLDER_DECEASED",
        About.HOLDER,
        Told.OWN_HOLDER,
        opens=CaseKind.DECEASED,
        refusal="the document's holder is reported dead: see `sosie death`",
    )
    REPLACEMENT_REFUSED = Row("REPLACEMENT_REFUSED", About.REPLACEMENT, Told.ALWAYS)
    REPLACEMENT_ASKED = Row(
        "REPLACEMENT_ASKED",
        About.REPLACEMENT,
        Told.ALWAYS,
        Decision.REVIEW,
        asks=CaseKind.STOLEN_DOCUMENT,
    )
    BIRTH_DATE_MISMATCH = Row(
        "BIRTH_DATE_MISMATCH",
        About.DOCUMENT,
        Told.ALWAYS,
        refusal="the date of birth is not the one that the document tells",
    )
    BIRTH_DATE_MISSING = Row("BIRTH_DATE_MISSING", About.DOCUMENT, Told.ALWAYS)
    GUARDIAN_MISSING = Row("GUARDIAN_MISSING", About.GUARDIAN, Told.ALWAYS)
    GUARDIAN_REFUSED = Row("GUARDIAN_REFUSED", About.GUARDIAN, Told.ALWAYS)
    GUARDIAN_UNUSABLE = Row("GUARDIAN_UNUSABLE", About.GUARDIAN, Told.ALWAYS)
    GUARDIAN_MISMATCH = Row("GUARDIAN_MISMATCH", About.GUARDIAN, Told.FACE_OR_GUARDIAN)
    GUARDIAN_DUPLICATE = Row(
        "GUARDIAN_DUPLICATE", About.GUARDIAN, Told.ALWAYS, Decision.REVIEW, is_searched=True
    )
    GUARDIAN_CHANGED = Row(
        "GUARDIAN_CHANGED",
        About.GUARDIAN,
        Told.OWN_HOLDER,
        Decision.REVIEW,
        asks=CaseKind.STOLEN_DOCUMENT,
    )
    EXCEPTION_ASKED = Row(
        "EXCEPTION_ASKED",
        About.EXCEPTION,
        Told.ALWAYS,
        Decision.REVIEW,
        shows_nobody=True,
        opens=CaseKind.EXCEPTION,
    )
    EXCEPTION_NOT_OFFERED = Row("EXCEPTION_NOT_OFFERED", About.EXCEPTION, Told.ALWAYS)
    EXCEPTION_LIMIT_REACHED = Row("EXCEPTION_LIMIT_REACHED", About.EXCEPTION, Told.ALWAYS)
    PROOF_INVALID = Row("PROOF_INVALID", About.EXCEPTION, Told.ALWAYS)
    PROOF_MISBOUND = Row("PROOF_MISBOUND", About.EXCEPTION, Told.ALWAYS)
    PROOF_REFUSED = Row("PROOF_REFUSED", About.EXCEPTION, Told.ALWAYS)
    PROOF_STALE = Row("PROOF_STALE", About.EXCEPTION, Told.ALWAYS)
    PROOF_WEAK = Row("PROOF_WEAK", About.EXCEPTION, Told.ALWAYS)
    PROOF_REPLAYED = Row("PROOF_REPLAYED", About.EXCEPTION, Told.ALWAYS)
    DECEASED_LOOK_ALIKE = Row(
        "DECEASED_LOOK_ALIKE",
        About.LOOK_ALIKE,
        Told.FACE_SHOWN,
        Decision.REVIEW,
        is_searched=True,
        opens=CaseKind.DECEASED,
    )
    NAME_MISMATCH = Row(
        "NAME_MISMATCH",
        About.HOLDER,
        Told.OWN_HOLDER,
        Decision.REVIEW,
        is_guardians_too=True,
        refusal="the name differs from the one registered for this document",
    )
    AUTHORITY_UNAVAILABLE = Row(
        "AUTHORITY_UNAVAILABLE", About.AUTHORITY, Told.ALWAYS, Decision.REVIEW
    )
    AUTHORITY_UNKNOWN_DOCUMENT = Row(
        "AUTHORITY_UNKNOWN_DOCUMENT", About.AUTHORITY, Told.OWN_HOLDER, is_guardians_too=True
    )
    AUTHORITY_CONTRADICTS = Row(
        "AUTHORITY_CONTRADICTS",
        About.AUTHORITY,
        Told.OWN_HOLDER,
        Decision.REVIEW,
        is_guardians_too=True,
    )
    # Of a photograph in the order in which they are mended.
    TOO_DARK = Row("TOO_DARK", About.PHOTOGRAPH, Told.ALWAYS, serial=914)
    NO_FACE = Row("NO_FACE", About.PHOTOGRAPH, Told.ALWAYS, serial=910)
    SEVERAL_FACES = Row("SEVERAL_FACES", About.PHOTOGRAPH, Told.ALWAYS, serial=911)
    FACE_TOO_SMALL = Row("FACE_TOO_SMALL", About.PHOTOGRAPH, Told.ALWAYS, serial=912)
    FACE_CUT = Row("FACE_CUT", About.PHOTOGRAPH, Told.ALWAYS, serial=918)
    POSE = Row("POSE", About.PHOTOGRAPH, Told.ALWAYS, serial=920)
    FACE_COVERED = Row("FACE_COVERED", About.PHOTOGRAPH, Told.ALWAYS, serial=926)
    GLARE = Row("GLARE", About.PHOTOGRAPH, Told.ALWAYS, serial=927)
    SIDE_LIGHT = Row("SIDE_LIGHT", About.PHOTOGRAPH, Told.ALWAYS, serial=928)
    TOO_BRIGHT = Row("TOO_BRIGHT", About.PHOTOGRAPH, Told.ALWAYS, serial=915)
    BLURRED = Row("BLURRED", About.PHOTOGRAPH, Told.ALWAYS, serial=913)
    LOW_CONTRAST = Row("LOW_CONTRAST", About.PHOTOGRAPH, Told.ALWAYS, serial=916)
    COMPRESSED = Row("COMPRESSED", About.PHOTOGRAPH, Told.ALWAYS, serial=917)
    UNCLEAR = Row("UNCLEAR", About.PHOTOGRAPH, Told.ALWAYS, serial=919)
    LIVE_FRAMES_DIFFER = Row("LIVE_FRAMES_DIFFER", About.PHOTOGRAPH, Told.ALWAYS, serial=921)
    SAME_PHOTOGRAPH = Row("SAME_PHOTOGRAPH", About.PHOTOGRAPH, Told.ALWAYS)
    LIVENESS_MISSING = Row("LIVENESS_MISSING", About.LIVENESS, Told.ALWAYS)
    LIVENESS_INVALID = Row("LIVENESS_INVALID", About.LIVENESS, Told.ALWAYS)
    LIVENESS_MISBOUND = Row("LIVENESS_MISBOUND", About.LIVENESS, Told.ALWAYS)
    LIVENESS_FAILED = Row("LIVENESS_FAILED", About.LIVENESS, Told.ALWAYS)
    LIVENESS_STALE = Row("LIVENESS_STALE", About.LIVENESS, Told.ALWAYS)
    LIVENESS_WEAK = Row("LIVENESS_WEAK", About.LIVENESS, Told.ALWAYS)
    LIVENESS_UNCERTAIN = Row("LIVENESS_UNCERTAIN", About.LIVENESS, Told.ALWAYS, Decision.REVIEW)
    FACE_MISMATCH = Row(
        "FACE_MISMATCH",
        About.FACE,
        Told.ALWAYS,
        shows_nobody=True,
        refusal="the two photographs show different people",
    )
    DOCUMENT_HELD_BY_ANOTHER_FACE = Row(
        "DOCUMENT_HELD_BY_ANOTHER_FACE",
        About.HOLDER,
        Told.OWN_HOLDER,
        opens=CaseKind.STOLEN_DOCUMENT,
        refusal="the document is already registered with another face",
    )
    NOT_SEARCHED = Row("NOT_SEARCHED", About.FACE, Told.ALWAYS, Decision.APPROVED)
    """Its carrier keeps no face, and searches for none: it speaks against nobody."""
    DUPLICATE_IDENTITY = Row(
        "DUPLICATE_IDENTITY",
        About.LOOK_ALIKE,
        Told.FACE_SHOWN,
        is_searched=True,
        opens=CaseKind.DUPLICATE_IDENTITY,
    )
    POSSIBLE_DUPLICATE = Row(
        "POSSIBLE_DUPLICATE",
        About.LOOK_ALIKE,
        Told.FACE_SHOWN,
        Decision.REVIEW,
        is_searched=True,
        opens=CaseKind.POSSIBLE_DUPLICATE,
    )
    LINE_LIMIT_REACHED = Row("LINE_LIMIT_REACHED", About.LINE, Told.OWN_HOLDER)
    PERSON_LIMIT_REACHED = Row("PERSON_LIMIT_REACHED", About.LINE, Told.HOLDER_SHOWN)
    CHANNEL_LIMIT_REACHED = Row("CHANNEL_LIMIT_REACHED", About.LINE, Told.HOLDER_SHOWN)
    DAY_LIMIT_REACHED = Row("DAY_LIMIT_REACHED", About.LINE, Told.HOLDER_SHOWN)
    APPROVAL_MISSING = Row("APPROVAL_MISSING", About.LINE, Told.HOLDER_SHOWN)
    LINE_IN_USE = Row(
        "LINE_IN_USE",
        About.LINE,
        Told.HOLDER_ALONE,
        refusal="the number is already in use under another document",
    )
    WATCHLISTED = Row(
        "WATCHLISTED",
        About.HOLDER,
        Told.HOLDER_ALONE,
        Decision.REVIEW,
        is_guardians_too=True,
        refusal="the face or the document is on the watch-list",
    )


ADVICE: Mapping[str, Mapping[str, str]] = msgspec.json.decode(
    Path(__file__).with_name("advice.json").read_bytes()
)
"""By reason and language what is to be done."""

WITHHELD = "WITHHELD"
"""Stands in answers to tenants for reasons about a holder whose face was not shown."""

RECORD_DAMAGED = "RECORD_DAMAGED"
"""Refuses a row of an import: what is on record of its document or number cannot be read."""
FACE_NOT_KEPT = "FACE_NOT_KEPT"
"""The same: its carrier keeps no faces."""


SECOND_FACE = 0.3
"""Another face of so much of the height may be the one that is meant."""


def shows_another(quality: Mapping[str, float]) -> bool:
    """True where, by its quality, a photograph shows another face that may be the one meant."""
    return quality.get("second_face", 0.0) >= SECOND_FACE


def find_idle(findings: Iterable[tuple[Reason, Decision]], decision: Decision) -> frozenset[Reason]:
    """The reasons found by a search by face without which the decision would be the same.

    No tenant is told of them: an attempt that fails anyway costs nothing, and would tell of stored
    faces as often as somebody asks.
    """
    found = list(findings)
    bringing = {reason for reason, brings in found if brings == decision}
    searched = frozenset(one for one, _ in found if one.row.is_searched)
    if bringing - searched - {Reason.WATCHLISTED}:
        return searched | {one for one, _ in found if one is Reason.WATCHLISTED}
    return searched if Reason.WATCHLISTED in bringing else frozenset()


class PhotographKind(StrEnum):
    """Source of a photograph; it decides which limits apply."""

    LIVE = "live"
    PRINTED = "printed"
    """Taken of a document."""
    CHIP = "chip"
    """Read from a document's chip, small and strongly compressed."""


class Pointed(NamedTuple):
    """What was told of a photograph with a point of the face that is meant: shares of the width and
    height of the upright picture, from its left and top."""

    kind: PhotographKind | None
    point: Sequence[float]


ToldKind = PhotographKind | Pointed | None


def tell_kind(kind: PhotographKind | None, point: Sequence[float] | None) -> ToldKind:
    return kind if point is None else Pointed(kind, point)


class LivenessMode(StrEnum):
    """What evidence of liveness does to an answer: nothing and not looked at, nothing but on
    record, or it is required."""

    OFF = "off"
    OBSERVE = "observe"
    REQUIRED = "required"


class LivenessUse(StrEnum):
    """A kind of request that may bring evidence of liveness."""

    ENROLLMENT = "enrollment"
    VERIFICATION = "verification"


LivenessLevel = Literal[
    "iso30107-3:1", "iso30107-3:2", "iso30107-3:3", "cen18099:substantial", "cen18099:high"
]
"""Levels that a detector was tested to, of each standard the weakest first: of presentation attacks
(the claim `level`), and of injection attacks (`iad`)."""
_LEVELS: tuple[str, ...] = get_args(LivenessLevel)


def is_level_reached(told: str | None, wanted: LivenessLevel) -> bool:
    """True where a claim tells the level that is wanted, or a higher one of the same standard."""
    if told not in _LEVELS or told.partition(":")[0] != wanted.partition(":")[0]:
        return False
    return _LEVELS.index(told) >= _LEVELS.index(wanted)


class Photograph(StrEnum):
    """Which of the two photographs a reason is about."""

    LIVE = "live"
    PORTRAIT = "portrait"
