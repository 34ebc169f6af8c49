"""Parts of a service killed at random under load, and what that cost."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import httpx
import msgpack
import numpy as np

from bench.core.reports import Figure, Result, Skipped, SuiteOutput
from bench.suites.serve.fixtures import Home, Person, Visitors
from bench.suites.serve.load_requests import ENROLLMENTS_PATH, KEY_HEADER, MSGPACK, write_visit
from bench.suites.serve.process import HOST, Service, ServiceFailed, kill_hard
from bench.suites.serve.sizes import Context
from bench.suites.workload import make_document
from engine.errors import NotFound
from engine.registry.store import Store
from serving.cluster.processes import Role, find_processes, list_descendants

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
class AnswerLog:
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

    def __init__(self, port: int, api_key: str, log: AnswerLog) -> None:
        self._log = log
        headers = {"Authorization": f"Bearer {api_key}", "Content-Type": MSGPACK, "Accept": MSGPACK}
        self._http = httpx.Client(
            base_url=f"http://{HOST}:{port}", headers=headers, timeout=TIMEOUT_S, trust_env=False
        )

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
                with self._log.lock:
                    self._log.acknowledged.append(answer)
                return answer
            with self._log.lock:
                self._log.failures[status] += 1
                if status and status not in RETRIABLE:
                    self._log.final.append((visit.key, status))
                    return None
            if give_up():
                with self._log.lock:
                    self._log.given_up.append(visit.key)
                return None
            time.sleep(wait_s)

    def close(self) -> None:
        self._http.close()

    def _ask(self, key: str, body: bytes) -> tuple[int, float, Any]:
        """Status (0: the connection was lost), seconds to wait before asking again, the answer."""
        try:
            answer = self._http.post(ENROLLMENTS_PATH, content=body, headers={KEY_HEADER: key})
        except httpx.TransportError:
            return 0, LOST_WAIT_S, None
        wait_s = min(float(answer.headers.get("Retry-After", LOST_WAIT_S)), LONGEST_WAIT_S)
        is_packed = answer.headers.get("Content-Type", "").startswith(MSGPACK)
        return answer.status_code, wait_s, msgpack.unpackb(answer.content) if is_packed else None


def run_clients(
    clients: Sequence[Client], work: Callable[[int, Client], None]
) -> list[threading.Thread]:
    """Starts a thread for each client; `work` gets its number."""
    threads = [
        threading.Thread(target=work, args=(number, client), name=f"client-{number}", daemon=True)
        for number, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    return threads


CLIENTS = 10
"""As many as two ingresses take at once: what is refused was killed, not full."""
RECOVERY_TIMEOUT_S, PATIENCE_S = 90.0, 120.0
LEAST_S, MOST_S = 0.2, 1.5
"""Between the recovery from one kill and the next kill."""
SETTLED_LOOKS = 20
"""A tenth of a second apart: for so long what is ending may still be counted."""


class Target(StrEnum):
    """`node`: all that `sosie serve` started; `everything`: itself too, and it is started anew."""

    INGRESS = "ingress replica"
    REGISTRAR = "registrar"
    PROXY = "HAProxy"
    NODE = "node"
    EVERYTHING = "everything"


_ROLES = {
    Target.INGRESS: Role.INGRESS,
    Target.REGISTRAR: Role.REGISTRAR,
    Target.PROXY: Role.PROXY,
}
CHANCES: Mapping[Target, int] = {
    Target.INGRESS: 3,
    Target.REGISTRAR: 3,
    Target.PROXY: 2,
    Target.NODE: 2,
}


@dataclass(frozen=True, slots=True)
class Kill:
    """`answered_s`: from the kill to the next answer to an enrollment begun after it; `whole_s`:
    until all that was there before is there again, and ready."""

    target: Target
    answered_s: float
    whole_s: float


@dataclass(frozen=True, slots=True)
class StoreAudit:
    """The store against the clients' acknowledgements.

    `lost`: acknowledged enrollments that the store has not; `doubled`: rows of the store beyond
    one an acknowledged key, one line an approval and one reference an approved document.
    """

    acknowledged: int
    lost: int
    doubled: int
    gallery_difference: int


@dataclass(slots=True)
class KillRun:
    """All kills, what the clients saw, and the store afterwards."""

    kills: list[Kill] = field(default_factory=list)
    log: AnswerLog = field(default_factory=AnswerLog)

    def recoveries(self, target: Target) -> list[Kill]:
        return [kill for kill in self.kills if kill.target is target]


def kill_at_random(
    service: Service, home: Home, visitors: Visitors, kills: int, seed: int
) -> KillRun:
    """Kills one part after another while clients enroll."""
    kill_run, stop = KillRun(), threading.Event()
    rng = np.random.default_rng(seed)
    serials = itertools.count()
    deadline = [float("inf")]

    def work(_number: int, client: Client) -> None:
        while not stop.is_set():
            serial = next(serials)
            person = visitors.people[serial % len(visitors)]
            visit = Visit(f"kill-{serial:09d}", f"+8613{serial:09d}", person)
            client.enroll(visit, lambda: time.monotonic() > deadline[0])
        client.close()

    clients = [Client(service.place.port, home.key, kill_run.log) for _ in range(CLIENTS)]
    threads = run_clients(clients, work)
    try:
        service.wait_ready(time.perf_counter())
        _await_answer(service, kill_run.log, time.perf_counter())
        whole = _count_settled(service)
        for target in _draw_targets(rng, kills):
            time.sleep(rng.uniform(LEAST_S, MOST_S))
            kill_run.kills.append(_kill(service, target, rng, kill_run.log, whole))
    finally:
        deadline[0] = time.monotonic() + PATIENCE_S
        stop.set()
        for thread in threads:
            thread.join()
    return kill_run


def _draw_targets(rng: np.random.Generator, kills: int) -> list[Target]:
    """Every kind once, the others by chance.

    Every other node dies with `sosie serve` itself, which rightly gives up where its nodes die
    again and again.
    """
    kinds, chances = list(CHANCES), np.array(list(CHANCES.values()))
    once = [*kinds, Target.NODE]
    more = rng.choice(len(kinds), max(0, kills - len(once)), p=chances / chances.sum())
    drawn = [*once, *(kinds[place] for place in more.tolist())][:kills]
    rng.shuffle(drawn)
    nodes = itertools.cycle((Target.NODE, Target.EVERYTHING))
    return [next(nodes) if target is Target.NODE else target for target in drawn]


def _kill(
    service: Service,
    target: Target,
    rng: np.random.Generator,
    log: AnswerLog,
    whole: Counter[Role],
) -> Kill:
    moment = time.perf_counter()
    if target is Target.EVERYTHING:
        service.kill()
        service.restart()
    elif target is Target.NODE:
        kill_hard(one.pid for one in list_descendants(service.pid))
    else:
        pids = find_processes(service.pid)[_ROLES[target]]
        if not pids:
            raise ServiceFailed(f"no process is the {target}")
        kill_hard([int(rng.choice(pids))])
    answered_s = _await_answer(service, log, moment) - moment
    whole_s = _await_whole(service, whole, moment) - moment
    return Kill(target, answered_s, whole_s)


def _await_answer(service: Service, log: AnswerLog, moment: float) -> float:
    """When the first enrollment that was begun after a moment was answered."""
    while time.perf_counter() - moment < RECOVERY_TIMEOUT_S:
        answer = log.find_first_after(moment)
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


def audit_store(home: Home, log: AnswerLog) -> StoreAudit:
    """Holds the store of a service that has ended against what its clients were told."""
    acknowledged = {one.key: one for one in log.acknowledged}
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
    doubled += len({(one.key, one.enrollment_id) for one in log.acknowledged}) - len(acknowledged)
    return StoreAudit(len(acknowledged), max(lost, short), doubled, difference)


def _is_kept(store: Store, one: Acknowledged) -> bool:
    try:
        return store.enrollment(one.enrollment_id).decision == one.decision
    except NotFound:
        return False


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
    """Enrolls one face under many documents at once; each `number` has documents of its own."""
    log, barrier = AnswerLog(), threading.Barrier(RACERS)

    def work(place: int, client: Client) -> None:
        serial = number * RACERS + place
        person = replace(face, document=make_document(FIRST_DOCUMENT + serial))
        visit = Visit(f"race-{serial:09d}", f"+8613{FIRST_NUMBER + serial:09d}", person)
        barrier.wait()
        client.enroll(visit, lambda: False)
        client.close()

    clients = [Client(service.place.port, home.key, log) for _ in range(RACERS)]
    for thread in run_clients(clients, work):
        thread.join()
    decisions = Counter(one.decision for one in log.acknowledged)
    return Race(dict(decisions), RACERS - len(log.acknowledged), tuple(log.acknowledged))


REFERENCES = 1_000
MOST_PEOPLE = 200


def measure_kills(context: Context) -> SuiteOutput:
    """Part `kills`: races of one face under many documents, then SIGKILL of any part under load.

    Both on one small home and service: what is killed must have little to load.
    """
    sizes, people = context.sizes, context.visitors.people
    home = context.make_home("kills", min(REFERENCES, sizes.references))
    # The racers' faces must be new to the gallery.
    visitors = Visitors(people[sizes.races :][:MOST_PEOPLE], context.visitors.source)
    service = Service(context.place(home))
    try:
        service.wait_ready(time.perf_counter())
        races = [] if context.visitors.has_one_face else _race(context, service, home)
        kill_run = kill_at_random(service, home, visitors, sizes.kills, context.seed)
    finally:
        service.stop()
    for one in races:
        # What they were told must outlive the kills too.
        kill_run.log.acknowledged += one.acknowledged
    audit = audit_store(home, kill_run.log)
    setup = context.setup(home, kills=len(kill_run.kills), clients=CLIENTS)
    difference = sum(abs(one.approved - 1) + one.unanswered for one in races)
    results = [
        Result("Recovery from SIGKILL", setup, _list_recoveries(kill_run)),
        Result("Enrollments after all kills", setup, _list_audit(kill_run, audit)),
        Result("One face, many documents", setup | {"racers": RACERS}, _list_races(races)),
    ]
    return results, {
        "kills": float(len(kill_run.kills)),
        "lost_enrollments": float(audit.lost),
        "doubled_enrollments": float(audit.doubled + audit.gallery_difference),
        "final_failures": float(len(kill_run.log.final) + len(kill_run.log.given_up)),
        "race_difference": float(difference) if races else Skipped("one face: it is enrolled"),
    }


def _race(context: Context, service: Service, home: Home) -> list[Race]:
    people = context.visitors.people
    return [race(service, home, people[number], number) for number in range(context.sizes.races)]


def _list_recoveries(kill_run: KillRun) -> tuple[Figure, ...]:
    figures = []
    for target in Target:
        found = kill_run.recoveries(target)
        for name, seconds in (
            ("next answer", [kill.answered_s for kill in found]),
            ("whole again", [kill.whole_s for kill in found]),
        ):
            what = f"{target}: {name}"
            if not seconds:
                figures.append(Figure.skip(what, "s", "was not killed"))
                continue
            figures.append(Figure.of(f"{what}, of {len(seconds)}", "s", seconds))
            figures.append(Figure(f"{what}, at worst", "s", float(np.max(seconds))))
    return tuple(figures)


def _list_audit(kill_run: KillRun, audit: StoreAudit) -> tuple[Figure, ...]:
    failures = kill_run.log.failures
    return (
        Figure("acknowledged", "enrollments", float(audit.acknowledged)),
        Figure(
            "of them decided before the kill, and fetched by their key",
            "enrollments",
            float(sum(one.is_repeated for one in kill_run.log.acknowledged)),
        ),
        Figure("lost", "enrollments", float(audit.lost)),
        Figure("doubled", "enrollments", float(audit.doubled)),
        Figure(
            "references that gallery and store differ by",
            "references",
            float(audit.gallery_difference),
        ),
        Figure("failures that no key can mend", "requests", float(len(kill_run.log.final))),
        Figure("given up unanswered", "requests", float(len(kill_run.log.given_up))),
        *(
            Figure(
                f"failures to ask again after: {status or 'lost connections'}",
                "times",
                float(times),
            )
            for status, times in failures.most_common()
        ),
    )


def _list_races(races: list[Race]) -> tuple[Figure, ...]:
    return tuple(
        Figure(f"race {number + 1}: {decision}", "clients", float(times))
        for number, one in enumerate(races)
        for decision, times in sorted(one.decisions.items())
    )
