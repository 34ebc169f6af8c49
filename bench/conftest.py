"""Benchmarks under pytest-benchmark: their sizes, a clean environment, and reports with goals.

A module test_NAME.py is the suite NAME of targets.toml.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bench.core.reports import Measured, Result, Setup

Clock = Callable[..., Any]
Note = Callable[["Result"], None]

STEERING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


@dataclass(slots=True)
class BenchmarkRun:
    """Results without a clock, and by suite its configuration, if it has one, and the figures that
    goals name, measured or as (group, slow, fast): how many times as fast."""

    results: list[Result] = field(default_factory=list)
    measured: dict[str, dict[str, Measured]] = field(default_factory=dict)
    speedups: dict[str, Mapping[str, tuple[str, str, str]]] = field(default_factory=dict)
    configs: dict[str, Any] = field(default_factory=dict)


RUN = pytest.StashKey[BenchmarkRun]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sosie", "what Sosie's benchmarks are run with")
    group.addoption("--quick", action="store_true", help="Small sizes: to try it, not to measure.")
    group.addoption("--n", type=int, help="References, or rows of a scan.")
    group.addoption("--dim", type=int, default=128, help="Dimensions of a face.")
    group.addoption("--seed", type=int, default=0, help="Of everything drawn at random.")


def pytest_configure(config: pytest.Config) -> None:
    # numpy's BLAS reads them when it is loaded, which is when the first benchmark is collected.
    if os.environ.keys() & set(STEERING):
        if "numpy" in sys.modules:
            raise pytest.UsageError(f"numpy is loaded already: unset {' and '.join(STEERING)}")
        for name in STEERING:
            os.environ.pop(name, None)
    config.stash[RUN] = BenchmarkRun()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # Indexes of a million take longer to build than a test may hang.
        item.add_marker(pytest.mark.timeout(0))


def pytest_collection_finish(session: pytest.Session) -> None:
    run = session.config.stash[RUN]
    for module in {item.module for item in session.items if isinstance(item, pytest.Function)}:
        name = name_suite(module)
        run.speedups[name] = getattr(module, "SPEEDUPS", {})
        try:
            run.configs[name] = getattr(module, "configure", lambda _: None)(session.config)
        except Exception as error:
            raise pytest.UsageError(str(error)) from error


def name_suite(module: Any) -> str:
    return str(module.__name__.rpartition("test_")[2])


@pytest.fixture
def clock(benchmark: Any) -> Clock:
    """`clock(group, name, action, setup, rounds=…)` times an action, each time after a pause.

    Without `rounds` it is repeated without a pause, as often as pytest-benchmark finds right.
    `per`: how many items it is for; times are of one, in `unit`. Returns the statistics in seconds
    a call.
    """

    def perform(
        group: str,
        name: str,
        action: Callable[[], object],
        setup: Setup,
        *,
        rounds: int | None,
        per: int = 1,
        unit: str = "ms",
    ) -> Any:
        from bench.core.machine import PAUSE_S
        from bench.core.reports import SECONDS

        benchmark.group, benchmark.name = group, name
        scale = SECONDS[unit.partition("/")[0]] / per
        benchmark.extra_info |= {"unit": unit, "scale": scale, "setup": setup}
        if rounds is None:
            benchmark(action)
        else:
            rest = partial(time.sleep, PAUSE_S)
            benchmark.pedantic(action, setup=rest, rounds=rounds, warmup_rounds=1)
        return benchmark.stats.stats

    return perform


@pytest.fixture(scope="module")
def note(pytestconfig: pytest.Config) -> Note:
    """Notes a result that has no clock."""
    return pytestconfig.stash[RUN].results.append


@pytest.fixture(scope="module")
def measured(request: pytest.FixtureRequest) -> dict[str, Measured]:
    """The figures of this suite that goals name, beside its `SPEEDUPS`."""
    return request.config.stash[RUN].measured.setdefault(name_suite(request.module), {})


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    from bench.core.machine import look, stamp

    machine_info.clear()
    machine_info |= asdict(look() if config.getoption("--quick") else stamp())


def pytest_benchmark_compare_machine_info(
    machine_info: dict[str, Any], compared_benchmark: dict[str, Any]
) -> None:
    """Another load of the same processor is no other machine: pytest-benchmark, which is asked
    after this, warns of any difference."""
    saved = compared_benchmark["machine_info"]
    if all(saved.get(name) == machine_info[name] for name in ("cpu", "cores")):
        compared_benchmark["machine_info"] = machine_info


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Shows what has no clock."""
    for result in config.stash[RUN].results:
        for figure in result.figures:
            told = figure.skipped or f"{figure.value:.6g} {figure.unit}"
            terminalreporter.write_line(f"{result.name} · {figure.name}: {told}")


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Adds ratios to the first of each group, results without a clock, and checks of goals."""
    from bench.core import reports

    run, entries = config.stash[RUN], output_json["benchmarks"]
    medians = {(one["group"], one["name"]): one["stats"]["median"] for one in entries}
    firsts: dict[str, float] = {}
    for entry in entries:
        median = entry["stats"]["median"]
        entry["extra_info"]["ratio"] = firsts.setdefault(entry["group"], median) / median
    goals = reports.load_goals()
    machine = reports.Report.from_dict(output_json).machine
    checks: list[reports.Check] = []
    for suite, speedups in run.speedups.items():
        known = run.measured.get(suite, {})
        for name, (group, slow, fast) in speedups.items():
            if (group, slow) in medians and (group, fast) in medians:
                known.setdefault(name, medians[group, slow] / medians[group, fast])
        for goal in goals:
            known.setdefault(goal.name, reports.Skipped("it was not run"))
        checks += reports.check_goals(goals, suite, known, machine, run.configs[suite])
    suites = ", ".join(run.speedups)
    noted = reports.Report(machine, tuple(run.results), tuple(checks), suites).to_dict()
    output_json["benchmarks"] = entries + noted["benchmarks"]
    output_json |= {name: noted[name] for name in ("suite", "skipped", "checks")}
