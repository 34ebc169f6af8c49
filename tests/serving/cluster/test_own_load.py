"""What starts a service of its own takes all of it away again, even where it is killed."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from loadtest.local_service import remove_left
from serving.cluster.processes import NODE_MODULE, Process, Role, list_descendants

pytestmark = pytest.mark.slow

LEAST_PROCESSES = 5
"""Of a service: its node, what Ray runs for that, an ingress, a registrar, a proxy."""
LOAD = ("--rate", "14", "--seconds", "3", "--p99-ms", "60000", "--max-errors", "0.5")
FOREIGN = {"SOSIE_SERVE__RAY_ADDRESS": "127.0.0.1:1", "RAY_ADDRESS": "127.0.0.1:1"}
"""Otherwise a process joins a cluster that does not exist."""


# CI has twenty minutes for everything, and what is killed below leaves nothing either.
@pytest.mark.skipif("CI" in os.environ, reason="most of a minute: run by hand")
def test_nothing_is_left_of_a_service_of_its_own(environment, tmp_path) -> None:
    variables = {**os.environ, **environment, **FOREIGN}
    folder, out = tmp_path / "disk", tmp_path / "out.json"
    folder.mkdir()
    arguments = ("smoke", "--references", "500", "--folder", str(folder), "--json", *LOAD)
    with out.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "loadtest", *arguments],
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            env={name: value for name, value in variables.items() if value is not None},
        )
    seen: set[psutil.Process] = set()
    try:
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                seen.update(psutil.Process(process.pid).children(recursive=True))
            time.sleep(0.2)
    finally:
        process.terminate()
    _, err = process.communicate()
    assert process.returncode == 0, (err, out.read_text())
    report = json.loads(out.read_text())
    assert (report["passed"], report["wrong"], report["cast"]["had_references"]) == (True, [], True)
    assert report["asked"]["references"] == 500
    assert len(seen) > LEAST_PROCESSES
    assert not [one for one in seen if _lives(one)]
    assert list(folder.iterdir()) == []


STARTERS = (
    ("loadtest", "smoke", "--references", "0", "--folder"),
    ("bench", "report", "--quick", "--only", "serve", "--output"),
)


def test_a_service_ends_with_its_starter_even_where_that_is_killed(environment, tmp_path) -> None:
    variables = {**os.environ, **environment}
    for starter in STARTERS:
        (tmp_path / starter[0]).mkdir()
    # Both at once: each waits for its own Ray most of the time.
    running = [
        subprocess.Popen(
            [sys.executable, "-m", *starter, str(tmp_path / starter[0])],
            stdout=subprocess.DEVNULL,
            env={name: value for name, value in variables.items() if value is not None},
            start_new_session=True,
        )
        for starter in STARTERS
    ]
    try:
        started = [_wait_for_ingress(process) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    for seen, home, folder in started:
        psutil.wait_procs(seen, timeout=240)
        assert not [one for one in seen if _lives(one)]
        assert not folder.exists()
        if home.is_relative_to(tmp_path / "loadtest"):
            # Nobody was left to remove it: the next load test does.
            remove_left(tmp_path / "loadtest")
        assert not home.exists()


def _wait_for_ingress(process: subprocess.Popen[bytes]) -> tuple[list[psutil.Process], Path, Path]:
    """The processes of a starter once one is an ingress, its home, and the folder of its node."""
    family = list_descendants(process.pid)
    while not any(one.role is Role.INGRESS for one in family):
        assert process.poll() is None
        time.sleep(0.2)
        family = list_descendants(process.pid)
    home, folder = _find_places(family)
    assert home.is_dir()
    assert folder.is_dir()
    return [psutil.Process(one.pid) for one in family], home, folder


def _find_places(family: list[Process]) -> tuple[Path, Path]:
    """The home of the service among them, and the folder of its node."""
    (plan,) = [json.loads(one.words[-1]) for one in family if NODE_MODULE in one.words]
    return Path(plan["home"]), Path(plan["folder"])


def _lives(process: psutil.Process) -> bool:
    """A process that adopts an ended one may leave it a zombie."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
