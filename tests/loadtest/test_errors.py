"""Signals end a load test once, and it cleans up first."""

import signal
import subprocess
import sys

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
HUNG_UP = """
import os, signal
from loadtest.errors import interrupt_on_signals
interrupt_on_signals()
os.kill(os.getpid(), signal.SIGHUP)
"""


def run(code: str, hang_up: signal.Handlers) -> subprocess.CompletedProcess[str]:
    """`nohup` around these tests would have one of the signals ignored."""
    return subprocess.run(
        [sys.executable, "-c", code],
        preexec_fn=lambda: signal.signal(signal.SIGHUP, hang_up),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_what_ends_it_twice_at_once_lets_it_clean_up_and_what_comes_later_ends_it() -> None:
    done = run(ENDED_TWICE, signal.SIG_DFL)
    assert done.stdout == "cleaned up\n"
    assert done.stderr.endswith("KeyboardInterrupt\n")


def test_hanging_up_on_nohup_ends_nothing() -> None:
    assert run(HUNG_UP, signal.SIG_IGN).returncode == 0
