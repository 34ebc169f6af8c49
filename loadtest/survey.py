"""What the service's own model says of photographs, asked over HTTP before any load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import gevent

from loadtest.cast import Thresholds
from loadtest.crew import Answer, Item, work_together
from loadtest.errors import LoadTestRefused
from loadtest.exchange import Exchange, Reply

IMAGES_A_CALL, ITEMS_A_CALL = 16, 256
RETRIABLE = frozenset({0, 429, 503})
MOST_RETRIES = 30
WAIT_S = 0.5
Tell = Callable[[int], None]


def ignore(count: int) -> None:
    """For whoever shows no progress."""
    del count


@dataclass(frozen=True, slots=True)
class Known:
    """How many references look like a face, of how many that were searched."""

    found: int
    searched: int


class Survey:
    """Asks with one key; answers that say "later" are asked for again, all others must be good."""

    def __init__(self, exchange: Exchange, key: str) -> None:
        self._exchange, self._key = exchange, key
        self.expires_at = datetime.max.replace(tzinfo=UTC)
        """When the first of the templates that were issued is no longer taken."""

    def read_thresholds(self) -> Thresholds:
        told = self.ask("GET", "/v1/thresholds")["thresholds"]
        names = ("verify", "same_document", "review", "certain")
        return Thresholds(*(float(told[name]) for name in names))

    def issue(self, photographs: Sequence[bytes], tell: Tell = ignore) -> list[bytes | str]:
        """A template of each photograph, or the code of what is wrong with it."""

        def issue_some(some: Sequence[bytes]) -> list[bytes | str]:
            value = {"items": [{"image": one} for one in some]}
            told = self.ask("POST", "/v1/templates", value)
            expires_at = datetime.fromisoformat(told["expires_at"])
            self.expires_at = min(self.expires_at, expires_at)
            tell(len(some))
            return [one.get("template") or str(one["error"]["code"]) for one in told["items"]]

        return _spread(issue_some, photographs, IMAGES_A_CALL)

    def compare(self, pairs: Sequence[tuple[bytes, bytes]]) -> list[float]:
        """The cosine of each two templates."""

        def compare_some(some: Sequence[tuple[bytes, bytes]]) -> list[float]:
            faces = [
                {"probe": {"template": one}, "reference": {"template": two}} for one, two in some
            ]
            items = self.ask("POST", "/v1/match", {"items": faces})["items"]
            return [float(one["verification"]["score"]) for one in items]

        return _spread(compare_some, pairs, ITEMS_A_CALL)

    def look_for(self, templates: Sequence[bytes]) -> list[Known]:
        """What a search of the whole gallery finds of each."""

        def look_for_some(some: Sequence[bytes]) -> list[Known]:
            faces = [{"probe": {"template": one}, "search": True} for one in some]
            items = self.ask("POST", "/v1/match", {"items": faces})["items"]
            found = [one["identification"] for one in items]
            return [Known(int(one["found"]), int(one["searched"])) for one in found]

        return _spread(look_for_some, templates, ITEMS_A_CALL)

    def ask(self, method: str, path: str, value: Any = None) -> Any:
        """The body of a good answer; `LoadTestRefused` where there is none."""
        return ask_patiently(self._exchange, method, path, self._key, value).value


def ask_patiently(
    exchange: Exchange,
    method: str,
    path: str,
    key: str | None,
    value: Any = None,
    headers: dict[str, str] | None = None,
) -> Reply:
    """A good answer, asked for until there is one; `LoadTestRefused` for any that stays bad."""
    reply = Reply(0)
    for _ in range(MOST_RETRIES):
        reply = exchange.ask(method, path, key, value=value, headers=headers)
        if reply.status not in RETRIABLE:
            break
        gevent.sleep(WAIT_S)
    if 200 <= reply.status < 300 and reply.value is not None:
        return reply
    said = reply.code or (f"status {reply.status}" if reply.status > 0 else "no answer")
    raise LoadTestRefused(f"the service at {exchange.target.url} said {said} to {path}")


def _spread(
    work: Callable[[Sequence[Item]], list[Answer]], items: Sequence[Item], size: int
) -> list[Answer]:
    """Parts of the items, several at once; answers in the items' order."""
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    return [answer for answers in work_together(work, parts) for answer in answers]
