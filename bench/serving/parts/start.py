"""Part `start`: seconds from `sosie serve` to the first answer that it is ready."""

from __future__ import annotations

from bench.report import Figure, Result
from bench.serving.service import serve
from bench.serving.stage import Found, Stage

PROMISED = ("ready_seconds", "ready_seconds_million")
"""Figures of the two sizes."""


def measure_start(stage: Stage) -> Found:
    """Starts on homes that were filled and closed before; the slowest start counts."""
    sizes = stage.sizes
    results, measured = [], {}
    for name, references in zip(PROMISED, (sizes.references, sizes.million), strict=True):
        home = stage.make_home(f"start-{references}", references)
        seconds = []
        for _ in range(sizes.starts):
            with serve(stage.place(home)) as ready:
                seconds.append(ready.seconds)
        measured[name] = max(seconds)
        figures = (
            Figure.of("ready", "s", seconds),
            Figure("the slowest start", "s", max(seconds)),
        )
        results.append(
            Result("Start of the service", stage.setup(home, starts=sizes.starts), figures)
        )
    return results, dict(measured)
