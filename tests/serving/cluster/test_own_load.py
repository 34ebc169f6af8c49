"""A load test without a service starts its own, and ends all its processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

LEAST_PROCESSES = 5
"""Of a service: its node, what Ray runs for that, an ingress, a registrar, a proxy."""
LOAD = ("--rate", "14", "--seconds", "3", "--p99-ms", "60000", "--max-errors", "0.5")
FOREIGN = {"SOSIE_SERVE__RAY_ADDRESS": "127.0.0.1:1", "RAY_ADDRESS": "127.0.0.1:1"}
"""Otherwise a process joins a cluster that does not exist."""


def test_nothing_is_left_of_a_service_of_its_own(
    environment: dict[str, str | None], tmp_path: Path
) -> None:
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


def _lives(process: psutil.Process) -> bool:
    """A process that adopts an ended one may leave it a zombie."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
