"""The requests that visits are, as values to be packed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Protocol

from loadtest.document_numbers import Paper, Papers
from loadtest.errors import LoadTestRefused
from loadtest.exchange import Exchange
from loadtest.people import Pair, Survey
from loadtest.target import Keys

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


# How a run reaches the service, and the documents and numbers that it uses up.

Report = Callable[[str, int, int], None]
"""Told what goes on, how much of it is done, and of how much (0: nobody knows)."""


@dataclass(frozen=True, slots=True)
class Access:
    """With which keys, for which outlet; `eraser` is a key that may erase, if there is one."""

    exchange: Exchange
    keys: Keys
    terms: Terms
    eraser: str | None = field(repr=False)


@dataclass(slots=True)
class Serials:
    """Numbers of documents and lines, each given out once in a run."""

    papers: Papers
    _next: count[int] = field(default_factory=count)

    def draw(self) -> int:
        return next(self._next)


def open_access(exchange: Exchange, keys: Keys, outlet: str | None, captured_at: str) -> Access:
    """Asks what the keys stand for; `LoadTestRefused` where they cannot do what the load needs."""
    if _read_role(exchange, keys.fraud) != "fraud":
        raise LoadTestRefused("the fraud key must be of role fraud")
    role = _read_role(exchange, keys.enroll)
    if role not in ("outlet", "carrier"):
        raise LoadTestRefused("the enroll key must be of role outlet or carrier")
    if role == "carrier" and outlet is None:
        raise LoadTestRefused("a carrier's key enrolls for an outlet: give --outlet CODE")
    if keys.erase is not None and _read_role(exchange, keys.erase) not in ("carrier", "operator"):
        raise LoadTestRefused("the erase key must be of role carrier or operator")
    eraser = keys.erase or (keys.enroll if role == "carrier" else None)
    return Access(exchange, keys, Terms(outlet, captured_at), eraser)


def _read_role(exchange: Exchange, key: str) -> str:
    return str(Survey(exchange, key).ask("GET", "/v1/me")["role"])
