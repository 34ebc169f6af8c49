"""How long a command takes from nothing: a new process, its imports, its models."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.checks import Measured, Skipped
from bench.photographs import PhotographPairs
from bench.report import Figure, Result, Setup
from bench.timing import Timed, interleave, timed
from engine.errors import RequestError

PYTHON, HELP, VERIFY = "python -c pass", "sosie --help", "sosie verify A B"
FIGURES = {HELP: "help_seconds", VERIFY: "verify_seconds"}


def measure_startup(
    photographs: PhotographPairs, rounds: int, cache: Path
) -> tuple[Result, dict[str, Measured]]:
    """Whole processes, interleaved; the round that is not counted warms the cache."""
    command = Path(sys.executable).with_name("sosie")
    setup: Setup = {"rounds": rounds}
    if not command.is_file():
        reason = f"no command sosie beside {sys.executable}: pip install it there"
        skipped = tuple(Figure.skip(name, "s", reason) for name in FIGURES)
        return Result("Start", setup, skipped), dict.fromkeys(FIGURES.values(), Skipped(reason))
    one, two = photographs.pairs[0]
    seconds = interleave(
        {
            PYTHON: _start([sys.executable, "-c", "pass"], cache),
            HELP: _start([str(command), "--help"], cache, saying="Usage"),
            VERIFY: _start(
                [str(command), "verify", str(one), str(two), "--json"], cache, saying='"score"'
            ),
        },
        rounds,
    )
    figures = tuple(Figure.of(name, "s", values) for name, values in seconds.items())
    medians: dict[str, Measured] = {
        figure: float(np.median(seconds[name])) for name, figure in FIGURES.items()
    }
    return Result("Start", setup, figures), medians


def _start(command: Sequence[str], cache: Path, saying: str = "") -> Timed:
    # The status alone would not do: `verify` ends with 1 for a mismatch, Python for a crash.
    environment = os.environ | {"SOSIE_CACHE": str(cache)}

    def perform() -> None:
        ended = subprocess.run(command, env=environment, capture_output=True, check=False)
        if ended.returncode not in (0, 1) or saying.encode() not in ended.stdout:
            name = Path(command[0]).name
            raise RequestError(
                f"`{name} {command[1]}` ended with status {ended.returncode}: run it by hand"
            )

    return timed(perform)
