"""Clients that enroll and, whatever happens, ask again with the same key until they know."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Any

import msgpack

from bench.serving.people import Person
from bench.serving.visits import KEY_HEADER, PATH, write_visit
from bench.serving.wire import MSGPACK

RETRIABLE = frozenset({408, 409, 429, 503, 507})
"""Statuses after which a client may ask again with its key; the connection's loss is the other."""
LONGEST_WAIT_S, LOST_WAIT_S = 1.0, 0.1
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """An answer that a client holds; seconds of `time.perf_counter`."""

    key: str
    enrollment_id: str
    document_number: str = field(repr=False)
    decision: str
    begun: float
    ended: float
    is_repeated: bool = False


@dataclass(slots=True)
class Till:
    """What all clients have seen; `failures` by status, 0 for a lost connection.

    `final`: key and status of what no key can mend; `given_up`: the keys of what was left so.
    """

    acknowledged: list[Acknowledged] = field(default_factory=list)
    failures: Counter[int] = field(default_factory=Counter)
    final: list[tuple[str, int]] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def find_first_after(self, moment: float) -> Acknowledged | None:
        """The earliest answer to a request that was begun after a moment."""
        with self.lock:
            later = [one for one in self.acknowledged if one.begun > moment]
        return min(later, key=lambda one: one.ended, default=None)


@dataclass(frozen=True, slots=True)
class Visit:
    """One enrollment that a client makes."""

    key: str
    msisdn: str
    person: Person


class Client:
    """One connection to the service, made again whenever it is lost."""

    def __init__(self, host: str, port: int, api_key: str, till: Till) -> None:
        self._host, self._port, self._till = host, port, till
        self._headers = {
            "Authorization": f"Bearer {api_key}",
            "Content-Type": MSGPACK,
            "Accept": MSGPACK,
        }
        self._connection: HTTPConnection | None = None

    def enroll(self, visit: Visit, give_up: Callable[[], bool]) -> Acknowledged | None:
        """Asks until there is an answer; None where there was one that no key can mend, or
        where `give_up` says so after a failure."""
        body: bytes = msgpack.packb(write_visit(visit.person, visit.msisdn))
        begun = time.perf_counter()
        while True:
            status, wait_s, value = self._ask(visit.key, body)
            if status in (200, 201):
                number = visit.person.document.number
                answer = Acknowledged(
                    key=visit.key,
                    enrollment_id=str(value["enrollment_id"]),
                    document_number=number,
                    decision=str(value["decision"]),
                    begun=begun,
                    ended=time.perf_counter(),
                    is_repeated=bool(value["is_repeated"]),
                )
                with self._till.lock:
                    self._till.acknowledged.append(answer)
                return answer
            with self._till.lock:
                self._till.failures[status] += 1
                if status and status not in RETRIABLE:
                    self._till.final.append((visit.key, status))
                    return None
            if give_up():
                with self._till.lock:
                    self._till.given_up.append(visit.key)
                return None
            time.sleep(wait_s)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, key: str, body: bytes) -> tuple[int, float, Any]:
        """Status (0: the connection was lost), seconds to wait before asking again, the answer."""
        if self._connection is None:
            self._connection = HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        try:
            self._connection.request("POST", PATH, body, self._headers | {KEY_HEADER: key})
            response = self._connection.getresponse()
            answer = response.read()
        except (OSError, HTTPException):
            self.close()
            return 0, LOST_WAIT_S, None
        if response.will_close:
            self.close()
        wait_s = min(float(response.headers.get("Retry-After", LOST_WAIT_S)), LONGEST_WAIT_S)
        is_packed = response.headers.get("Content-Type", "").startswith(MSGPACK)
        return response.status, wait_s, msgpack.unpackb(answer) if is_packed else None


def run_clients(
    clients: Sequence[Client], work: Callable[[int, Client], None]
) -> list[threading.Thread]:
    """A thread for each client; `work` is told its number."""
    threads = [
        threading.Thread(target=work, args=(number, client), name=f"client-{number}", daemon=True)
        for number, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    return threads
