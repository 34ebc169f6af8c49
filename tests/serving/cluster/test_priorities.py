"""Priorities and cores of the processes of a service."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from serving.cluster.processes import Process, Role, place_ingresses, set_priorities
from serving.cluster.supervisor import LOOK_S
from tests.serving.cluster.conftest import Served

THREADED = """
import sys, threading, time
def start(count):
    for _ in range(count):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    print("started", flush=True)
start(3)
for line in sys.stdin:
    start(1)
"""
TITLES = {
    Role.INGRESS: "ray::ServeReplica:sosie:Ingress",
    Role.REGISTRAR: "ray::ServeReplica:sosie:Registrar.perform",
    Role.EMBEDDER: "ray::ServeReplica:sosie:Embedder",
    Role.SHARD: "ray::ShardActor",
    Role.GCS: "/opt/ray/gcs_server",
    Role.CONTROLLER: "ray::ServeController",
    Role.AGENT: "ray::DashboardAgent",
    Role.PROXY: "/opt/bin/haproxy",
    Role.PROXY_KEEPER: "ray::HAProxyManager",
    Role.RAYLET: "/opt/ray/raylet",
    Role.OTHER: "ray::IDLE",
}
OWN = os.getpriority(os.PRIO_PROCESS, 0)


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def as_role(process: subprocess.Popen[str], role: Role) -> Process:
    found = Process(process.pid, os.getpid(), (TITLES[role],))
    assert found.role is role
    return found


def read_niceness(process: subprocess.Popen[str]) -> list[int]:
    """Of each of its threads."""
    threads = Path(f"/proc/{process.pid}/task").iterdir()
    return [os.getpriority(os.PRIO_PROCESS, int(thread.name)) for thread in threads]


def test_every_thread_gives_way_also_those_that_start_later() -> None:
    with running(sys.executable, "-c", THREADED) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        set_priorities([as_role(process, Role.INGRESS)])
        assert read_niceness(process) == [max(OWN, 1)] * 4
        process.stdin.write("another\n")
        process.stdout.readline()
        assert read_niceness(process) == [max(OWN, 1)] * 5


@pytest.mark.parametrize("role", TITLES)
def test_the_proxy_goes_first_and_housekeeping_last(role: Role) -> None:
    answering = {Role.INGRESS, Role.REGISTRAR, Role.EMBEDDER, Role.SHARD}
    housekeeping = {Role.GCS, Role.CONTROLLER, Role.AGENT}
    niceness = 1 if role in answering else 10 if role in housekeeping else 0
    with running("sleep", "60") as process:
        set_priorities([as_role(process, role)])
        assert read_niceness(process) == [max(OWN, niceness)]


def test_a_nicer_process_is_not_changed() -> None:
    with running("sleep", "60") as process:
        os.setpriority(os.PRIO_PROCESS, process.pid, 17)
        set_priorities([as_role(process, Role.CONTROLLER)])
        assert read_niceness(process) == [17]


def test_an_ended_process_does_not_stop_the_others() -> None:
    with running("sleep", "60") as process, running("true") as ended:
        gone = as_role(ended, Role.INGRESS)
        ended.wait()
        set_priorities([gone, as_role(process, Role.INGRESS)])
        assert read_niceness(process) == [max(OWN, 1)]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_as_many_ingresses_as_cores_have_one_each_and_keep_it() -> None:
    cores = os.sched_getaffinity(0)
    with ExitStack() as stack:
        ingresses = [stack.enter_context(running("sleep", "60")) for _ in cores]
        registrar = stack.enter_context(running("sleep", "60"))
        family = [*(as_role(one, Role.INGRESS) for one in ingresses)]
        family.append(as_role(registrar, Role.REGISTRAR))
        place_ingresses(family)
        first = [os.sched_getaffinity(one.pid) for one in ingresses]
        assert sorted(map(sorted, first)) == [[core] for core in sorted(cores)]
        assert os.sched_getaffinity(registrar.pid) == cores
        ingresses[0].kill()
        another = stack.enter_context(running("sleep", "60"))
        place_ingresses([as_role(another, Role.INGRESS), *family[1:]])
        assert os.sched_getaffinity(another.pid) == first[0]
        assert [os.sched_getaffinity(one.pid) for one in ingresses[1:]] == first[1:]


def test_fewer_ingresses_than_cores_are_not_pinned() -> None:
    with running("sleep", "60") as process:
        cores = os.sched_getaffinity(process.pid)
        place_ingresses([as_role(process, Role.INGRESS)])
        assert os.sched_getaffinity(process.pid) == cores


@pytest.mark.slow
def test_a_running_service_has_priorities_and_cores_set(served: Served) -> None:
    wanted = {Role.PROXY: OWN, Role.INGRESS: max(OWN, 1), Role.REGISTRAR: max(OWN, 1)}
    wanted |= {Role.GCS: max(OWN, 10), Role.CONTROLLER: max(OWN, 10), Role.AGENT: max(OWN, 10)}
    deadline = time.monotonic() + 3 * LOOK_S
    found: dict[Role, set[int]] = {}
    while found != {role: {niceness} for role, niceness in wanted.items()}:
        assert time.monotonic() < deadline, found
        roles = served.roles
        found = {
            role: {os.getpriority(os.PRIO_PROCESS, pid) for pid in roles[role]} for role in wanted
        }
        time.sleep(0.1)
