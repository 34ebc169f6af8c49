"""The requests of a load test, and the access to the service that they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from itertools import count
from typing import Any

from loadtest.document_numbers import Passport, SpecimenNumbers
from loadtest.errors import LoadTestRefused
from loadtest.exchange import Exchange
from loadtest.participants import ModelClient, Pair
from loadtest.target import Keys

ENROLLMENTS, MATCHES = "/v1/enrollments", "/v1/match"
QUERIES, SEARCHES = "/v1/lines/query", "/v1/identifications"


@dataclass(frozen=True, slots=True)
class CommonFields:
    """Fields that all enrollments of a run share; `outlet` is None for an outlet's own key."""

    outlet: str | None
    captured_at: str
    consent_ref: str = "loadtest"

    def at(self, captured_at: str) -> CommonFields:
        """The same for photographs taken at that moment."""
        return replace(self, captured_at=captured_at)


@dataclass(frozen=True, slots=True)
class Call:
    """One request; with `needs_fraud` it takes the fraud key, else the enroll key."""

    path: str
    body: dict[str, Any] = field(repr=False)
    needs_fraud: bool = False
    idempotency_key: None = None

    def write(self, common: CommonFields) -> dict[str, Any]:
        del common
        return self.body


@dataclass(frozen=True, slots=True)
class Enroll:
    """An enrollment with two photographs; its body has the fields that all of a run share."""

    idempotency_key: str
    passport: Passport
    pair: Pair
    msisdn: str = field(repr=False)
    path: str = ENROLLMENTS
    needs_fraud: bool = False

    def write(self, common: CommonFields) -> dict[str, Any]:
        body = {
            "document": self.passport.for_enrollment(),
            "msisdn": self.msisdn,
            "live": self.pair.live.photograph,
            "portrait": self.pair.portrait.photograph,
            "consent_ref": common.consent_ref,
            "captured_at": common.captured_at,
        }
        return body if common.outlet is None else {**body, "outlet": common.outlet}


def match(probe: bytes, reference: bytes) -> Call:
    """A comparison of two templates."""
    face = {"probe": {"template": probe}, "reference": {"template": reference}}
    return Call(MATCHES, {"items": [face]})


def query(passport: Passport, photograph: bytes) -> Call:
    """A query for the lines of a document, with a photograph of its holder."""
    return Call(QUERIES, {"document": passport.for_query(), "probe": {"image": photograph}})


def search(photograph: bytes) -> Call:
    """A search of the gallery for a face."""
    return Call(SEARCHES, {"probe": {"image": photograph}}, needs_fraud=True)


ReportProgress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much (0: unknown)."""


@dataclass(frozen=True, slots=True)
class Access:
    """A connection with its API keys; `erase_key` is one that may erase, if there is one."""

    exchange: Exchange
    keys: Keys
    common: CommonFields
    erase_key: str | None = field(repr=False)


@dataclass(slots=True)
class Serials:
    """Serial numbers for documents and lines, each used once in a run."""

    numbers: SpecimenNumbers
    _next: count[int] = field(default_factory=count)

    def draw(self) -> int:
        return next(self._next)


def read_version(exchange: Exchange) -> Mapping[str, Any]:
    """Version and model; `LoadTestRefused` at once where no service of ours answers, or one that
    looks at no face."""
    reply = exchange.ask("GET", "/version")
    if reply.status != HTTPStatus.OK or not isinstance(reply.value, Mapping):
        raise LoadTestRefused(f"no service answers at {exchange.target.url}: is it running?")
    if str(reply.value.get("version")).endswith("+sandbox"):
        raise LoadTestRefused(f"{exchange.target.url} is a sandbox, which looks at no face")
    return reply.value


def open_access(exchange: Exchange, keys: Keys, outlet: str | None, captured_at: str) -> Access:
    """Checks the roles of the keys; `LoadTestRefused` if they cannot do what the load needs."""
    if _read_role(exchange, keys.fraud) != "fraud":
        raise LoadTestRefused("the fraud key must be of role fraud")
    role = _read_role(exchange, keys.enroll)
    if role not in ("outlet", "carrier"):
        raise LoadTestRefused("the enroll key must be of role outlet or carrier")
    if role == "carrier" and outlet is None:
        raise LoadTestRefused("a carrier's key enrolls for an outlet: give --outlet CODE")
    if keys.erase is not None and _read_role(exchange, keys.erase) not in ("carrier", "operator"):
        raise LoadTestRefused("the erase key must be of role carrier or operator")
    erase_key = keys.erase or (keys.enroll if role == "carrier" else None)
    return Access(exchange, keys, CommonFields(outlet, captured_at), erase_key)


def _read_role(exchange: Exchange, key: str) -> str:
    return str(ModelClient(exchange, key).ask("GET", "/v1/me")["role"])
