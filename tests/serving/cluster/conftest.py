"""One service as people start it: `sosie serve` in a process of its own, over real HTTP."""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.cluster.environment import find_port
from serving.cluster.processes import Role, find_processes, list_descendants
from serving.demo.scenario import make_document
from serving.settings.settings import SETTINGS_FILE
from tests.serving.api.conftest import make_activation
from tests.serving.cluster.proxied import Proxied, run_proxy
from tests.serving.cluster.two_nodes import Nodes, run_nodes
from tests.serving.telemetry.collector import Collector, run_collector
from tests.waiting import wait_until

READY_WITHIN_S = 300
KEYS = {
    "blue": ("--role", "carrier", "--carrier", "blue"),
    "operator": ("--role", "operator", "--person", "ops"),
}
MAX_BODY = "max_body_mib = 31"
"""In the file given as `--config`; the home's own leaves it at 32."""
RETRIED = frozenset({408, 409, 429, 503})


@dataclass
class Served:
    """A running `sosie serve`, its messages, and a client."""

    process: subprocess.Popen[str]
    url: str
    home: Path
    keys: dict[str, str]
    client: httpx.Client
    collector: Collector
    events: list[dict[str, Any]] = field(default_factory=list)

    def listen(self) -> None:
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    @property
    def roles(self) -> dict[Role, list[int]]:
        return find_processes(self.process.pid)

    def ask(self, method: str, path: str, key: str = "blue", **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.keys[key]}"} | options.pop("headers", {})
        return self.client.request(method, self.url + path, headers=headers, **options)

    def enroll(self, key: str, body: dict[str, Any]) -> dict[str, Any]:
        """The acknowledged answer: what may be asked again is asked again, with the same key."""

        def enroll() -> dict[str, Any] | None:
            headers = {"idempotency-key": key}
            with suppress(httpx.TransportError):
                answer = self.ask("POST", "/v1/enrollments", json=body, headers=headers)
                if answer.is_success:
                    return dict(answer.json())
                assert answer.status_code in RETRIED, answer.text
                assert answer.json()["code"]
            return None

        return wait_until(enroll) or {}

    def wait_until_ready(self) -> None:

        def is_ready() -> bool:
            assert self.process.poll() is None, self.events
            with suppress(httpx.TransportError):
                return self.client.get(f"{self.url}/health/ready").status_code == 200
            return False

        wait_until(is_ready)

    def wait_until_whole(self, gone: list[int]) -> None:
        """Until each part runs in another process than those, and the service is ready."""
        parts = (Role.INGRESS, Role.REGISTRAR, Role.PROXY)

        def is_whole() -> bool:
            assert self.process.poll() is None, self.events
            roles = self.roles
            living = {pid for pids in roles.values() for pid in pids}
            return living.isdisjoint(gone) and all(roles[part] for part in parts)

        wait_until(is_whole)
        self.wait_until_ready()

    def kill(self, role: Role) -> list[int]:
        """SIGKILL; the node is its driver and what Ray runs for it. Returns all whom it ends."""
        roles = self.roles
        doomed = gone = roles[role]
        if role is Role.NODE:
            doomed = [*doomed, *roles[Role.RAYLET], *roles[Role.GCS]]
            # What is left answers for a moment more, as if nothing had been lost.
            gone = [pid for pids in roles.values() for pid in pids]
        assert doomed
        for pid in doomed:
            os.kill(pid, signal.SIGKILL)
        return gone

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.terminate()
        return self.process.wait(120)


@pytest.fixture(scope="session")
def serve_home(empty_home, sosie) -> tuple[Path, dict[str, str]]:
    """A home with keys; served, and so changed, by the one service of this folder."""
    home = empty_home.with_name("cluster")
    shutil.copytree(empty_home, home)
    keys = {}
    for name, options in KEYS.items():
        made = sosie("apikey", "add", *options, "--home", home, "--json")
        assert made.code == 0, made.err
        keys[name] = made.json["key"]
    return home, keys


Start = Callable[..., subprocess.Popen[str]]
_SEAL = (
    "mount --bind /tmp /tmp && mount -o remount,bind,noexec /tmp && mount -o remount,bind,ro / "
    '&& exec "$@"'
)


@pytest.fixture(scope="session")
def sealed() -> list[str]:
    """What goes before a command so that it runs as in a container: all is read-only but /tmp,
    from which nothing can be executed. Empty where this machine allows none."""
    prefix = ["unshare", "--mount", "sh", "-c", _SEAL, "sealed"]
    try:
        tried = subprocess.run([*prefix, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return []
    return prefix if tried.returncode == 0 else []


@pytest.fixture(scope="session")
def start_serve(environment, sealed) -> Iterator[Start]:
    """`start_serve(*arguments)`: the command in a process, ended with all that it started."""
    started: list[subprocess.Popen[str]] = []
    # A pipe of ours, since `communicate` would close that of a process.
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "serving.cli.main", "serve", "--until-stdin-closes"]

    def start(*arguments: object, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        variables = {**os.environ, **environment, **(env or {})}
        process = subprocess.Popen(
            [*sealed, *command, *map(str, arguments)],
            stdin=reading,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={name: value for name, value in variables.items() if value is not None},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            for pid in (*(one.pid for one in list_descendants(process.pid)), process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        process.communicate()
    os.close(writing)
    os.close(reading)


@pytest.fixture(scope="session")
def served(serve_home, start_serve) -> Iterator[Served]:
    """The one service of this folder, ready; of its traces those that a client samples are kept."""
    home, keys = serve_home
    port = find_port()
    with run_collector() as collector, httpx.Client(timeout=30) as client:
        tracing = {
            "SOSIE_SERVE__TRACE_ENDPOINT": collector.endpoint,
            "SOSIE_SERVE__TRACE_RATIO": "0",
            # OpenTelemetry's own, 5 s.
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            # Many tests share its keys and its one holder.
            "SOSIE_SERVE__RATE_LIMIT": "0",
            "SOSIE_LIMITS__HOLDER_FAILURES": "0",
            "SOSIE_LIMITS__HOLDER_SHOWN": "0",
        }
        settings = home.with_name("cluster.toml")
        own = (home / SETTINGS_FILE).read_text()
        text, count = re.subn(r"^# max_body_mib = .*$", MAX_BODY, own, flags=re.M)
        assert count == 1
        settings.write_text(text)
        arguments = ("--home", home, "--config", settings, "--port", port, "--json")
        process = start_serve(*arguments, env=tracing)
        service = Served(process, f"http://127.0.0.1:{port}", home, keys, client, collector)
        listener = threading.Thread(target=service.listen, daemon=True)
        listener.start()
        service.wait_until_ready()
        yield service


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    """One cluster of two nodes for all files that take none of them away."""
    with run_nodes() as made:
        yield made


@pytest.fixture
def proxied(tmp_path_factory) -> Iterator[Proxied]:
    with run_proxy(tmp_path_factory.mktemp("p")) as started:
        yield started


@pytest.fixture(scope="session")
def pictures(photographs) -> dict[str, bytes]:
    names = ("live", "portrait", "stranger", "stranger_again")
    return {name: getattr(photographs, name).read_bytes() for name in names}


@pytest.fixture(scope="session")
def activation(pictures) -> Callable[[int], dict[str, Any]]:
    """`activation(n)`: the body of an enrollment, for another document and number each."""

    def make(number: int) -> dict[str, Any]:
        document = make_document(number, f"Person {number}")
        return make_activation(
            document={"type": document.type, "number": document.number, "name": document.name},
            msisdn=f"+86138{number:08d}",
            consent_ref=f"C-{number}",
            live=base64.b64encode(pictures["live"]).decode(),
            portrait=base64.b64encode(pictures["portrait"]).decode(),
        )

    return make


def refuse(start_serve: Start, *arguments: object, **options: Any) -> dict[str, str]:
    process = start_serve(*arguments, "--json", **options)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 2, (output, errors)
    assert "Traceback" not in errors
    # After the events, a line each.
    error: dict[str, str] = json.loads(output[output.index("{\n") :])["error"]
    return error
