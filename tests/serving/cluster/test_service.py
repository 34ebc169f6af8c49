"""The whole service through its proxy: what carriers are promised, also after every loss."""

import base64
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from serving.cluster.environment import find_port
from serving.cluster.processes import Role, list_descendants
from tests.serving.cluster.conftest import READY_WITHIN_S, Served
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

Make = Callable[[int], dict[str, Any]]


def test_it_says_where_it_listens_and_when_it_is_ready(served) -> None:
    starting, *_ = [one for one in served.events if one["event"] == "starting"]
    # Who asks by HTTP may know it before the command has said so.
    ready, *_ = wait_until(lambda: [one for one in served.events if one["event"] == "ready"])
    assert starting["url"] == ready["url"] == served.url
    assert 0 < ready["after_s"] < READY_WITHIN_S
    assert ready["home"] == str(served.home)


def test_serves_wrapper_is_passed_by_a_hook_that_serve_still_calls(served) -> None:
    answer = served.ask("GET", "/version")
    assert answer.is_success
    # The wrapper would name the request; it stands around what Serve answers itself.
    assert "x-request-id" not in answer.headers
    ingress = psutil.Process(served.roles[Role.INGRESS][0])
    ports = [one.laddr.port for one in ingress.net_connections() if one.status == "LISTEN"]
    found = [_find_id(port) for port in ports]
    assert any(found), ports


def _find_id(port: int) -> str | None:
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/-/healthz")
    except httpx.HTTPError:
        return None
    return answer.headers.get("x-request-id")


def test_a_proxy_that_ends_while_the_service_starts_does_not_end_the_start(
    empty_home, start_serve, tmp_path
) -> None:
    home, port = tmp_path / "home", find_port()
    shutil.copytree(empty_home, home)
    process = start_serve("--home", home, "--port", port, "--json")

    def find_keeper() -> int | None:
        assert process.poll() is None, process.stderr.read()
        family = list_descendants(process.pid)
        return next((one.pid for one in family if one.role is Role.PROXY_KEEPER), None)

    os.kill(wait_until(find_keeper), signal.SIGKILL)
    events = iter(lambda: json.loads(process.stdout.readline())["event"], "ready")
    assert "lost" not in list(events)
    process.terminate()
    assert process.wait(120) == 0


def test_it_runs_where_all_is_read_only_but_tmp_and_nothing_there_can_be_executed(
    served, sealed
) -> None:
    if not sealed:
        pytest.skip("this machine allows no mount namespace")
    mounts = Path(f"/proc/{served.roles[Role.PROXY][0]}/mounts").read_text()
    options = {line.split()[1]: line.split()[3].split(",") for line in mounts.splitlines()}
    assert "ro" in options["/"]
    assert "noexec" in options["/tmp"]


def test_no_process_of_it_leaves_its_memory_in_a_core_file(served) -> None:
    for pid in (served.process.pid, *(pid for pids in served.roles.values() for pid in pids)):
        limits = Path(f"/proc/{pid}/limits").read_text()
        (line,) = (line for line in limits.splitlines() if line.startswith("Max core file size"))
        assert line.split()[4:6] == ["0", "0"], pid


def test_an_enrollment_whose_client_hangs_up_is_not_decided(served, activation) -> None:
    body = json.dumps(activation(7)).encode()
    host, port = served.url.removeprefix("http://").split(":")
    lines = (
        "POST /v1/enrollments HTTP/1.1",
        "Host: sosie",
        f"Authorization: Bearer {served.keys['blue']}",
        "Idempotency-Key: hung-up",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "\r\n",
    )
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall("\r\n".join(lines).encode() + body)
    time.sleep(1)
    found = served.ask("GET", "/v1/enrollments", params={"idempotency_key": "hung-up"})
    assert found.status_code == 404, found.text


def _speak(served: Served, sent: bytes) -> bytes:
    """What the service answers to bytes that no honest client sends."""
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(sent)
        answer = b""
        while not answer.endswith((b"}", b"</html>\n")):
            piece = connection.recv(65536)
            if not piece:
                break
            answer += piece
        return answer


def test_a_body_over_the_limit_of_the_given_settings_is_refused_before_it_is_read(served) -> None:
    size_bytes = 63 * 2**19  # between the limit and its default
    key = served.keys["blue"].encode()
    answer = _speak(
        served,
        b"POST /v1/match HTTP/1.1\r\nHost: sosie\r\nAuthorization: Bearer " + key + b"\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % size_bytes,
    )
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"REQUEST.BODY_TOO_LARGE" in answer


class Carrier(threading.Thread):
    """Enrolls one after another until stopped, and repeats what was not acknowledged."""

    def __init__(self, served: Served, activation: Make, numbers: range) -> None:
        super().__init__(daemon=True)
        self._served, self._activation, self._numbers = served, activation, numbers
        self.stopping = threading.Event()
        self.acknowledged: dict[str, str] = {}
        self.fault: Exception | None = None

    def run(self) -> None:
        try:
            for number in self._numbers:
                if self.stopping.is_set():
                    return
                key = f"carrier-{number}"
                answer = self._served.enroll(key, self._activation(number))
                self.acknowledged[key] = answer["enrollment_id"]
        except Exception as fault:  # noqa: BLE001 - the test looks at it
            self.fault = fault


ROUNDS = 1 if "CI" in os.environ else int(os.environ.get("SOSIE_SERVICE_ROUNDS", "1"))
"""Of kills of each part."""
PARTS = (Role.REGISTRAR, Role.NODE, Role.PROXY, Role.INGRESS)
# A service whose node dies six times in five minutes is given up.
KILLS = [
    part for place in range(ROUNDS) for part in PARTS if part is not Role.NODE or place % 2 == 0
]


@pytest.mark.parametrize(("number", "part"), list(enumerate(KILLS, start=1)))
def test_nothing_acknowledged_is_lost_or_doubled_by_a_kill(
    served, activation, number: int, part: Role
) -> None:
    before = _read_enrollments(served)
    carriers = [
        Carrier(served, activation, range(start, start + 100))
        for start in (number * 200, number * 200 + 100)
    ]
    for carrier in carriers:
        carrier.start()
    await_more(carriers)
    served.wait_until_whole(served.kill(part))
    await_more(carriers)
    for carrier in carriers:
        carrier.stopping.set()
        carrier.join(120)
        assert carrier.fault is None
        assert carrier.acknowledged
    acknowledged = {key: one for carrier in carriers for key, one in carrier.acknowledged.items()}
    assert len(set(acknowledged.values())) == len(acknowledged)
    assert _read_enrollments(served) - before == set(acknowledged.values())
    for key, enrollment_id in acknowledged.items():
        found = served.ask("GET", "/v1/enrollments", params={"idempotency_key": key})
        assert found.json()["enrollment_id"] == enrollment_id


def await_more(carriers: list[Carrier]) -> None:
    """Until each has two answers more: the one that it waits for, and one that it asks for now."""
    enough = [len(carrier.acknowledged) + 2 for carrier in carriers]
    wait_until(
        lambda: all(
            len(carrier.acknowledged) >= count or not carrier.is_alive()
            for carrier, count in zip(carriers, enough, strict=True)
        )
    )


def _read_enrollments(served: Served) -> set[str]:
    """Every enrollment of the registry."""
    path = served.home / "registry.sqlite"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return {one for (one,) in database.execute("SELECT id FROM enrollments")}


def test_it_stops_on_a_signal_with_no_process_left(served, activation, pictures) -> None:
    """What runs is answered, what comes later is refused for a time, and no process stays."""
    family = [process.pid for process in list_descendants(served.process.pid)]
    statuses: list[int] = []

    def count() -> float:
        text = served.ask("GET", "/metrics", key="operator").text
        (found,) = re.findall(r"^sosie_http_requests_in_progress (.+)$", text, re.MULTILINE)
        return len(statuses) + float(found)

    def ask(path: str, body: dict[str, Any], headers: dict[str, str]) -> None:
        statuses.append(served.ask("POST", path, json=body, headers=headers).status_code)

    image = base64.b64encode(pictures["live"]).decode()
    many = {"items": [{"image": image} for _ in range(40)]}
    calls: list[tuple[str, dict[str, Any], dict[str, str]]] = [("/v1/templates", many, {})]
    # Three at once is the share of a key where one ingress runs: the other may not be back yet.
    calls += [
        ("/v1/enrollments", activation(number), {"idempotency-key": f"last-{number}"})
        for number in range(990, 992)
    ]
    threads = [threading.Thread(target=ask, args=call) for call in calls]
    before = count()
    for thread in threads:
        thread.start()
    wait_until(lambda: count() >= before + len(calls))
    served.process.terminate()
    late = _ask_until_refused(served)
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 201, 201]
    assert late is None or (late.status_code == 503 and int(late.headers["retry-after"]) >= 1)
    assert served.process.wait(120) == 0
    assert [pid for pid in family if psutil.pid_exists(pid)] == []
    assert served.events[-1]["event"] == "stopped"


def _ask_until_refused(served: Served) -> httpx.Response | None:
    """The first answer that says not ready; None if nothing listens any more."""
    while True:
        try:
            answer = served.client.get(f"{served.url}/health/ready")
        except httpx.TransportError:
            return None
        if answer.status_code != 200:
            return answer
        time.sleep(0.05)
