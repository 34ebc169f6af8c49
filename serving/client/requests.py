"""What is sent: photographs, templates, documents, activations."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Template:
    """A template that the service issued."""

    token: bytes = field(repr=False)


Face = bytes | Template
"""A photograph's file (JPEG, PNG, WebP), or a template of one."""


@dataclass(frozen=True, slots=True)
class KnownDocument:
    """A document that is looked up."""

    type: str
    number: str = field(repr=False)

    def write(self) -> dict[str, Any]:
        return {"type": self.type, "number": self.number}


@dataclass(frozen=True, slots=True)
class Document:
    """A document in somebody's hands."""

    type: str
    number: str = field(repr=False)
    name: str = field(repr=False)
    expires_on: date | None = None

    def write(self) -> dict[str, Any]:
        expires_on = None if self.expires_on is None else self.expires_on.isoformat()
        return {
            "type": self.type,
            "number": self.number,
            "name": self.name,
            "expires_on": expires_on,
        }


def make_idempotency_key() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """One activation attempt. `captured_at` has a time zone.

    `idempotency_key` is there before anything is sent: keep it, and an activation that was cut
    short is asked for again, or found, by it. An outlet's own key may leave out `outlet`.
    """

    document: Document
    msisdn: str = field(repr=False)
    live: bytes = field(repr=False)
    portrait: bytes = field(repr=False)
    consent_ref: str
    captured_at: datetime
    outlet: str | None = None
    idempotency_key: str = field(default_factory=make_idempotency_key)

    def write(self) -> dict[str, Any]:
        body = {
            "document": self.document.write(),
            "msisdn": self.msisdn,
            "live": self.live,
            "portrait": self.portrait,
            "consent_ref": self.consent_ref,
            "captured_at": self.captured_at.isoformat(),
        }
        return body if self.outlet is None else {**body, "outlet": self.outlet}


@dataclass(frozen=True, slots=True)
class MatchItem:
    """A probe against a reference (1:1), against the gallery (`search`), or both."""

    probe: Face = field(repr=False)
    reference: Face | None = field(default=None, repr=False)
    search: bool = False
    id: str | None = None

    def write(self) -> dict[str, Any]:
        item: dict[str, Any] = {"probe": write_face(self.probe)}
        if self.reference is not None:
            item["reference"] = write_face(self.reference)
        if self.search:
            item["search"] = True
        if self.id is not None:
            item["id"] = self.id
        return item


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepTerms:
    """A threshold, the false match rate that chooses one, or neither for the proposed one.

    `scope` is `all`, or `new` for what the last sweep did not cover.
    """

    threshold: float | None = None
    fmr: float | None = None
    scope: str = "all"
    allow_unsupported: bool = False

    def write(self) -> dict[str, Any]:
        return {
            "threshold": self.threshold,
            "fmr": self.fmr,
            "scope": self.scope,
            "allow_unsupported": self.allow_unsupported,
        }


@dataclass(frozen=True, slots=True)
class Options:
    """What one call may have of its own.

    `correlator` names it in the logs of both sides and is made where there is none; `timeout_s` is
    the time for all attempts together; `traceparent` is the W3C header of the caller's span.
    """

    correlator: str | None = None
    timeout_s: float | None = None
    traceparent: str | None = None


def write_face(face: Face) -> dict[str, bytes]:
    return {"template": face.token} if isinstance(face, Template) else {"image": face}
