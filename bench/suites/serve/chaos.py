"""Parts of a service killed at random under load, and what that cost."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum

import httpx
import numpy as np
import psutil

from bench.core.reports import Figure, Result, SuiteOutput
from bench.suites.serve.context import Context
from bench.suites.serve.load_generator import CONSENT
from bench.suites.serve.process import HOST, Home, Person, Service
from bench.suites.workload import OUTLET
from engine.errors import NotFound
from engine.registry.database import utc_now
from schema import frozen
from serving.client import Activation, CallFailed, Client
from serving.cluster.processes import Role, ServiceFailed, find_processes, kill_hard, list_family
from serving.wire.fields import Document


@frozen
class Acknowledged:
    """An answer that a client holds; seconds of `time.perf_counter`."""

    key: str
    enrollment_id: str
    document_number: str = field(repr=False)
    decision: str
    begun: float
    ended: float


@dataclass(slots=True)
class AnswerLog:
    """What all clients have seen; `failed` counts what no key can mend, or was left unanswered."""

    acknowledged: list[Acknowledged] = field(default_factory=list)
    failed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def find_first_after(self, moment: float) -> Acknowledged | None:
        """The earliest answer to a request that was begun after a moment."""
        with self.lock:
            later = [one for one in self.acknowledged if one.begun > moment]
        return min(later, key=lambda one: one.ended, default=None)


def enroll(client: Client, key: str, msisdn: str, person: Person, log: AnswerLog) -> None:
    """Asks as a carrier's system does, again with the same key until there is an answer."""
    document = Document(person.document.type, person.document.number, person.document.name)
    activation = Activation(
        outlet=OUTLET,
        document=document,
        msisdn=msisdn,
        live=person.live,
        portrait=person.portrait,
        consent_ref=CONSENT,
        captured_at=utc_now(),
        idempotency_key=key,
    )
    begun = time.perf_counter()
    try:
        answer = client.enroll(activation)
    except CallFailed:
        with log.lock:
            log.failed += 1
        return
    told = (answer.enrollment_id, document.number, answer.decision)
    with log.lock:
        log.acknowledged.append(Acknowledged(key, *told, begun, time.perf_counter()))


CLIENTS = 10
"""As many as two ingresses take at once: what is refused was killed, not full."""
RECOVERY_TIMEOUT_S, PATIENCE_S = 90.0, 240.0
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


_ROLES = {Target.INGRESS: Role.INGRESS, Target.REGISTRAR: Role.REGISTRAR, Target.PROXY: Role.PROXY}
CHANCES: Mapping[Target, int] = {
    Target.INGRESS: 3,
    Target.REGISTRAR: 3,
    Target.PROXY: 2,
    Target.NODE: 2,
}


Kill = tuple[Target, float]
"""What was killed, and seconds until the next answer to an enrollment that was begun after it."""


def kill_at_random(
    service: Service, home: Home, people: Sequence[Person], kills: int, seed: int
) -> tuple[list[Kill], AnswerLog]:
    """Kills one part after another while clients enroll."""
    log, stop = AnswerLog(), threading.Event()
    rng = np.random.default_rng(seed)
    serials = itertools.count()

    def work() -> None:
        url, transport = f"http://{HOST}:{service.port}", httpx.HTTPTransport()
        # Its time is what ends a call.
        with Client(
            url, home.key, timeout_s=PATIENCE_S, retries=1_000, transport=transport
        ) as client:
            while not stop.is_set():
                serial = next(serials)
                person = people[serial % len(people)]
                enroll(client, f"kill-{serial:09d}", f"+8613{serial:09d}", person, log)

    killed = []
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(work) for _ in range(CLIENTS)]
        try:
            service.wait_ready(time.perf_counter())
            _await_answer(service, log, time.perf_counter())
            whole = _count_settled(service)
            for target in _draw_targets(rng, kills):
                time.sleep(rng.uniform(LEAST_S, MOST_S))
                killed.append(_kill(service, target, rng, log, whole))
        finally:
            stop.set()
    for one in clients:
        one.result()
    return killed, log


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
    service: Service, target: Target, rng: np.random.Generator, log: AnswerLog, whole: Counter[Role]
) -> Kill:
    moment = time.perf_counter()
    if target is Target.EVERYTHING:
        service.kill()
        service.restart()
    elif target is Target.NODE:
        kill_hard(list_family(service.pid)[1:])
    else:
        pids = find_processes(service.pid)[_ROLES[target]]
        if not pids:
            raise ServiceFailed(f"no process is the {target}")
        psutil.Process(int(rng.choice(pids))).kill()
    answered_s = _await_answer(service, log, moment) - moment
    _await_whole(service, whole, moment)
    return target, answered_s


def _await_answer(service: Service, log: AnswerLog, moment: float) -> float:
    """When the first enrollment that was begun after a moment was answered."""
    while time.perf_counter() - moment < RECOVERY_TIMEOUT_S:
        answer = log.find_first_after(moment)
        if answer is not None:
            return answer.ended
        service.require_running()
        time.sleep(0.02)
    raise ServiceFailed(f"no enrollment was answered within {RECOVERY_TIMEOUT_S:.0f} s of a kill")


def _await_whole(service: Service, whole: Counter[Role], moment: float) -> None:
    """Until all that was there before is there again, and ready."""
    service.wait_ready(moment, RECOVERY_TIMEOUT_S)
    while whole - _count_parts(service):
        if time.perf_counter() - moment > RECOVERY_TIMEOUT_S:
            raise ServiceFailed(f"not all parts were back within {RECOVERY_TIMEOUT_S:.0f} s")
        time.sleep(0.02)
    service.wait_ready(moment, RECOVERY_TIMEOUT_S)


def _count_settled(service: Service) -> Counter[Role]:
    """The parts of a whole service: at one moment there may be a replica that is on its way out."""
    found = _count_parts(service)
    for _ in range(SETTLED_LOOKS):
        time.sleep(0.1)
        found &= _count_parts(service)
    return found


def _count_parts(service: Service) -> Counter[Role]:
    found = find_processes(service.pid)
    counts = Counter({role: len(found[role]) for role in _ROLES.values()})
    # A second one ends with its last connection, which may take long.
    counts[Role.PROXY] = min(counts[Role.PROXY], 1)
    return counts


def audit_store(home: Home, log: AnswerLog) -> tuple[int, int]:
    """How many acknowledged enrollments the store of a service that has ended has lost; and how
    much it has beyond one row an acknowledged key, one line an approval and one reference an
    approved document, or its gallery more or less than it."""
    acknowledged = {one.key: one for one in log.acknowledged}
    with home.open() as deployment:
        counts = deployment.store.counts()
        lost = 0
        for one in acknowledged.values():
            try:
                lost += deployment.store.enrollment(one.enrollment_id).decision != one.decision
            except NotFound:
                lost += 1
        doubled = abs(len(deployment.restored.gallery) - counts["references"])
    approved = [one for one in acknowledged.values() if one.decision == "approved"]
    documents = {one.document_number for one in approved}
    due = {
        "enrollments": len(acknowledged),
        "lines": len(approved),
        "references": home.references + len(documents),
    }
    doubled += sum(max(0, counts[name] - count) for name, count in due.items())
    short = max(count - counts[name] for name, count in due.items())
    # A key that was answered in two ways was judged twice.
    doubled += len({(one.key, one.enrollment_id) for one in log.acknowledged}) - len(acknowledged)
    return max(lost, short), doubled


REFERENCES = 1_000
MOST_PEOPLE = 200


def measure_kills(context: Context) -> SuiteOutput:
    """Part `kills`: SIGKILL of any part under load, on a small home: what is killed must have
    little to load."""
    config = context.config
    home = context.make_home("kills", min(REFERENCES, config.references))
    people = context.visitors.people[:MOST_PEOPLE]
    service = Service(home.path)
    try:
        service.wait_ready(time.perf_counter())
        kills, log = kill_at_random(service, home, people, config.kills, config.seed)
    finally:
        service.stop()
    lost, doubled = audit_store(home, log)
    setup = context.setup(home, kills=len(kills), clients=CLIENTS)
    acknowledged = Figure(
        "acknowledged", "enrollments", float(len({one.key for one in log.acknowledged}))
    )
    recoveries = tuple(
        Figure.of(f"{target}: next answer, of {len(seconds)}", "s", seconds)
        for target in Target
        if (seconds := [answered_s for killed, answered_s in kills if killed is target])
    )
    results = [
        Result("Recovery from SIGKILL", setup, recoveries),
        Result("Enrollments after all kills", setup, (acknowledged,)),
    ]
    return results, {
        "kills": float(len(kills)),
        "lost_enrollments": float(lost),
        "doubled_enrollments": float(doubled),
        "final_failures": float(log.failed),
    }
