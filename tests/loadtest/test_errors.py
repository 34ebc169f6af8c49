"""Signals end a load test once, and it cleans up first."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil

ENDED_TWICE = """
import os, signal, time
from loadtest.errors import interrupt_on_signals, signals_ignored
interrupt_on_signals()
try:
    os.kill(os.getpid(), signal.SIGHUP)
    time.sleep(9)
except KeyboardInterrupt:
    os.kill(os.getpid(), signal.SIGTERM)
    with signals_ignored():
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), one)
    print("cleaned up")
    time.sleep(1.1)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(9)
"""
PARENT = """
import subprocess, sys, time
from loadtest.errors import end_with_parent
child = subprocess.Popen(["sleep", "60"], start_new_session=True, preexec_fn=end_with_parent())
print(child.pid, flush=True)
time.sleep(60)
"""


def test_what_ends_it_twice_at_once_lets_it_clean_up_and_what_comes_later_ends_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDED_TWICE], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout == "cleaned up\n"
    assert done.stderr.endswith("KeyboardInterrupt\n")


def test_hanging_up_on_nohup_ends_nothing() -> None:
    script = (
        "from loadtest.errors import *; interrupt_on_signals(); os.kill(os.getpid(), signal.SIGHUP)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
        timeout=30,
        check=False,
    )
    assert done.returncode == 0


def test_a_service_of_its_own_does_not_outlive_it() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    end = time.monotonic() + 20
    while _lives(child):
        assert time.monotonic() < end
        time.sleep(0.02)


def _lives(process: psutil.Process) -> bool:
    """Whether a process runs; one that has ended may stay as a zombie."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
