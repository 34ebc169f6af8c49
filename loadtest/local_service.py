"""A local service for a load test: `sosie serve` over a temporary home, deleted at the end.

It can hold synthetic references, unit vectors in every direction. They cost a search what faces
cost, and resemble nobody: in 128 dimensions a face scores above 0.47 with one in a hundred million,
and who does takes no part.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from engine.errors import advise_extra
from loadtest.errors import LoadTestRefused, signals_ignored
from loadtest.exchange import Keys, ServiceAddress, open_client, service_environment
from loadtest.participants import SpecimenNumbers
from serving.client import CallFailed, Options

DIMENSION = 128
BATCH_ROWS = 8_192
TAG = "REFS"


def write_references(path: Path, count: int, seed: int) -> Path:
    """Writes synthetic references as a Parquet file for `sosie import`."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise LoadTestRefused(
            f"references are imported from Parquet: {advise_extra('desk')}, or give --references 0"
        ) from error
    schema = pa.schema(
        [
            ("document_number", pa.string()),
            ("name", pa.string()),
            ("template", pa.list_(pa.float32())),
        ]
    )
    numbers = SpecimenNumbers(TAG, 0, datetime.now(UTC).year)
    with parquet.ParquetWriter(str(path), schema) as writer:
        for first, vectors in _draw(count, seed):
            made = [numbers.passport(first + place) for place in range(len(vectors))]
            columns = [
                pa.array([one.number for one in made]),
                pa.array([one.name for one in made]),
                pa.array(list(vectors), pa.list_(pa.float32())),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return path


def _draw(count: int, seed: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    rng = np.random.default_rng(seed)
    for first in range(0, count, BATCH_ROWS):
        drawn = rng.standard_normal((min(BATCH_ROWS, count - first), DIMENSION), np.float32)
        yield first, drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


HOST = "127.0.0.1"
CARRIER, OUTLET = "loadtest", "loadtest-1"
LINE_LIMIT = "1000000"
"""Holders open more lines as long as the load goes on."""
COMMAND_S, START_S, STOP_S, READY_S, POLL_S = 900.0, 600.0, 120.0, 5.0, 0.1
SHOWN_CHARACTERS = 1_000
PREFIX, OWNER = "sosie-loadtest-", "owner"


@contextmanager
def start_local_service(
    disk: Path | None, references: int, seed: int
) -> Iterator[tuple[ServiceAddress, Keys]]:
    """Starts a service with so many synthetic references; it is always stopped and deleted."""
    shared = Path(tempfile.gettempdir()) if disk is None else disk
    remove_left(shared)
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=shared))
        owner = (folder / OWNER).open("wb")
    except OSError as error:
        raise LoadTestRefused(
            f"no folder can be made for the local service: {error.strerror}; give --folder DIR"
        ) from None
    fcntl.flock(owner, fcntl.LOCK_EX)
    try:
        home = folder / "home"
        keys = _make_home(home, folder, references, seed)
        with _serve(home, folder / "serve.log") as target:
            yield target, keys
    finally:
        with signals_ignored(), owner:
            shutil.rmtree(folder, ignore_errors=True)


def remove_left(shared: Path) -> None:
    """Removes the folders of load tests that were killed: nobody holds the lock in them."""
    for left in shared.glob(f"{PREFIX}*/{OWNER}"):
        with suppress(OSError), left.open("wb") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left.parent, ignore_errors=True)


def _make_home(home: Path, folder: Path, references: int, seed: int) -> Keys:
    _run("init", str(home))
    named = ("--name", "Load test", "--line-limit", LINE_LIMIT)
    _run("--home", str(home), "carrier", "add", CARRIER, *named)
    _run("--home", str(home), "outlet", "add", OUTLET, "--carrier", CARRIER)
    if references:
        _import(home, write_references(folder / "references.parquet", references, seed))
    return Keys(
        enroll=_add_key(home, "outlet", "--carrier", CARRIER, "--outlet", OUTLET),
        fraud=_add_key(home, "fraud", "--person", "load test"),
    )


def _import(home: Path, file: Path) -> None:
    arguments = ["--home", str(home), "import", str(file), "--set", "document_type=passport"]
    # An import without a model digest is refused with a message that names the home's own.
    refused = _ask(*arguments)
    named = re.search(r"--model-digest ([0-9a-f]{64})", refused.stdout + refused.stderr)
    if named is None:
        raise LoadTestRefused("`sosie import` does not say which model the home has")
    _run(*arguments, "--model-digest", named[1], "--no-count-look-alikes", "--json")


def _add_key(home: Path, role: str, *bounds: str) -> str:
    printed = _run("--home", str(home), "apikey", "add", "--role", role, *bounds, "--json")
    return str(json.loads(printed)["key"])


def _run(*arguments: str) -> str:
    """Standard output of a `sosie` command; `LoadTestRefused` with its message if it fails."""
    done = _ask(*arguments)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-SHOWN_CHARACTERS:]
        raise LoadTestRefused(f"a command on the local service's home failed: {said}")
    return done.stdout


def _ask(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [*_command(), *arguments],
            env=service_environment({}),
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LoadTestRefused(
            f"a command on the local service's home took longer than {COMMAND_S:.0f} s: give fewer "
            "--references, or a faster disk as --folder"
        ) from None


def _command() -> Sequence[str]:
    return (sys.executable, "-P", "-m", "serving.cli.main")


UNBOUNDED = {
    "SOSIE_SERVE__RATE_LIMIT": "0",
    "SOSIE_SERVE__KEY_SHARE": "1",
    "SOSIE_LIMITS__HOLDER_FAILURES": "0",
    "SOSIE_LIMITS__HOLDER_SHOWN": "0",
    "SOSIE_LIMITS__OUTLET_KEY_FAILURES": "0",
    "SOSIE_LIMITS__KEY_FAILURES": "0",
}
"""Two keys ask for a whole country, and plant frauds: bounds by key would measure themselves."""


@contextmanager
def _serve(home: Path, log: Path) -> Iterator[ServiceAddress]:
    target = ServiceAddress(HOST, _find_port())
    changes = {"SOSIE_SERVE__PORT": str(target.port), **UNBOUNDED}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*_command(), "--home", str(home), "serve", "--until-stdin-closes"],
            env=service_environment(changes),
            # Held open: killed outright, the load test takes the service along.
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for the load test, which then stops the service itself.
            start_new_session=True,
        )
    try:
        _wait_ready(process, target, log)
        yield target
    finally:
        # A second interrupt must not delete the folder of a service that still runs.
        with signals_ignored():
            _stop(process)


def _wait_ready(process: subprocess.Popen[bytes], target: ServiceAddress, log: Path) -> None:
    end = time.monotonic() + START_S
    with open_client(target, retries=0) as client:
        while time.monotonic() < end and process.poll() is None:
            with suppress(CallFailed):
                if client.ready(Options(timeout_s=READY_S)).is_ready:
                    return
            time.sleep(POLL_S)
    text = " ".join(log.read_text(encoding="utf-8", errors="replace").split())
    raise LoadTestRefused(f"the service did not start: {text[-SHOWN_CHARACTERS:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Sends SIGTERM, as an operator does, and kills by process id what has not ended in time."""
    processes = _list_processes(process.pid)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            if one.is_running():
                os.kill(one.pid, signal.SIGKILL)
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


def _list_processes(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    return []


def _find_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])
