"""The admin socket of a node's HAProxy: what it is asked, and what it counts."""

from __future__ import annotations

import csv
import socket
import time
from pathlib import Path

PLACE, SOCKET = "p", "admin.sock"
"""Below a node's folder; Serve puts a folder of its own between the two."""

FRONTEND, BACKEND = "FRONTEND", "BACKEND"
OURS = "http-"
"""How the names begin of those backends that have our ingresses behind them."""

# Frontends and backends, but none of the servers: it fits one buffer, so all is of one moment.
_STATISTICS = "show stat -1 3 -1"

Row = dict[str, str]


def list_sockets(folder: Path) -> list[Path]:
    """Those below `folder`; some may be of proxies that are gone."""
    return sorted(folder.rglob(SOCKET))


def command(path: Path, text: str, timeout_s: float) -> str:
    """What HAProxy says to one line, within that time for all of it; else `OSError`."""
    deadline = time.monotonic() + timeout_s
    answer = b""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
        connection.sendall(text.encode() + b"\n")
        while piece := connection.recv(65536):
            answer += piece
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            connection.settimeout(left_s)
    return answer.decode(errors="replace")


def read_statistics(path: Path, timeout_s: float) -> list[Row]:
    """A row for each frontend and backend, by the names of `show stat`; else `OSError`."""
    text = command(path, _STATISTICS, timeout_s)
    return list(csv.DictReader(text.removeprefix("# ").splitlines()))


def is_ours(row: Row) -> bool:
    """True for a backend of our ingresses."""
    return row["svname"] == BACKEND and row["pxname"].startswith(OURS)
