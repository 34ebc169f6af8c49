"""What an enrollment asks, and what it is answered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import phonenumbers
from numpy.typing import NDArray

from engine.errors import RequestError
from engine.matching.documents import Document, require_checkable
from engine.reasons import Decision, Reason

MAX_KEY_LENGTH = 255
MAX_CONSENT_LENGTH = 200


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One photograph after extraction.

    `vector` is a rotated unit vector, float32[d], or `None` exactly where no face was found;
    `problems` asks for a new photograph; `digest` is the SHA-256 of the image's bytes; `crop` is
    the aligned face, sealed for its way to the registrar, where crops are kept.
    """

    vector: NDArray[np.float32] | None = field(repr=False)
    digest: bytes = field(repr=False)
    problems: tuple[Reason, ...] = ()
    quality: Mapping[str, float] = field(default_factory=dict)
    crop: bytes | None = field(default=None, repr=False)

    @property
    def is_usable(self) -> bool:
        return self.vector is not None and not self.problems


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EnrollmentRequest:
    """One activation attempt, as it came from an outlet."""

    idempotency_key: str
    carrier: str
    outlet: str
    document: Document
    msisdn: str = field(repr=False)
    live: Sample
    portrait: Sample
    consent_ref: str | None = None
    captured_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A decision that is durable; `body` is what was stored, `is_repeated` says that it is old."""

    body: dict[str, Any]
    is_repeated: bool = False

    @property
    def enrollment_id(self) -> str:
        return str(self.body["enrollment_id"])

    @property
    def decision(self) -> Decision:
        return Decision(self.body["decision"])

    @property
    def reasons(self) -> tuple[Reason, ...]:
        return tuple(dict.fromkeys(Reason(item["reason"]) for item in self.body["reasons"]))


def normalise_msisdn(text: str) -> str:
    """The number in E.164 (`+8613800138000`); `RequestError` where it cannot be one.

    Only the length is held against the numbering plan: libphonenumber's list of ranges lags
    behind what operators open.
    """
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException:
        number = None
    if number is None or not phonenumbers.is_possible_number(number):
        raise RequestError("the number is not a telephone number: give it as +<country><number>")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def require_judgeable(request: EnrollmentRequest) -> None:
    """Refuses a request that no decision could answer, before anything is looked up."""
    key = request.idempotency_key
    if not key or len(key) > MAX_KEY_LENGTH or not key.isprintable():
        raise RequestError(
            f"the Idempotency-Key must be 1 to {MAX_KEY_LENGTH} printable characters: "
            "use a fresh UUID for each activation"
        )
    for what, text in _texts(request):
        if not is_storable(text):
            raise RequestError(f"the {what} holds characters that are no text: type it again")
    for what, sample in (("live", request.live), ("portrait", request.portrait)):
        if sample.vector is not None and not np.isfinite(sample.vector).all():
            raise RequestError(f"the {what} vector is not finite: extract it again")
    if request.consent_ref is not None and len(request.consent_ref) > MAX_CONSENT_LENGTH:
        raise RequestError(f"the consent reference is longer than {MAX_CONSENT_LENGTH} characters")
    if request.captured_at is not None and request.captured_at.tzinfo is None:
        raise RequestError("the capture time has no time zone: write it as 2026-01-31T12:00:00Z")
    require_checkable(request.document)
    normalise_msisdn(request.msisdn)


def is_storable(text: str) -> bool:
    """False for NUL, which PostgreSQL refuses, and for half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _texts(request: EnrollmentRequest) -> list[tuple[str, str]]:
    return [
        ("Idempotency-Key", request.idempotency_key),
        ("carrier", request.carrier),
        ("outlet", request.outlet),
        ("document type", request.document.type),
        ("document number", request.document.number),
        ("name", request.document.name),
        ("number", request.msisdn),
        ("consent reference", request.consent_ref or ""),
    ]


def digest_payload(request: EnrollmentRequest, checked_number: str) -> bytes:
    """SHA-256 over all that makes two requests the same one: the input of a keyed digest."""
    document = request.document
    payload = {
        "outlet": request.outlet,
        "document": [document.type, checked_number, document.name, str(document.expires_on)],
        "msisdn": normalise_msisdn(request.msisdn),
        "live": request.live.digest.hex(),
        "portrait": request.portrait.digest.hex(),
        "consent_ref": request.consent_ref,
        "captured_at": request.captured_at.isoformat() if request.captured_at else None,
    }
    canonical = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).digest()
