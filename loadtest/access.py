"""How a run reaches the service, and the documents and numbers that it uses up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from loadtest.apikeys import Keys
from loadtest.calls import Terms
from loadtest.errors import LoadTestRefused
from loadtest.exchange import Exchange
from loadtest.papers import Papers
from loadtest.survey import Survey

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
