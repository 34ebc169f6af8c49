"""Suite `kernels`: the loops of `indexes` on one core, timed by pytest-benchmark."""

from __future__ import annotations

from dataclasses import dataclass

from bench.core.reports import Measured, Result, Setup
from bench.micro.micro_runner import count_wrong, list_rates, list_results, time_actions
from engine.errors import RequestError

QUICK = {"rows": 16_384, "queries": 64, "blocks": 3, "most_s": 0.03}
RATES = "Rate"
"""How the results begin that say what a kernel does in a second; the docs draw them."""

_DIM_STEP = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelsConfig:
    """Scans of `rows` and of fewer, for one query and for `queries`; `most_s` of each action."""

    rows: int = 262_144
    queries: int = 256
    dim: int = 128
    blocks: int = 3
    most_s: float = 0.5
    seed: int = 0


def run(config: KernelsConfig) -> tuple[tuple[Result, ...], dict[str, Measured]]:
    """All results of the suite, and the figures that its goals name."""
    if config.dim % _DIM_STEP:
        raise RequestError(f"--dim is {config.dim}: give a multiple of {_DIM_STEP}")
    timings = time_actions(
        "test_kernels.py",
        config.most_s,
        rows=config.rows,
        queries=config.queries,
        dim=config.dim,
        blocks=config.blocks,
        seed=config.seed,
    )
    setup: Setup = {"threads": 1, "seed": config.seed}
    # The largest sizes alone say what a kernel reaches.
    rates = list(list_rates(timings, setup, RATES))[-2:]
    results = (*list_results(timings, setup), *rates)
    return results, {"wrong_kernels": float(count_wrong(timings))}
