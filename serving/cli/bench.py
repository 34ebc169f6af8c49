"""Benchmarks, the demo and load tests: `bench`, `demo`, `loadtest`."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from serving.cli.inputs import argument, option
from serving.cli.output import JsonFlag, command

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@command("bench", context_settings=PASSED_ON)
def bench(
    context: typer.Context,
    suite: str = argument(
        "kernels, search, join, gallery, registrar, shards, extract, accuracy, import, sweep, "
        "serve; report, docs.",
        "SUITE",
    ),
) -> None:
    """Run a benchmark suite; `report` runs all of them, `pytest-benchmark compare` compares runs.

    Options after its name are its own: --json, --quick for small sizes; for kernels, search, join
    and gallery, --n rows of --dim dimensions; for serve and sweep, --only its PARTS; for
    report, --output DIR; and, for extract, --deepface-python, the PATH of another venv's Python to
    compare with. `sosie bench SUITE -- --help` lists them all.
    """
    import os

    from serving.settings.settings import benchmark_environment

    # Anew: what tunes numpy's BLAS is read when numpy is loaded. -P: a folder named bench where the
    # command happens to run is not ours.
    words = [sys.executable, "-P", "-m", "bench", suite, *context.args]
    os.execve(sys.executable, words, benchmark_environment())  # noqa: S606 - our own interpreter


@command("demo")
def demo(
    faces: Path | None = option("Your own photographs: a folder per person.", "DIR"),
    gallery_size: int = option(
        "Synthetic references that the faces are searched among.",
        None,
        "--gallery",
        default=100_000,
        min=0,
    ),
    as_json: JsonFlag = False,
) -> None:
    """Show every kind of decision on real photographs."""
    from serving.demo.demo_run import run_demo

    raise typer.Exit(run_demo(faces=faces, gallery_size=gallery_size, as_json=as_json))


@command("loadtest", context_settings=PASSED_ON)
def loadtest(
    context: typer.Context, shape: str = argument("smoke, steady, spike, knee, soak.", "SHAPE")
) -> None:
    """Load a service, and compare every decision with the planned one.

    Without --url it starts a service of its own over a temporary home. Fails on latency, on errors
    and on a wrong decision. Options after the shape: --rate, --seconds, --class, --p99-ms, --html
    FILE, --json; `sosie loadtest SHAPE -- --help` lists them all.
    """
    import os

    # Anew: gevent replaces sockets and threads of the whole interpreter. -P: a folder named
    # loadtest where the command happens to run is not ours.
    words = [sys.executable, "-P", "-m", "loadtest", shape, *context.args]
    os.execv(sys.executable, words)  # noqa: S606 - our own interpreter
