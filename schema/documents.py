"""Identity documents, and what authorities say of them."""

from datetime import date, datetime
from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from schema.decoding import Value

PASSPORT = "passport"
DOCUMENT_TYPES = (
    "cn-ric",
    "kr-rrn",
    "th-pin",
    "id-nik",
    "my-nric",
    "in-aadhaar",
    "pk-cnic",
    "tr-tckimlik",
    "za-idnr",
    "es-dni",
    "bg-egn",
    "es-nie",
    "bg-pnf",
    "kr-arc",
    "th-nti",
    "id-kitas",
    "id-kitap",
    "cn-frp",
    "mx-curp",
    "vn-cccd",
    "ng-nin",
    "gh-card",
    "bd-nid",
    "tz-nin",
    "co-cc",
    PASSPORT,
)
MAX_NUMBER_LENGTH = 100
MAX_NAME_LENGTH = 200
"""Of texts of an enrollment, in characters."""


DocumentType = Annotated[
    str, Meta(min_length=1, max_length=32, extra_json_schema={"enum": list(DOCUMENT_TYPES)})
]
DocumentNumber = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_NUMBER_LENGTH,
        description="as printed; of a passport the machine readable zone",
    ),
]


def compute_check_digit(text: str) -> int:
    """The check digit of 9303-3, section 4.9: weights 7 3 1, modulo 10; A is 10, `<` is 0."""
    values = (0 if sign == "<" else int(sign, 36) for sign in text)
    return sum(value * (7, 3, 1)[place % 3] for place, value in enumerate(values)) % 10


def write_zone(number: str, birth: str, sex: str, expiry: str) -> str:
    """The second line of a passport of Utopia (TD3, ICAO Doc 9303-4), a state of specimens: a
    number of nine letters and digits, days as 800101."""
    digits = (f"{text}{compute_check_digit(text)}" for text in (number, birth, expiry))
    (first, born, ends), personal = digits, "<" * 15
    whole = compute_check_digit(first + born + ends + personal)
    return f"{first}UTO{born}{sex}{ends}{personal}{whole}"


class Document(Value):
    """A document as presented; its repr shows neither the number nor the name.

    For a passport the number is its machine readable zone: the second line, or both.
    """

    type: DocumentType
    number: DocumentNumber
    name: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH, description="as printed")]
    expires_on: date | None = None
    born_on: (
        Annotated[
            date,
            Meta(
                description="the holder's date of birth, where the number does not tell it; it is "
                "not kept"
            ),
        ]
        | None
    ) = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class DocumentStatus(StrEnum):
    """`attempted` is known from attempts only, none of them approved: it binds nobody yet.

    `blocked` hides what the document is besides, and is what it becomes again when unblocked.
    """

    ATTEMPTED = "attempted"
    ACTIVE = "active"
    BLOCKED = "blocked"
    ERASED = "erased"


class DocumentRole(StrEnum):
    """What a document is to an enrollment that names it: as evidence names what is said of it."""

    OWN = "authority"
    GUARDIAN = "guardian_authority"
    REPLACED = "replaced_authority"


class Standing(StrEnum):
    """What a registry holds of a document, or of the person that it was given to."""

    VALID = "valid"
    EXPIRED = "expired"
    REVOKED = "revoked"
    LOST = "lost"
    STOLEN = "stolen"
    DECEASED = "deceased"


class Difference(StrEnum):
    """A statement that is not the registry's."""

    NAME = "name"
    BIRTH_DATE = "birth_date"
    EXPIRY = "expiry"
    FACE = "face"


class AuthorityCode(StrEnum):
    """What came of a look-up; logs and metrics say this and nothing else of it."""

    CONFIRMED = "CONFIRMED"
    UNKNOWN_DOCUMENT = "UNKNOWN_DOCUMENT"
    NOT_VALID = "NOT_VALID"
    """Expired, revoked, lost or stolen, or its holder has died."""
    DIFFERS = "DIFFERS"
    AMBIGUOUS = "AMBIGUOUS"
    """One answer says two things: two records, or valid and revoked at once."""
    INCONSISTENT = "INCONSISTENT"
    """An earlier answer, which still holds, says another thing."""
    TIMEOUT = "TIMEOUT"
    UNREACHABLE = "UNREACHABLE"
    REFUSED = "REFUSED"
    """A status of 4xx."""
    FAILED = "FAILED"
    """A status of 5xx, or any other that has no answer."""
    REDIRECTED = "REDIRECTED"
    TOO_LARGE = "TOO_LARGE"
    MALFORMED = "MALFORMED"
    MISBOUND = "MISBOUND"
    """It answers another question than the one that was asked."""
    NO_FACE_SCORE = "NO_FACE_SCORE"
    BUSY = "BUSY"
    """Too many look-ups at once, for as long as this one could wait."""
    BREAKER_OPEN = "BREAKER_OPEN"
    """Not asked: it failed again and again just now."""
    UNREADABLE = "UNREADABLE"
    """The list cannot be read."""
    NOT_ASKED = "NOT_ASKED"
    """The request came without a look-up."""

    @property
    def is_contradiction(self) -> bool:
        """True for an answer that speaks against the document."""
        return self in (self.NOT_VALID, self.DIFFERS, self.AMBIGUOUS, self.INCONSISTENT)

    @property
    def is_answer(self) -> bool:
        """True for what an authority has said; every other code is why it has said nothing."""
        return self.is_contradiction or self in (self.CONFIRMED, self.UNKNOWN_DOCUMENT)


class AuthorityResult(Value, omit_defaults=True):
    """The result of a look-up, without anything about the person.

    `at` is when the authority was asked, also of an answer that was kept (`is_kept`); `reference`
    is its own name of the answer, `face_score` its own of the live photograph, held against
    `min_face_score`.
    """

    kind: str
    code: AuthorityCode
    at: datetime
    standings: tuple[Standing, ...] = ()
    differs: tuple[Difference, ...] = ()
    reference: Annotated[str | None, Meta(description="the authority's name of its answer")] = None
    face_score: Annotated[
        float | None, Meta(description="the authority's, of the live photograph; null to a tenant")
    ] = None
    min_face_score: float | None = None
    is_kept: Annotated[bool, Meta(description="the answer was kept from before")] = False


class ErasureScope(StrEnum):
    """How much of a holder an erasure takes."""

    HOLDER = "holder"
    FACE = "face"
    """Consent to it was withdrawn: the document and its lines stay."""


class ErasureCertificate(Value):
    """The certificate of an erasure, with its time and its entry in the audit chain.

    From `gallery_sequence` on no search sees the holder. The enrollments stay as bare decisions:
    scores and reasons, without template, name or number. Of a face alone the `lines` stay.
    """

    document_id: str
    references: int
    lines: int
    gallery_sequence: int
    erased_at: datetime
    audit_number: int
    audit_hash: str
    scope: ErasureScope = ErasureScope.HOLDER


class RowOutcome(Value):
    """What becomes of a subscriber of an existing base."""

    refusal: Annotated[str | None, Meta(description="why it is not taken in")]
    adds_reference: bool
    adds_line: bool
    name_differs: bool


class AdmittedRow(RowOutcome, frozen=True):
    """What becomes of one row, in the order they were sent."""

    is_watched: bool
