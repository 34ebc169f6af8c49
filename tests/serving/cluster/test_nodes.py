"""The service on a cluster that others started: two nodes, PostgreSQL, two shards, over HTTP."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.client.transport import RETRIED
from serving.cluster.environment import find_port
from serving.cluster.processes import Role, list_descendants
from tests.serving.cluster.conftest import KEYS
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

WITHIN_S = 300
RESOURCE = "gallery"
_DEPLOY = """
import sys
import ray
from ray import serve
from serving.cluster.application import build

ray.init(address=sys.argv[1], namespace="sosie", log_to_driver=False, logging_level="error")
# Returns when the last replica of the version before has been replaced.
serve.run(build({"home": sys.argv[2]}), name="sosie", route_prefix="/")
"""
_OTHER = """
import sys
import ray
from ray import serve
from ray.serve.config import HTTPOptions
from starlette.responses import PlainTextResponse

# One on each node: Serve has proxies where it has replicas.
@serve.deployment(num_replicas=2, max_replicas_per_node=1, ray_actor_options={"num_cpus": 0})
class Other:
    async def __call__(self, request):
        return PlainTextResponse("other")

ray.init(address=sys.argv[1], namespace="other", log_to_driver=False, logging_level="error")
options = HTTPOptions(host="127.0.0.1", port=int(sys.argv[2]))
serve.start(proxy_location="EveryNode", http_options=options)
serve.run(Other.bind(), name="other", route_prefix="/other")
"""


@dataclass
class Nodes:
    """Two nodes as `ray start` makes them, with a proxy each, and an application of others."""

    address: str
    urls: tuple[str, str]
    env: dict[str, str]
    start: Callable[[int], subprocess.Popen[bytes]]
    processes: list[subprocess.Popen[bytes]]

    def find(self, role: Role) -> set[int]:
        """Process ids of this role, on both nodes."""
        return {
            one.pid
            for process in self.processes
            for one in list_descendants(process.pid)
            if one.role is role
        }

    def wait_until(self, role: Role, count: int) -> None:
        wait_until(lambda: len(self.find(role)) == count)

    def deploy(self, home: Path) -> None:
        """Replaces every replica by a new one."""
        run = [sys.executable, "-c", _DEPLOY, self.address, str(home)]
        subprocess.run(run, env=self.env, check=True, timeout=WITHIN_S)

    def kill(self, number: int) -> None:
        """All processes of a node."""
        process = self.processes[number]
        for pid in [*(one.pid for one in list_descendants(process.pid)), process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


class Callers:
    """Threads that call both nodes over and over, and what was not answered as it should be."""

    def __init__(
        self, nodes: Nodes, key: str, pictures: dict[str, bytes], activation: Callable[[int], Any]
    ) -> None:
        self._nodes, self._key, self._activation = nodes, key, activation
        image = base64.b64encode(pictures["live"]).decode()
        self._body = json.dumps({"items": [{"id": "1", "image": image}]}).encode()
        self._is_over = threading.Event()
        self.failed: list[str] = []
        self.answered = self.enrolled = 0

    @contextmanager
    def running(self, callers: int, *, enrolls: bool = False) -> Iterator[None]:
        self._is_over.clear()
        threads = [threading.Thread(target=self._ask, args=(one,)) for one in range(callers)]
        if enrolls:
            threads.append(threading.Thread(target=self._enroll))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            for thread in threads:
                thread.join()

    def _ask(self, number: int) -> None:
        """Templates, which take an ingress and an embedder, and are asked for once; each is under
        way for a second, most of which takes no processor."""
        headers = {
            "authorization": f"Bearer {self._key}",
            "content-type": "application/json",
            "content-length": str(len(self._body)),
        }
        with httpx.Client(timeout=30, headers=headers) as client:
            while not self._is_over.is_set():
                url = self._nodes.urls[number % 2]
                try:
                    answer = client.post(f"{url}/v1/templates", content=self._send_slowly())
                except httpx.TransportError as error:
                    self.failed.append(type(error).__name__)
                    continue
                if answer.status_code != 200:
                    self.failed.append(answer.text)
                self.answered += 1

    def _send_slowly(self) -> Iterator[bytes]:
        half = len(self._body) // 2
        yield self._body[:half]
        time.sleep(1)
        yield self._body[half:]

    def _enroll(self) -> None:
        """Enrollments, which take the registrar, asked for again as the client does."""
        number = 500
        headers = {"authorization": f"Bearer {self._key}"}
        with httpx.Client(timeout=30, headers=headers) as client:
            while not self._is_over.is_set():
                number += 1
                give_up_at = time.monotonic() + 30
                while True:
                    answer = client.post(
                        f"{self._nodes.urls[number % 2]}/v1/enrollments",
                        json=self._activation(number),
                        headers={"idempotency-key": f"c-{number}"},
                    )
                    if answer.status_code not in RETRIED or time.monotonic() > give_up_at:
                        break
                    time.sleep(0.2)
                if not answer.is_success:
                    self.failed.append(answer.text)
                self.enrolled += 1


@pytest.fixture(scope="module")
def database(postgres) -> Iterator[dict[str, str]]:
    postgres.psql("CREATE DATABASE nodes;")
    yield {"SOSIE_REGISTRY__URL": postgres.get_uri(database="nodes", driver="psycopg")}
    postgres.psql("DROP DATABASE nodes WITH (FORCE);")


@pytest.fixture(scope="module")
def home(tmp_path_factory, database, sosie) -> Path:
    folder = tmp_path_factory.mktemp("nodes") / "home"
    made = sosie("init", folder, "--carrier", "blue", "--outlet", "b1", env=database)
    assert made.code == 0, made.err
    return folder


@pytest.fixture(scope="module")
def nodes(home, sosie, environment, database) -> Iterator[Nodes]:
    place = Path(tempfile.mkdtemp(prefix="n", dir="/tmp"))
    (place / "token").write_text("t" * 64)
    port, urls = find_port(), (find_port(), find_port())
    own = {name: value for name, value in environment.items() if value is not None}
    # As on a machine of its own: all this is one machine, and nothing is to be reached from others.
    common = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(place / "token"),
        "SOSIE_GALLERY__SHARDS": "2",
        "SOSIE_GALLERY__SHARD_RESOURCE": RESOURCE,
        # Faces are embedded apart, as where there are GPUs.
        "SOSIE_SERVE__EMBEDDER": "deployment",
        "SOSIE_SERVE__INGRESS_REPLICAS": "1",
        "SOSIE_SERVE__MAX_INGRESS_REPLICAS": "2",
        # So that two requests at once are above what one ingress is for.
        "SOSIE_SERVE__ENROLLMENTS_ONGOING": "4",
        "SOSIE_SERVE__KEY_SHARE": "1",
        "SOSIE_SERVE__SCALE_DOWN_AFTER_S": "1",
        # The load is of one face and one key.
        "SOSIE_LIMITS__HOLDER_FAILURES": "0",
        "SOSIE_LIMITS__HOLDER_SHOWN": "0",
        "SOSIE_LIMITS__OUTLET_KEY_FAILURES": "0",
        "SOSIE_LIMITS__KEY_FAILURES": "0",
    }

    def start(number: int) -> subprocess.Popen[bytes]:
        role = (
            ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={place}/r"]
            if number == 0
            else [f"--address=127.0.0.1:{port}"]
        )
        ray = Path(sys.executable).with_name("ray")
        # Its reaper ends what it started; it itself ends with these tests, however they do.
        command: list[Any] = ["setpriv", "--pdeathsig", "KILL"]
        command += [ray, "start", *role, "--block", "--num-cpus=2", "--disable-usage-stats"]
        command += [f"--dashboard-agent-listen-port={find_port()}", "--node-ip-address=127.0.0.1"]
        # Room for both shards on either node.
        command.append(f'--resources={{"{RESOURCE}": 2}}')
        log = place / f"{number}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(command, env=variables[number], stdout=file, stderr=file)
        _wait_until_started(log, process)
        return process

    variables: list[dict[str, str]] = []
    for number in range(2):
        printed = sosie("ray-environment", place / str(number), "--home", home, env=database)
        assert printed.code == 0, printed.err
        lines = (line.removeprefix("export ") for line in printed.out.splitlines())
        made = {**os.environ, **own, **database, **common}
        made |= dict(line.split("=", 1) for line in lines)
        made["RAY_SERVE_WORKER_PROXY_HTTP_PORT"] = str(urls[1])
        made["PYTHONUNBUFFERED"] = "1"
        variables.append(made)
    found = Nodes(
        f"127.0.0.1:{port}",
        (f"http://127.0.0.1:{urls[0]}", f"http://127.0.0.1:{urls[1]}"),
        variables[1],
        start,
        [],
    )
    try:
        for number in range(2):
            found.processes.append(start(number))
        run = [sys.executable, "-c", _OTHER, found.address, str(urls[0])]
        subprocess.run(run, env=found.env, check=True, timeout=WITHIN_S)
        yield found
    finally:
        # On a signal, a node of Ray waits for half a minute: others could take over.
        for number in reversed(range(len(found.processes))):
            found.kill(number)
        shutil.rmtree(place, ignore_errors=True)


def _wait_until_started(log: Path, process: subprocess.Popen[bytes]) -> None:
    """`ray start` says so when others can join the node, or it the others."""

    def has_started() -> bool:
        assert process.poll() is None, log.read_text()
        return "Ray runtime started" in log.read_text()

    wait_until(has_started)


def _wait_until_ready(client: httpx.Client, url: str, process: subprocess.Popen[str]) -> None:
    def is_ready() -> bool:
        assert process.poll() is None, process.communicate()
        with suppress(httpx.TransportError):
            return client.get(f"{url}/health/ready").status_code == 200
        return False

    wait_until(is_ready)


def test_two_nodes_answer_as_one_while_all_of_it_changes(
    nodes, home, sosie, database, postgres, start_serve, activation, pictures
) -> None:
    key = sosie("apikey", "add", *KEYS["blue"], "--home", home, "--json", env=database).json["key"]
    settings = {"SOSIE_SERVE__RAY_ADDRESS": nodes.address}
    port = nodes.urls[0].rsplit(":", 1)[1]
    process = start_serve("--home", home, "--port", port, "--json", env=nodes.env | settings)
    callers = Callers(nodes, key, pictures, activation)
    with httpx.Client(timeout=30, headers={"authorization": f"Bearer {key}"}) as client:
        first, second = nodes.urls
        for url in nodes.urls:
            _wait_until_ready(client, url, process)
            models = client.get(f"{url}/health/ready").json()["checks"]["models"]
            assert models["detail"].endswith("embeds, cpu float32")
            assert client.get(f"{url}/version").json()["runtime"] == "cpu float32"

        def enroll(url: str, number: int, body: dict[str, Any]) -> httpx.Response:
            name = {"idempotency-key": f"n-{number}"}
            return client.post(f"{url}/v1/enrollments", json=body, headers=name)

        one = activation(1)
        made, again = enroll(first, 1, one), enroll(second, 1, one)
        assert (made.status_code, again.status_code) == (201, 200), (made.text, again.text)
        assert made.json()["decision"] == "approved"
        assert again.json()["enrollment_id"] == made.json()["enrollment_id"]
        live = {"image": base64.b64encode(pictures["live"]).decode()}
        body = {"items": [{"probe": live, "search": True}]}
        found = [client.post(f"{url}/v1/match", json=body).json() for url in nodes.urls]
        assert found[0]["items"][0]["identification"] == found[1]["items"][0]["identification"]
        assert found[0]["items"][0]["identification"]["found"] >= 1

        # Every replica is replaced under load, and the load asks for a second ingress. The shards
        # of the gallery stay.
        parts = (Role.INGRESS, Role.REGISTRAR, Role.EMBEDDER)
        before = {pid for role in parts for pid in nodes.find(role)}
        shards = nodes.find(Role.SHARD)
        assert (len(nodes.find(Role.INGRESS)), len(shards)) == (1, 2)
        with callers.running(4, enrolls=True):
            nodes.deploy(home)
            nodes.wait_until(Role.INGRESS, 2)
        assert [one[:200] for one in callers.failed[:3]] == []
        assert callers.answered > 0
        assert callers.enrolled > 0
        assert before.isdisjoint({pid for role in parts for pid in nodes.find(role)})
        assert nodes.find(Role.SHARD) == shards

        # A node is lost, the database starts anew, the node returns.
        nodes.kill(1)
        postgres.stop()
        postgres.ensure_postgres_running()
        nodes.processes[1] = nodes.start(1)
        for url in nodes.urls:
            _wait_until_ready(client, url, process)
        assert enroll(first, 1, one).json()["enrollment_id"] == made.json()["enrollment_id"]

        # Without load one ingress is enough.
        nodes.wait_until(Role.INGRESS, 1)
        answers: list[int] = []
        running = [
            threading.Thread(
                target=lambda n=n, url=url: answers.append(
                    enroll(url, n, activation(n)).status_code
                )
            )
            for n, url in enumerate(nodes.urls * 2, start=10)
        ]
        for thread in running:
            thread.start()
        time.sleep(0.1)
        process.terminate()
        for thread in running:
            thread.join()
        assert process.wait(WITHIN_S) == 0
        nodes.wait_until(Role.SHARD, 0)
        # What ran is answered, on either node; and others' applications are left alone.
        assert answers == [201] * 4
        for url in nodes.urls:
            assert client.get(f"{url}/other").text == "other"
            assert client.get(f"{url}/v1/enrollments").status_code == 503
