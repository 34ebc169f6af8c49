"""Nodes that die are restarted a bounded number of times; those that report why are not."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serving.cluster.environment import find_port

SUPERVISE = """
import sys
from pathlib import Path
from serving.cluster import supervisor
from serving.cluster.environment import Site
supervisor.NODE_MODULE = "a_node"
supervisor.BACKOFF_S = (0.0,)
site = Site(sys.argv[1])
order = supervisor.Order(site, site.load().serve.model_copy(update={"port": int(sys.argv[2])}))
try:
    code = supervisor.Supervisor(order, lambda event, details: print(event, flush=True)).run()
except supervisor.NodeRefused as refused:
    print(refused.fault.code, refused.fault.message)
    code = refused.fault.exit_code
sys.exit(code)
"""


def _supervise(tmp_path: Path, home: Path, node: str, **environment: str) -> tuple[int, list[str]]:
    """The exit code and the events, with a node that is this program."""
    (tmp_path / "a_node.py").write_text(node)
    run = subprocess.run(
        [sys.executable, "-c", SUPERVISE, home, str(find_port())],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path.cwd()}", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert not run.stderr, run.stderr
    return run.returncode, run.stdout.splitlines()


def test_a_node_that_dies_repeatedly_is_given_up(tmp_path, home) -> None:
    code, events = _supervise(tmp_path, home, "raise SystemExit(1)")
    assert code == 3
    assert events == ["starting", "lost"] * 6


def test_a_node_that_reports_why_it_cannot_start_is_not_restarted(tmp_path, home) -> None:
    fault: dict[str, Any] = {"code": "C", "message": "no key ring", "status": 503, "exit_code": 2}
    node = f"""
import json, os, sys, time
plan = json.loads(sys.argv[1])
os.write(plan["report"], ({json.dumps(json.dumps(fault))} + "\\n").encode())
time.sleep(60)
"""
    code, events = _supervise(tmp_path, home, node)
    assert code == 2
    assert events == ["starting", "C no key ring"]


def test_embedders_that_no_gpu_is_there_for_are_refused_and_not_waited_for(tmp_path, home) -> None:
    node = """
import sys
import ray
from serving.cluster import node
ray.init = lambda **_: None
ray.nodes = lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}]
sys.exit(node.main(sys.argv[1:]))
"""
    settings = {"SOSIE_SERVE__EMBEDDER": "deployment", "SOSIE_SERVE__EMBEDDER_GPUS": "64"}
    code, (starting, refused) = _supervise(tmp_path, home, node, **settings)
    assert (code, starting) == (2, "starting")
    assert "1 embedders take 64 GPUs each, and Ray finds 0" in refused


def test_what_a_dead_node_started_is_ended_before_the_next(tmp_path, home) -> None:
    left = tmp_path / "left"
    node = f"""
import subprocess
child = subprocess.Popen(["sleep", "61"], start_new_session=True)
open({str(left)!r}, "a").write(f"{{child.pid}}\\n")
"""
    _supervise(tmp_path, home, node)
    pids = [int(line) for line in left.read_text().split()]
    assert len(pids) == 6
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_node_reads_its_token_from_a_file_of_its_owners(tmp_path, home) -> None:
    seen = tmp_path / "seen"
    node = f"""
import os, json
path = os.environ["RAY_AUTH_TOKEN_PATH"]
open({str(seen)!r}, "w").write(json.dumps({{
    "mode": os.environ["RAY_AUTH_MODE"], "rights": os.stat(path).st_mode & 0o777,
    "proxy": os.environ["RAY_SERVE_ENABLE_HA_PROXY"],
    "inter": os.environ["RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER"],
    "length": len(open(path).read()),
}}))
"""
    _supervise(tmp_path, home, node, RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER="7s")
    assert json.loads(seen.read_text()) == {
        "mode": "token",
        "rights": 0o600,
        "proxy": "1",
        "inter": "7s",  # what an operator has set stands
        "length": 64,
    }
