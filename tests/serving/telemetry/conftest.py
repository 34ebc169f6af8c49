"""Processes of one node that count together, as Ray starts them."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PROLOGUE = """
import sys
from pathlib import Path
from serving.settings.settings import find_metrics_folder
from serving.telemetry.metrics import *
meter = Meter(find_metrics_folder())
meter.set(BUILD, 1, "1.2.3", "abc")
def say(text):
    print(text, flush=True)
def wait():
    sys.stdin.readline()
"""


@dataclass(frozen=True)
class Node:
    """Its metrics folder, and processes that run a piece of code with a meter."""

    folder: Path
    start: Callable[[str], subprocess.Popen[str]]

    def run(self, code: str) -> str:
        """What a process printed that ended by itself."""
        process = self.start(code)
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        return out


@pytest.fixture
def node(tmp_path) -> Iterator[Node]:
    folder = tmp_path / "metrics"
    started: list[subprocess.Popen[str]] = []

    def start(code: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROLOGUE + code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        )
        started.append(process)
        return process

    yield Node(folder, start)
    for process in started:
        process.kill()
        process.communicate()
