"""The service on a cluster that others started: two nodes, PostgreSQL, two shards, over HTTP."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.cluster.processes import list_descendants
from tests.serving.cluster.conftest import KEYS, Start, find_port

pytestmark = pytest.mark.slow

WITHIN_S = 300
RESOURCE = "gallery"
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
    processes: list[subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def database(postgres: Any) -> Iterator[dict[str, str]]:
    postgres.psql("CREATE DATABASE nodes;")
    yield {"SOSIE_REGISTRY__URL": postgres.get_uri(database="nodes", driver="psycopg")}
    postgres.psql("DROP DATABASE nodes WITH (FORCE);")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, database: dict[str, str], sosie: Any) -> Path:
    folder = tmp_path_factory.mktemp("nodes") / "home"
    made = sosie("init", folder, "--carrier", "blue", "--outlet", "b1", env=database)
    assert made.code == 0, made.err
    return folder


@pytest.fixture(scope="module")
def nodes(
    home: Path, sosie: Any, environment: dict[str, str | None], database: dict[str, str]
) -> Iterator[Nodes]:
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
    }
    variables: dict[str, str] = {}
    processes = []
    for number in range(2):
        printed = sosie("ray-environment", place / str(number), "--home", home, env=database)
        assert printed.code == 0, printed.err
        lines = (line.removeprefix("export ") for line in printed.out.splitlines())
        variables = {**os.environ, **own, **database, **common}
        variables |= dict(line.split("=", 1) for line in lines)
        variables["RAY_SERVE_WORKER_PROXY_HTTP_PORT"] = str(urls[1])
        variables["PYTHONUNBUFFERED"] = "1"
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
        command.append(f'--resources={{"{RESOURCE}": 1}}')
        log = place / f"{number}.log"
        with log.open("wb") as file:
            processes.append(subprocess.Popen(command, env=variables, stdout=file, stderr=file))
        _wait_until_started(log, processes[-1])
    found = Nodes(
        f"127.0.0.1:{port}",
        (f"http://127.0.0.1:{urls[0]}", f"http://127.0.0.1:{urls[1]}"),
        variables,
        processes,
    )
    try:
        run = [sys.executable, "-c", _OTHER, found.address, str(urls[0])]
        subprocess.run(run, env=variables, check=True, timeout=WITHIN_S)
        yield found
    finally:
        # On a signal, a node of Ray waits for half a minute: others could take over.
        for process in reversed(processes):
            family = [*(one.pid for one in list_descendants(process.pid)), process.pid]
            for pid in family:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(place, ignore_errors=True)


def _wait_until_started(log: Path, process: subprocess.Popen[bytes]) -> None:
    """`ray start` says so when others can join the node, or it the others."""
    deadline = time.monotonic() + WITHIN_S
    while "Ray runtime started" not in (output := log.read_text()):
        assert process.poll() is None, output
        assert time.monotonic() < deadline, output
        time.sleep(0.1)


def _wait_until_ready(client: httpx.Client, url: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        with suppress(httpx.TransportError):
            if client.get(f"{url}/health/ready").status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"{url} is not ready")


def test_two_nodes_answer_as_one_and_leave_other_applications(
    nodes: Nodes,
    home: Path,
    sosie: Any,
    database: dict[str, str],
    start_serve: Start,
    activation: Callable[[int], dict[str, Any]],
    pictures: dict[str, bytes],
) -> None:
    key = sosie("apikey", "add", *KEYS["blue"], "--home", home, "--json", env=database).json["key"]
    # Faces are embedded apart, as where there are GPUs.
    settings = {"SOSIE_SERVE__RAY_ADDRESS": nodes.address, "SOSIE_SERVE__EMBEDDER": "deployment"}
    port = nodes.urls[0].rsplit(":", 1)[1]
    process = start_serve("--home", home, "--port", port, "--json", env=nodes.env | settings)
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
        # What ran is answered, on either node; and others' applications are left alone.
        assert answers == [201] * 4
        for url in nodes.urls:
            assert client.get(f"{url}/other").text == "other"
            assert client.get(f"{url}/v1/enrollments").status_code == 503
