"""Parts of a service killed at random under load, and what that cost."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from bench.serving.clients import Acknowledged, Client, Till, Visit, run_clients
from bench.serving.homes import Home
from bench.serving.people import Crowd
from bench.serving.residents import kill_hard
from bench.serving.service import HOST, Service, ServiceFailed
from engine.errors import NotFound
from engine.registry.store import Store
from serving.cluster.processes import Role, find_processes, list_descendants

CLIENTS = 10
"""As many as two ingresses take at once: what is refused was killed, not full."""
RECOVERY_TIMEOUT_S, PATIENCE_S = 90.0, 120.0
LEAST_S, MOST_S = 0.2, 1.5
"""Between the recovery from one kill and the next kill."""
SETTLED_LOOKS = 20
"""A tenth of a second apart: for so long what is ending may still be counted."""


class Victim(StrEnum):
    """`node`: all that `sosie serve` started; `everything`: itself too, and it is started anew."""

    INGRESS = "ingress replica"
    REGISTRAR = "registrar"
    PROXY = "HAProxy"
    NODE = "node"
    EVERYTHING = "everything"


_ROLES = {
    Victim.INGRESS: Role.INGRESS,
    Victim.REGISTRAR: Role.REGISTRAR,
    Victim.PROXY: Role.PROXY,
}
CHANCES: Mapping[Victim, int] = {
    Victim.INGRESS: 3,
    Victim.REGISTRAR: 3,
    Victim.PROXY: 2,
    Victim.NODE: 2,
}


@dataclass(frozen=True, slots=True)
class Kill:
    """`answered_s`: from the kill to the next answer to an enrollment begun after it; `whole_s`:
    until all that was there before is there again, and ready."""

    victim: Victim
    answered_s: float
    whole_s: float


@dataclass(frozen=True, slots=True)
class Books:
    """The store against the clients' acknowledgements.

    `lost`: acknowledged enrollments that the store has not; `doubled`: rows of the store beyond
    one an acknowledged key, one line an approval and one reference an approved document.
    """

    acknowledged: int
    lost: int
    doubled: int
    gallery_difference: int


@dataclass(slots=True)
class Massacre:
    """All kills, what the clients saw, and the books afterwards."""

    kills: list[Kill] = field(default_factory=list)
    till: Till = field(default_factory=Till)

    def recoveries(self, victim: Victim) -> list[Kill]:
        return [kill for kill in self.kills if kill.victim is victim]


def kill_at_random(service: Service, home: Home, crowd: Crowd, kills: int, seed: int) -> Massacre:
    """Kills one part after another while clients enroll."""
    massacre, stop = Massacre(), threading.Event()
    rng = np.random.default_rng(seed)
    serials = itertools.count()
    deadline = [float("inf")]

    def work(_number: int, client: Client) -> None:
        while not stop.is_set():
            serial = next(serials)
            person = crowd.people[serial % len(crowd)]
            visit = Visit(f"kill-{serial:09d}", f"+8613{serial:09d}", person)
            client.enroll(visit, lambda: time.monotonic() > deadline[0])
        client.close()

    clients = [Client(HOST, service.place.port, home.key, massacre.till) for _ in range(CLIENTS)]
    threads = run_clients(clients, work)
    try:
        service.wait_ready(time.perf_counter())
        _await_answer(service, massacre.till, time.perf_counter())
        whole = _count_settled(service)
        for victim in _draw_victims(rng, kills):
            time.sleep(rng.uniform(LEAST_S, MOST_S))
            massacre.kills.append(_kill(service, victim, rng, massacre.till, whole))
    finally:
        deadline[0] = time.monotonic() + PATIENCE_S
        stop.set()
        for thread in threads:
            thread.join()
    return massacre


def _draw_victims(rng: np.random.Generator, kills: int) -> list[Victim]:
    """Every kind once, the others by chance.

    Every other node dies with `sosie serve` itself, which rightly gives up where its nodes die
    again and again.
    """
    kinds, chances = list(CHANCES), np.array(list(CHANCES.values()))
    once = [*kinds, Victim.NODE]
    more = rng.choice(len(kinds), max(0, kills - len(once)), p=chances / chances.sum())
    drawn = [*once, *(kinds[place] for place in more.tolist())][:kills]
    rng.shuffle(drawn)
    nodes = itertools.cycle((Victim.NODE, Victim.EVERYTHING))
    return [next(nodes) if victim is Victim.NODE else victim for victim in drawn]


def _kill(
    service: Service,
    victim: Victim,
    rng: np.random.Generator,
    till: Till,
    whole: Counter[Role],
) -> Kill:
    moment = time.perf_counter()
    if victim is Victim.EVERYTHING:
        service.kill()
        service.restart()
    elif victim is Victim.NODE:
        kill_hard(one.pid for one in list_descendants(service.pid))
    else:
        pids = find_processes(service.pid)[_ROLES[victim]]
        if not pids:
            raise ServiceFailed(f"no process is the {victim}")
        kill_hard([int(rng.choice(pids))])
    answered_s = _await_answer(service, till, moment) - moment
    whole_s = _await_whole(service, whole, moment) - moment
    return Kill(victim, answered_s, whole_s)


def _await_answer(service: Service, till: Till, moment: float) -> float:
    """When the first enrollment that was begun after a moment was answered."""
    while time.perf_counter() - moment < RECOVERY_TIMEOUT_S:
        answer = till.find_first_after(moment)
        if answer is not None:
            return answer.ended
        service.require_running()
        time.sleep(0.02)
    raise ServiceFailed(f"no enrollment was answered within {RECOVERY_TIMEOUT_S:.0f} s of a kill")


def _await_whole(service: Service, whole: Counter[Role], moment: float) -> float:
    service.wait_ready(moment, RECOVERY_TIMEOUT_S)
    while time.perf_counter() - moment < RECOVERY_TIMEOUT_S:
        if not whole - _count_parts(service):
            service.wait_ready(moment, RECOVERY_TIMEOUT_S)
            return time.perf_counter()
        time.sleep(0.02)
    raise ServiceFailed(f"not all parts were back within {RECOVERY_TIMEOUT_S:.0f} s of a kill")


def _count_settled(service: Service) -> Counter[Role]:
    """The parts of a whole service: at one moment there may be a second proxy, which ends with its
    last connection, or a replica that is on its way out."""
    found = _count_parts(service)
    for _ in range(SETTLED_LOOKS):
        time.sleep(0.1)
        found &= _count_parts(service)
    return found


def _count_parts(service: Service) -> Counter[Role]:
    found = find_processes(service.pid)
    return Counter({role: len(found[role]) for role in _ROLES.values()})


def audit_books(home: Home, till: Till) -> Books:
    """Holds the store of a service that has ended against what its clients were told."""
    acknowledged = {one.key: one for one in till.acknowledged}
    with home.open() as deployment:
        store = deployment.store
        counts = store.counts()
        lost = sum(not _is_kept(store, one) for one in acknowledged.values())
        gallery = deployment.restored.gallery
        difference = abs(len(gallery) - counts["references"])
    approved = [one for one in acknowledged.values() if one.decision == "approved"]
    documents = {one.document_number for one in approved}
    due = {
        "enrollments": len(acknowledged),
        "lines": len(approved),
        "references": home.references + len(documents),
    }
    doubled = sum(max(0, counts[name] - count) for name, count in due.items())
    short = max(count - counts[name] for name, count in due.items())
    # A key that was answered in two ways was judged twice.
    doubled += len({(one.key, one.enrollment_id) for one in till.acknowledged}) - len(acknowledged)
    return Books(len(acknowledged), max(lost, short), doubled, difference)


def _is_kept(store: Store, one: Acknowledged) -> bool:
    try:
        return store.enrollment(one.enrollment_id).decision == one.decision
    except NotFound:
        return False
