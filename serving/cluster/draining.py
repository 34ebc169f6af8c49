"""Stops a node in order: first the proxy refuses what is new, and lets end what runs.

Serve would stop all deployments at once, and a photograph being looked at would find no registrar.
"""

from __future__ import annotations

import csv
import socket
import time
from collections.abc import Callable
from pathlib import Path

from serving.cluster.proxy import STOPPING

SOCKET = "admin.sock"
ANSWER_TIMEOUT_S = 2.0
LOOK_EVERY_S = 0.1
BACKENDS = "http-"


def drain_proxies(
    folder: Path, timeout_s: float, clock: Callable[[], float] = time.monotonic
) -> bool:
    """Has every HAProxy with a socket below `folder` refuse requests (503, and so readiness), and
    waits until none runs. False where some still did after `timeout_s`."""
    deadline = clock() + timeout_s
    while True:
        # Again each time: a proxy that was reloaded meanwhile has forgotten.
        ongoing = sum(_refuse_and_count(path) for path in folder.rglob(SOCKET))
        if not ongoing:
            return True
        if clock() >= deadline:
            return False
        time.sleep(LOOK_EVERY_S)


def _refuse_and_count(path: Path) -> int:
    """Requests that this proxy has under way; 0 where it does not answer any more."""
    try:
        _command(path, f"experimental-mode on; set var {STOPPING} int(1)")
        text = _command(path, "show stat")
    except OSError:
        return 0
    rows = csv.DictReader(text.removeprefix("# ").splitlines())
    return sum(
        int(row["scur"] or 0)
        for row in rows
        if row["pxname"].startswith(BACKENDS) and row["svname"] == "BACKEND"
    )


def _command(path: Path, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_TIMEOUT_S)
        connection.connect(str(path))
        connection.sendall(command.encode() + b"\n")
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer.decode(errors="replace")
