"""A local service for a load test: `sosie serve` over a temporary home, deleted at the end.

It can hold synthetic references, unit vectors in every direction. They cost a search what faces
cost, and resemble nobody: in 128 dimensions a face scores above 0.47 with one in a hundred million,
and who does takes no part.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import advise_extra, file_errors
from loadtest.errors import LoadTestRefused, signals_ignored
from loadtest.exchange import Keys, ServiceAddress, service_environment
from loadtest.participants import SpecimenNumbers
from schema.options import NO_LIMITS
from serving.cluster.environment import OwnedFolder
from serving.cluster.processes import ChildService

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
COMMAND_S = 900.0
SHOWN_CHARACTERS = 1_000
PREFIX = "sosie-loadtest-"


@contextmanager
def start_local_service(
    disk: Path | None, references: int, seed: int
) -> Iterator[tuple[ServiceAddress, Keys]]:
    """Starts a service with so many synthetic references; it is always stopped and deleted, as are
    those of load tests that were killed."""
    with file_errors(
        "no folder can be made for the local service", LoadTestRefused, then="; give --folder DIR"
    ):
        folder = OwnedFolder(PREFIX, Path(tempfile.gettempdir()) if disk is None else disk)
    try:
        home = folder.path / "home"
        keys = _make_home(home, folder.path, references, seed)
        service = ChildService(home, service_environment(UNBOUNDED))
        try:
            service.wait_ready(time.perf_counter())
            yield ServiceAddress(HOST, service.port), keys
        finally:
            # A second interrupt must not delete the folder of a service that still runs.
            with signals_ignored():
                service.stop()
    finally:
        with signals_ignored():
            folder.close()


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
            [sys.executable, "-P", "-m", "serving.cli.main", *arguments],
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


UNBOUNDED = {
    "SOSIE_SERVE__RATE_LIMIT": "0",
    "SOSIE_SERVE__KEY_SHARE": "1",
    **{f"SOSIE_LIMITS__{name.upper()}": str(one) for name, one in asdict(NO_LIMITS).items()},
}
"""Two keys ask for a whole country, and plant frauds: bounds by key would measure themselves."""
