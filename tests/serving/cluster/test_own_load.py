"""What starts a service of its own takes all of it away again, even where it is killed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from loadtest.local_service import PREFIX
from serving.cluster.environment import OwnedFolder
from serving.cluster.processes import NODE_MODULE, Process, Role, list_descendants

pytestmark = pytest.mark.slow


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
            OwnedFolder(PREFIX, tmp_path / "loadtest").close()
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
