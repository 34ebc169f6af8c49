"""Sosie and what it stands on report to nobody, and leave nothing in their user's home.

ONNX Runtime keeps silent where it thinks that it runs in somebody's tests: so these run without
`CI` in the environment, each in a network namespace of its own.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.cluster.environment import USUAL
from tests.security import alone as helper
from tests.serving.conftest import photographs  # noqa: F401 - a fixture

Alone = Callable[..., dict[str, Any]]
SOSIE = str(Path(sys.executable).parent / "sosie")
OUTLET = ("--carrier", "blue", "--outlet", "b1")
NEWCOMER = {
    "document-type": "cn-ric",
    "document-number": "110105199003071239",
    "name": "Aileen Probe",
    "msisdn": "+8613800138000",
    "expires-on": "2031-01-31",
    "consent-ref": "a",
}
ONE_FACE = """
import os, numpy as np
def threads():
    return len(os.listdir("/proc/self/task"))
before = threads()
from engine.models.catalog import builtin_card
from engine.models.onnx_sessions import SessionOptions, open_session
session = open_session(builtin_card("sface"), SessionOptions(provider="cpu"))
session.run(np.zeros((1, 3, 112, 112), np.float32))
assert threads() == before, (threads(), before)
from indexes.exact.scanner import ProductScan, _session
_session(signed=True)
assert threads() == before, (threads(), before)
"""
A_NAME = "import socket\ntry:\n    socket.getaddrinfo('a.example', 443)\nexcept OSError:\n    pass"


def _find_way() -> list[str]:
    """How a command gets a network namespace here; nothing where it may not have one."""
    for way in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        try:
            subprocess.run([*way, "ip", "link", "set", "lo", "up"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return way
    return []


@pytest.fixture(scope="session")
def way() -> list[str]:
    if not (found := _find_way()):
        pytest.skip("no network namespace may be made here, or iproute2 is missing")
    return found


@pytest.fixture
def user(tmp_path) -> Path:
    """A home of a user who has never run anything."""
    made = tmp_path / "user"
    made.mkdir()
    return made


@pytest.fixture
def alone(way, user, tmp_path) -> Alone:
    def run(*command: object) -> dict[str, Any]:
        environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(user),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        done = subprocess.run(
            [*way, sys.executable, helper.__file__, *map(str, command)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        return told | {"errors": done.stderr}

    return run


@pytest.fixture
def home(alone, tmp_path) -> Path:
    assert alone(SOSIE, "init", tmp_path / "home", *OUTLET)["code"] == 0
    return tmp_path / "home"


def left(user: Path) -> list[str]:
    return sorted(str(one.relative_to(user)) for one in user.rglob("*"))


def test_a_name_that_is_looked_up_is_heard(alone) -> None:
    assert alone(sys.executable, "-c", A_NAME)["asked"] == ["a.example"]


def test_a_model_that_runs_makes_no_file_no_thread_and_no_connection(alone, user) -> None:
    told = alone(sys.executable, "-c", ONE_FACE)
    assert told["code"] == 0, told["errors"]
    assert told["is_silent"], told
    assert left(user) == []


def test_commands_and_a_benchmark_leave_nothing_and_ask_nobody(
    alone,
    user,
    home,
    photographs,  # noqa: F811 - the fixture
) -> None:
    faces = (photographs.live, photographs.portrait)
    options = [part for name, value in NEWCOMER.items() for part in (f"--{name}", value)]
    shown = ("--live", faces[0], "--portrait", faces[1])
    for command in (
        ("verify", *faces),
        ("--home", home, "enroll", "--outlet", "b1", *shown, *options),
        ("--home", home, "doctor"),
        ("bench", "extract", "--quick", "--n", "2", "--rounds", "1"),
    ):
        told = alone(SOSIE, *command)
        # 1 of a benchmark: a goal of a quiet machine is missed.
        assert told["code"] <= (command[0] == "bench"), told["errors"]
        assert told["is_silent"], told
        assert left(user) == []


def test_a_service_leaves_nothing_and_asks_nobody_but_the_clouds_metadata(
    alone, user, home
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = alone("--serving", port, SOSIE, "--home", home, "serve", "--port", port)
    assert told["code"] == 0, told["errors"]
    # Ray's dashboard asks there which cloud this is, and tells nobody.
    assert set(told["asked"]) <= {"metadata.google.internal"}
    assert left(user) == []


def test_ray_has_no_address_to_report_to() -> None:
    pytest.importorskip("ray")
    # Of the process that reports, and even that reports are off.
    code = "from ray._common.usage import usage_lib as it\n" + "print(it._usage_stats_report_url())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=USUAL, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "http://127.0.0.1:9/"
    assert USUAL["RAY_USAGE_STATS_ENABLED"] == "0"
    assert USUAL["ORT_DISABLE_TELEMETRY"] == "1"


def test_every_way_to_deploy_says_so_too() -> None:
    root = Path(__file__).parents[2]
    told = {
        "Dockerfile": "ORT_DISABLE_TELEMETRY=1 ",
        "Dockerfile.gpu": "ORT_DISABLE_TELEMETRY=1 ",
        "serving/deploy/systemd/sosie.service": " ORT_DISABLE_TELEMETRY=1\n",
        "serving/deploy/compose/compose.yaml": 'ORT_DISABLE_TELEMETRY: "1"',
        "serving/deploy/helm/templates/_pods.tpl": '{name: ORT_DISABLE_TELEMETRY, value: "1"}',
    }
    for name, words in told.items():
        assert words in (root / name).read_text("utf-8"), name
