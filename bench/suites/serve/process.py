"""`sosie serve` as a child process, from its start to its end, and the deployments that it serves:
so many references, a carrier with an outlet, keys to call with."""

import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, field, replace
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import psutil
from numpy.typing import NDArray

from bench.core.reports import Figure
from bench.datasets import open_pairs
from bench.suites.workload import CARRIER, add_outlet, admit_holders, make_document
from engine.accuracy.population import Population
from engine.registry.accounts import ApiKey
from engine.registry.database import utc_now
from schema import actors, frozen
from schema.documents import Document
from schema.options import NO_LIMITS
from serving.access.authentication import make_key
from serving.access.authorization import Principal, tenant_of
from serving.cluster.processes import (
    STOP_TIMEOUT_S,
    ChildService,
    Process,
    Role,
    end_with_starter,
    kill_hard,
    list_descendants,
    list_family,
)
from serving.deployment.deployment import Deployment, create_home
from serving.ingress.parts import SealedTemplates
from serving.settings.settings import Settings, load_settings

MIB = 2**20
LINE_LIMIT = 1_000_000
"""People come back for more lines as long as a load goes on."""
CALLER = Principal(key_id="bench", role=actors.Role.CARRIER, carrier=CARRIER)
"""Whose key a home has; templates are bound to such a caller's tenant."""
SEARCHER = Principal(key_id="bench", role=actors.Role.FRAUD, person="bench")
"""Who searches: a carrier would find its own holders alone."""
Vectors = NDArray[np.float32]


class Worker(ProcessPoolExecutor):
    """A process for one call at a time, which ends with this one, even where that is killed.

    Spawned: a forked child would have the parent's memory, and slow down at its first writes.
    """

    def __init__(self) -> None:
        super().__init__(1, mp_context=get_context("spawn"), initializer=end_with_parent)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        if kind is not None:
            # Its result is not wanted any more.
            for process in active_children():
                process.terminate()
        return super().__exit__(kind, error, trace)


def end_with_parent() -> None:
    """A spawned process ends with the one that spawned it, even where that is killed."""
    parent = parent_process()
    assert parent is not None
    end_with_starter(parent.sentinel)


def read_pss(pid: int) -> int:
    """Bytes that a process holds: shared pages count once among all that share them (PSS).

    Of a process with a key ring only root sees that: to others its shared pages count in full.
    """
    # A process may end while it is read.
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        try:
            return int(process.memory_full_info().pss)
        except psutil.AccessDenied:
            return int(process.memory_info().rss)
    return 0


HOST = "127.0.0.1"


class Service(ChildService):
    """A service on a home that is ended as by a loss of power, and begun again."""

    def __init__(self, home: Path, proxy: str = "haproxy") -> None:
        """`proxy` as in `[serve]`."""
        super().__init__(home, os.environ | {"SOSIE_SERVE__PROXY": proxy})

    def kill(self) -> None:
        """SIGKILL to every process of it, as when a machine loses its power."""
        family = list_family(self.pid)
        kill_hard(family)
        self._wait()
        psutil.wait_procs(family, STOP_TIMEOUT_S)

    def restart(self) -> None:
        """Begins again what has ended."""
        assert self._process.poll() is not None
        self._process = self._start()


@contextmanager
def serve(home: Path, proxy: str = "haproxy") -> Iterator[tuple[Service, float]]:
    """A service that is ready, and the seconds that took; stopped at the end."""
    begun = time.perf_counter()
    service = Service(home, proxy)
    try:
        yield service, service.wait_ready(begun)
    finally:
        service.stop()


PARTS = {
    Role.PROXY: "HAProxy",
    Role.INGRESS: "ingress replicas",
    Role.REGISTRAR: "registrar",
    Role.EMBEDDER: "embedder",
}
OWN_PROXY, OTHERS, SUPERVISOR = "Serve's proxy", "the rest of Ray", "supervisor"
_DECODER = "engine.faces.images"


Usage = dict[str, float]
"""Seconds of processor time, by part of the service."""


def list_usage(usage: Usage, what: str, count: int) -> tuple[Figure, ...]:
    """Microseconds of processor time that each of `count` answers took, the most first."""
    return tuple(
        Figure(f"{what}: {part}", "us of a core", seconds / count * 1e6)
        for part, seconds in sorted(usage.items(), key=lambda item: -item[1])
    )


@contextmanager
def watch_usage(pid: int) -> Iterator[Usage]:
    """Counts what a process and its descendants take until the context ends."""
    usage: Usage = {}
    before = _read_times(pid)
    yield usage
    for key, seconds in _read_times(pid).items():
        usage[key[1]] = usage.get(key[1], 0.0) + seconds - before.get(key, 0.0)


def name_part(process: Process) -> str:
    """Which part of the service a process is."""
    if process.words and process.words[0].startswith("ray::ProxyActor"):
        return OWN_PROXY
    if any(_DECODER in word for word in process.words):
        return PARTS[Role.INGRESS]
    return PARTS.get(process.role, OTHERS)


def _read_times(pid: int) -> dict[tuple[int, str], float]:
    """Seconds of each process so far, with the part that it is."""
    times = {}
    parts = {pid: SUPERVISOR} | {one.pid: name_part(one) for one in list_descendants(pid)}
    for one, part in parts.items():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            spent = psutil.Process(one).cpu_times()
            times[one, part] = spent.user + spent.system
    return times


@frozen
class Home:
    """A deployment that no process has open; `key` is of the role carrier, `search_key` of the role
    fraud."""

    path: Path
    references: int
    seed: int
    key: str = field(repr=False)
    search_key: str = field(repr=False)

    def copy(self, name: str) -> Self:
        """The same deployment once more, beside this one."""
        path = self.path.with_name(name)
        shutil.copytree(self.path, path)
        return replace(self, path=path)

    @contextmanager
    def open(self) -> Iterator[Deployment]:
        """In this process, without a service."""
        with Deployment(self.path, load_settings(self.path)) as deployment:
            yield deployment

    def issue(self, faces: Vectors, caller: Principal = CALLER) -> list[bytes]:
        """Templates of unit rows float32[n, d], not rotated, as the service issues them."""
        with self.open() as deployment:
            settings = deployment.settings.serve
            templates = SealedTemplates(
                deployment.vault, deployment.store.model_digest, settings.template_ttl_h
            )
            return templates.issue(deployment.vault.rotate(faces), tenant_of(caller))


UNBOUNDED = {"serve": {"rate_limit": 0, "key_share": 1}, "limits": asdict(NO_LIMITS)}
"""One key asks for all: bounds by key would measure themselves."""


def make_home(path: Path, references: int, seed: int) -> Home:
    """A new deployment with `references` synthetic people, entered by admission."""
    create_home(path, Settings(), UNBOUNDED)
    with Deployment(path, load_settings(path)) as deployment:
        add_outlet(deployment.store, LINE_LIMIT)
        keys = [_add_key(deployment, one) for one in (CALLER, SEARCHER)]
        if references:
            admit_holders(deployment, Population.load("sface").references(references, seed))
    return Home(path, references, seed, *keys)


def _add_key(deployment: Deployment, caller: Principal) -> str:
    made = make_key(deployment.vault)
    fields = (made.id, made.digest, caller.role.value, caller.carrier, None, utc_now())
    row = ApiKey(*fields, label="bench", person=caller.person)
    deployment.store.add_api_key(row, actor="bench")
    return made.text


FIRST_SERIAL = 5_000_000
"""Of the documents of photographed people: synthetic ones come before."""


@frozen
class Person:
    """Someone with a document and two photographs, which are files as a camera writes them."""

    document: Document = field(repr=False)
    live: bytes = field(repr=False)
    portrait: bytes = field(repr=False)


@frozen
class Visitors:
    """People who enroll."""

    people: tuple[Person, ...]
    source: str

    def __len__(self) -> int:
        return len(self.people)


def draw_people(faces: Path | None, count: int, seed: int) -> Visitors:
    """Up to `count` different people of a folder in LFW's layout, two photographs each.

    Without photographs: portraits of one face, which costs the same work.
    """
    with open_pairs(faces, count, seed) as drawn:
        people = tuple(
            Person(make_document(FIRST_SERIAL + place), one.read_bytes(), other.read_bytes())
            for place, (one, other) in enumerate(dict.fromkeys(drawn.pairs))
        )
    return Visitors(people, drawn.source)
