"""What document numbers, telephone numbers and pictures mean in a sandbox. The last digits of a
document number that are no check digits are its serial: from 900 on it says how an enrollment ends;
every other is approved. The same name gives the same face, in every sandbox."""

import hashlib
import io
import itertools
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import (
    DeadlinePassed,
    LivenessReplayed,
    RequestError,
    StorageFull,
    TooManyFailures,
)
from engine.matching.documents import CheckedDocument, check_document
from schema import frozen
from schema.documents import PASSPORT, Document, write_zone
from schema.reasons import About, Decision, Reason
from serving.errors import Busy, Interrupted, NotReady, describe

Vector = NDArray[np.float32]

GUARDIAN_REASONS = frozenset(one for one in Reason if one.row.about is About.GUARDIAN)
PROOF_REASONS = frozenset(one for one in Reason if one.name.startswith("PROOF_"))


@frozen
class Outcome:
    """The end of an enrollment under a document with this serial: a decision, or an `error`.
    `beside` come with `reason` by the decision table. `needs` is a field that the request must
    bring: without a guardian a minor is GUARDIAN_MISSING, without an exception it is approved."""

    serial: int
    what: str
    reason: Reason | None = None
    error: type[Exception] | None = None
    beside: tuple[Reason, ...] = ()
    needs: str = ""

    @property
    def reasons(self) -> frozenset[Reason]:
        """All that the answer gives."""
        return frozenset(filter(None, (self.reason, *self.beside)))

    @property
    def decision(self) -> Decision | None:
        """None of an error."""
        if self.error is not None:
            return None
        return Decision.APPROVED if self.reason is None else self.reason.row.brings

    @property
    def status(self) -> int:
        return 201 if self.error is None else describe(self.error("")).status

    @property
    def code(self) -> str:
        """The code of its error; else empty."""
        return "" if self.error is None else describe(self.error("")).code

    @property
    def is_once(self) -> bool:
        """True where an Idempotency-Key meets its error once."""
        return self.serial in (BUSY_ONCE, LOST_BEFORE, LOST_AFTER)

    @property
    def is_of_minor(self) -> bool:
        """True where a guardian has to come along, the document being a minor's."""
        return self.reason in GUARDIAN_REASONS


UNFIT = {one: one.row.serial for one in Reason if one.row.serial is not None}
SLOW, BUSY_ONCE, LOST_BEFORE, LOST_AFTER, SILENT, BROKEN = 930, 932, 934, 935, 937, 938
GRANTED = 971
_GUARDIAN, _EXCEPTION, _REPLACES, _PROOF = "guardian", "exception", "replaces", "proof"
APPROVED = Outcome(0, "approved")
_ALL = (
    Outcome(900, "the name on record is another", Reason.NAME_MISMATCH),
    Outcome(901, "two faces", Reason.FACE_MISMATCH),
    Outcome(902, "the document is another person's", Reason.DOCUMENT_HELD_BY_ANOTHER_FACE),
    Outcome(903, "the face is the resident's; opens a case", Reason.DUPLICATE_IDENTITY),
    Outcome(904, "the face is like the resident's; opens a case", Reason.POSSIBLE_DUPLICATE),
    Outcome(905, "the face is on the watch-list", Reason.WATCHLISTED),
    Outcome(906, "the number is the resident's", Reason.LINE_IN_USE),
    Outcome(907, "the holder has five lines", Reason.LINE_LIMIT_REACHED),
    Outcome(908, "the document is blocked", Reason.DOCUMENT_BLOCKED),
    Outcome(909, "an erasure waits for a case", Reason.ERASURE_PENDING),
    Outcome(948, "consent to the face was withdrawn", Reason.CONSENT_WITHDRAWN),
    Outcome(922, "another document took its place", Reason.DOCUMENT_REPLACED),
    Outcome(923, "the holder is reported dead; a case", Reason.HOLDER_DECEASED),
    Outcome(
        924,
        "the face is like that of somebody dead; a case",
        Reason.DECEASED_LOOK_ALIKE,
        beside=(Reason.POSSIBLE_DUPLICATE,),
    ),
    Outcome(929, "no face is kept, and none searched for", Reason.NOT_SEARCHED),
    Outcome(925, "five lines with another carrier", Reason.PERSON_LIMIT_REACHED),
    Outcome(953, "the same; its channel opens one", Reason.CHANNEL_LIMIT_REACHED),
    Outcome(954, "the same, opened today", Reason.DAY_LIMIT_REACHED),
    Outcome(955, "the same; the first tells of no approval", Reason.APPROVAL_MISSING),
    *(Outcome(serial, "the live photograph is unfit", one) for one, serial in UNFIT.items()),
    Outcome(SLOW, "decided after three seconds"),
    Outcome(931, "always too busy", error=Busy),
    Outcome(BUSY_ONCE, "too busy for the first request of a key", error=Busy),
    Outcome(933, "never ready", error=NotReady),
    Outcome(LOST_BEFORE, "lost unstored; asked again, decided", error=Interrupted),
    Outcome(LOST_AFTER, "lost once stored; asked again, repeated", error=Interrupted),
    Outcome(936, "the storage is full", error=StorageFull),
    Outcome(SILENT, "no answer in the request's time", error=DeadlinePassed),
    Outcome(BROKEN, "a fault of the service", error=RuntimeError),
    Outcome(939, "as after many failed checks", error=TooManyFailures),
    Outcome(940, "required, and none came", Reason.LIVENESS_MISSING),
    Outcome(941, "signed by nobody who may", Reason.LIVENESS_INVALID),
    Outcome(942, "of another photograph", Reason.LIVENESS_MISBOUND),
    Outcome(943, "an attack was found", Reason.LIVENESS_FAILED),
    Outcome(944, "too old", Reason.LIVENESS_STALE),
    Outcome(945, "the detector is not sure", Reason.LIVENESS_UNCERTAIN),
    Outcome(946, "the evidence was used before", error=LivenessReplayed),
    Outcome(947, "of a level that is too low", Reason.LIVENESS_WEAK),
    Outcome(950, "it did not answer", Reason.AUTHORITY_UNAVAILABLE),
    Outcome(951, "it knows no such document", Reason.AUTHORITY_UNKNOWN_DOCUMENT),
    Outcome(952, "it lists the document as lost", Reason.AUTHORITY_CONTRADICTS),
    Outcome(960, "a minor; with a guardian, approved", Reason.GUARDIAN_MISSING),
    Outcome(961, "too young, too", Reason.GUARDIAN_REFUSED, needs=_GUARDIAN),
    Outcome(962, "a blurred photograph", Reason.GUARDIAN_UNUSABLE, needs=_GUARDIAN),
    Outcome(963, "two faces", Reason.GUARDIAN_MISMATCH, needs=_GUARDIAN),
    Outcome(964, "like the resident; a case", Reason.GUARDIAN_DUPLICATE, needs=_GUARDIAN),
    Outcome(965, "not who came before; a case", Reason.GUARDIAN_CHANGED, needs=_GUARDIAN),
    Outcome(966, "another name; a case", Reason.REPLACEMENT_ASKED, needs=_REPLACES),
    Outcome(970, "two people decide; a case", Reason.EXCEPTION_ASKED, needs=_EXCEPTION),
    Outcome(GRANTED, "granted at once", Reason.EXCEPTION_ASKED, needs=_EXCEPTION),
    Outcome(972, "too many were asked for", Reason.EXCEPTION_LIMIT_REACHED, needs=_EXCEPTION),
    Outcome(980, "signed by nobody who may", Reason.PROOF_INVALID, needs=_PROOF),
    Outcome(981, "of another document", Reason.PROOF_MISBOUND, needs=_PROOF),
    Outcome(982, "the issuer did not confirm", Reason.PROOF_REFUSED, needs=_PROOF),
    Outcome(983, "too old", Reason.PROOF_STALE, needs=_PROOF),
    Outcome(984, "of a level that is too low", Reason.PROOF_WEAK, needs=_PROOF),
    Outcome(985, "used before", Reason.PROOF_REPLAYED, needs=_PROOF),
)
OUTCOMES = {one.serial: one for one in sorted(_ALL, key=lambda one: one.serial)}
BY_REQUEST = {
    Reason.DOCUMENT_INVALID: "a wrong check digit, or another form",
    Reason.DOCUMENT_EXPIRED: "an `expires_on` of yesterday",
    Reason.BIRTH_DATE_MISMATCH: "a `born_on` that is not the number's",
    Reason.BIRTH_DATE_MISSING: "a minor's serial in a number that tells no date of birth, as an "
    "`in-aadhaar`, without `born_on`",
    Reason.REPLACEMENT_REFUSED: "`replaces` with a document that nobody holds",
    Reason.EXCEPTION_NOT_OFFERED: "an `exception` under any other serial",
    Reason.SAME_PHOTOGRAPH: "one picture sent twice",
}
"""Reasons that no serial stands for, since the request itself says them; and by what."""

_SERIAL = "###"
_PATTERNS = {
    "cn-ric": f"11010519900307{_SERIAL}?",
    "kr-rrn": f"900307200{_SERIAL}?",
    "th-pin": f"110100200{_SERIAL}?",
    "id-nik": f"3171011708450{_SERIAL}",
    "my-nric": f"770305020{_SERIAL}",
    "in-aadhaar": f"23412341{_SERIAL}?",
    "pk-cnic": f"342010899{_SERIAL}?",
    "tr-tckimlik": f"172918{_SERIAL}??",
    "za-idnr": f"7503305{_SERIAL}08?",
    "es-dni": f"54362{_SERIAL}@",
    "bg-egn": f"900307{_SERIAL}?",
    "es-nie": f"X5436{_SERIAL}@",
    "bg-pnf": f"700000{_SERIAL}?",
    "kr-arc": f"9003075000{_SERIAL}",
    "th-nti": f"600000000{_SERIAL}?",
    "id-kitas": f"SBX00000{_SERIAL}",
    "id-kitap": f"SBX00000{_SERIAL}",
    "cn-frp": f"91101019900307{_SERIAL}?",
    "vn-cccd": f"001090{_SERIAL}000",
    "ng-nin": f"70000000{_SERIAL}",
    "gh-card": f"GHA{_SERIAL}7000000",
    "bd-nid": f"1234567{_SERIAL}",
    "tz-nin": f"19900307{_SERIAL}000000000",
    "co-cc": f"1000000{_SERIAL}",
}
"""A sound number of each type: the places of the serial, of check digits (?) and letters (@). The
last digit of `kr-rrn` is a check digit no more: serials stay where they were. An `mx-curp` has no
place for a serial."""
TYPES = (*_PATTERNS, PASSPORT)
_MINORS = {
    "cn-ric": f"11010520190307{_SERIAL}?",
    "kr-rrn": f"190307400{_SERIAL}?",
    "id-nik": f"3171011708190{_SERIAL}",
    "my-nric": f"190305020{_SERIAL}",
    "za-idnr": f"1903305{_SERIAL}08?",
    "bg-egn": f"194307{_SERIAL}?",
    "kr-arc": f"1903077000{_SERIAL}",
    "cn-frp": f"91101020190307{_SERIAL}?",
    "tz-nin": f"20190307{_SERIAL}000000000",
}
"""The same of who is born in 2019, of types whose numbers tell it."""
_SIGNS = {"?": "0123456789X", "@": "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_EXPIRES = "40"
"""Year of the passports' expiry."""


def make_number(document_type: str, serial: int) -> str:
    """A sound number of this type with this serial; `RequestError` for an unknown type."""
    is_of_minor = serial in OUTCOMES and OUTCOMES[serial].is_of_minor
    if document_type == PASSPORT:
        birth = "190307" if is_of_minor else "900307"
        return write_zone(f"SBX000{serial:03d}", birth, "F", f"{_EXPIRES}0131")
    if document_type not in _PATTERNS:
        raise RequestError(f"numbers of no such type have a meaning: use one of {', '.join(TYPES)}")
    chosen_of = _MINORS if is_of_minor and document_type in _MINORS else _PATTERNS
    pattern = chosen_of[document_type].replace(_SERIAL, f"{serial:03d}")
    places = [sign for sign in pattern if sign in _SIGNS]
    for signs in itertools.product(*(_SIGNS[place] for place in places)):
        chosen = iter(signs)
        number = "".join(next(chosen) if sign in _SIGNS else sign for sign in pattern)
        if check(Document(document_type, number, "Sandra Sand")).is_well_formed:
            return number
    raise AssertionError("every serial has its check digits")


def check(document: Document) -> CheckedDocument:
    """The document in its canonical form."""
    return check_document(document, datetime.now(UTC).date())


def find_outcome(checked: CheckedDocument) -> Outcome:
    """The outcome of an enrollment under it; a document that is not sound has no serial."""
    if not checked.is_well_formed or checked.type not in TYPES:
        return APPROVED
    is_passport, number = checked.type == PASSPORT, checked.number
    start = -3 if is_passport else _PATTERNS[checked.type].index(_SERIAL)
    text = number[start:][:3]
    return OUTCOMES.get(int(text), APPROVED) if text.isdigit() else APPROVED


SWAPPED_LATELY, SWAPPED_LONG_AGO, NEVER_SWAPPED, UNKNOWN, NOT_REPORTED = range(981, 986)
"""The last three digits of a telephone number that is asked for its change of SIM, whether or not
somebody has it."""
SWAPPED_BEFORE = {
    SWAPPED_LATELY: timedelta(minutes=30),
    SWAPPED_LONG_AGO: timedelta(days=60),
    NEVER_SWAPPED: None,
}
MONITORED = timedelta(days=120)
"""How far back changes of SIM are known."""


# Faces, and the pictures that show them.

ANYBODY, RESIDENT, WATCHED, DEPARTED = "anybody", "resident", "watched", "departed"
STRANGER = "STRANGER"
"""What a picture says that shows somebody else than whoever is asked about."""
MARKER = "sosie-sandbox"
PICTURES = (STRANGER, RESIDENT.upper(), *UNFIT)
ALIKE = 0.95
"""Cosine of a photograph with the face that it shows."""


def _unit(vector: NDArray[Any]) -> Vector:
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def make_face(name: str, dimension: int) -> Vector:
    """The unit vector float32[d] of this name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return _unit(np.random.default_rng(seed).standard_normal(dimension))


def make_near(face: Vector, name: str, cosine: float) -> Vector:
    """A unit vector of this name with this cosine to a face."""
    other = make_face(name, len(face))
    apart = _unit(other - (other @ face) * face)
    return _unit(cosine * face + math.sqrt(1 - cosine**2) * apart)


def make_pair(face: Vector, name: str) -> tuple[Vector, Vector]:
    """Two photographs of a face, whose mean is that face."""
    live = make_near(face, f"{name} live", ALIKE)
    return live, _unit(2 * ALIKE * face - live)


def read_marker(data: bytes) -> str:
    """A picture's mark: the text `sosie-sandbox` of a PNG, or a JPEG's comment."""
    from PIL import Image  # noqa: PLC0415 - not needed for the table of numbers

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
            said = picture.info.get(MARKER, picture.info.get("comment", ""))
    except Exception:  # noqa: BLE001 - a record, or a picture of another kind: it says nothing
        return ""
    text = said.decode("latin-1") if isinstance(said, bytes) else str(said)
    return text.removeprefix(f"{MARKER}:").strip().upper()


def draw_picture(name: str, marker: str = "") -> bytes:
    """A PNG that stands for a photograph: stripes of the name's colours, and no face."""
    from PIL import Image, PngImagePlugin  # noqa: PLC0415 - as above

    colours = np.random.default_rng(list(name.encode())).integers(40, 216, (8, 6, 3), np.uint8)
    information = PngImagePlugin.PngInfo()
    information.add_text(MARKER, marker)
    file = io.BytesIO()
    picture = Image.fromarray(colours).resize((240, 320), Image.Resampling.NEAREST)
    picture.save(file, "PNG", pnginfo=information)
    return file.getvalue()


def list_numbers(document_type: str) -> list[dict[str, Any]]:
    """A number of this type for each outcome, and what becomes of an enrollment under it."""
    return [
        {
            "serial": f"{one.serial:03d}",
            "number": make_number(document_type, one.serial),
            "status": one.status,
            "answer": f"{one.status} {one.code}" if one.code else str(one.decision),
            "reason": one.reason and str(one.reason),
            "what": one.what,
            "needs": one.needs or None,
        }
        for one in (APPROVED, *OUTCOMES.values())
    ]
