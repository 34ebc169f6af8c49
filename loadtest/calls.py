"""The requests that visits are, as values to be packed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from loadtest.cast import Pair
from loadtest.papers import Paper

ENROLLMENTS, MATCHES = "/v1/enrollments", "/v1/match"
QUERIES, SEARCHES = "/v1/lines/query", "/v1/identifications"


@dataclass(frozen=True, slots=True)
class Terms:
    """What all enrollments of a run have in common; an outlet's own key names no outlet."""

    outlet: str | None
    captured_at: str
    consent_ref: str = "loadtest"

    def at(self, captured_at: str) -> Terms:
        """The same, with photographs taken at that moment."""
        return replace(self, captured_at=captured_at)


class Call(Protocol):
    """One request; `needs_fraud` says whose key it takes."""

    @property
    def path(self) -> str: ...
    @property
    def needs_fraud(self) -> bool: ...
    @property
    def idempotency_key(self) -> str | None: ...
    def write(self, terms: Terms) -> dict[str, Any]:
        """The body."""
        ...


@dataclass(frozen=True, slots=True)
class Enroll:
    """An activation."""

    idempotency_key: str
    paper: Paper
    pair: Pair
    msisdn: str = field(repr=False)
    path: str = ENROLLMENTS
    needs_fraud: bool = False

    def write(self, terms: Terms) -> dict[str, Any]:
        body = {
            "document": self.paper.present(),
            "msisdn": self.msisdn,
            "live": self.pair.live.photograph,
            "portrait": self.pair.portrait.photograph,
            "consent_ref": terms.consent_ref,
            "captured_at": terms.captured_at,
        }
        return body if terms.outlet is None else {**body, "outlet": terms.outlet}


@dataclass(frozen=True, slots=True)
class Match:
    """One template against another."""

    probe: bytes = field(repr=False)
    reference: bytes = field(repr=False)
    path: str = MATCHES
    needs_fraud: bool = False
    idempotency_key: None = None

    def write(self, terms: Terms) -> dict[str, Any]:
        del terms
        face = {"probe": {"template": self.probe}, "reference": {"template": self.reference}}
        return {"items": [face]}


@dataclass(frozen=True, slots=True)
class Query:
    """Which numbers stand under a document, asked with a photograph."""

    paper: Paper
    photograph: bytes = field(repr=False)
    path: str = QUERIES
    needs_fraud: bool = False
    idempotency_key: None = None

    def write(self, terms: Terms) -> dict[str, Any]:
        del terms
        return {"document": self.paper.look_up(), "probe": {"image": self.photograph}}


@dataclass(frozen=True, slots=True)
class Search:
    """Who has this face."""

    photograph: bytes = field(repr=False)
    path: str = SEARCHES
    needs_fraud: bool = True
    idempotency_key: None = None

    def write(self, terms: Terms) -> dict[str, Any]:
        del terms
        return {"probe": {"image": self.photograph}}
