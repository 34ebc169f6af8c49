"""One face under many documents, all at once: one of them may be new."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, replace

from bench.counter import make_document
from bench.serving.clients import Acknowledged, Client, Till, Visit, run_clients
from bench.serving.homes import Home
from bench.serving.people import Person
from bench.serving.service import HOST, Service

RACERS = 32
FIRST_DOCUMENT, FIRST_NUMBER = 20_000_000, 900_000_000


@dataclass(frozen=True, slots=True)
class Race:
    """Decisions of all clients; exactly one of them may be an approval."""

    decisions: dict[str, int]
    unanswered: int
    acknowledged: tuple[Acknowledged, ...]

    @property
    def approved(self) -> int:
        return self.decisions.get("approved", 0)


def race(service: Service, home: Home, face: Person, number: int = 0) -> Race:
    """Everybody starts together; `number` tells one race's documents from another's."""
    till, gate = Till(), threading.Barrier(RACERS)

    def work(place: int, client: Client) -> None:
        serial = number * RACERS + place
        person = replace(face, document=make_document(FIRST_DOCUMENT + serial))
        visit = Visit(f"race-{serial:09d}", f"+8613{FIRST_NUMBER + serial:09d}", person)
        gate.wait()
        client.enroll(visit, lambda: False)
        client.close()

    clients = [Client(HOST, service.place.port, home.key, till) for _ in range(RACERS)]
    for thread in run_clients(clients, work):
        thread.join()
    decisions = Counter(one.decision for one in till.acknowledged)
    return Race(dict(decisions), RACERS - len(till.acknowledged), tuple(till.acknowledged))
