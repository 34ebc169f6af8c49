"""Runs micro-benchmarks in a process of their own, and makes results of pytest-benchmark's JSON.

A ratio is of two actions in one block, the median over blocks.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bench.core.reports import Figure, Result, Setup, spread
from engine.errors import RequestError

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


# One action, repeated by pytest-benchmark, and whether what it returned is right.

Prepared = tuple[Callable[[], Any], Callable[[Any], bool]]
"""What is timed, and what judges the last thing that it returned."""

PLANNED = "planned"
"""Where pytest-benchmark's JSON has the names of all actions, block by block."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the largest data; some actions take less."""

    rows: int
    queries: int
    dim: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What `who` does for the result of that name; the first of a result is what others are to.

    `work`: 1e9 operations or bytes, where a rate is of interest, and the rate's unit.
    """

    result: str
    who: str
    prepare: Callable[[], Prepared]
    setup: Setup = field(default_factory=dict)
    work: float | None = None
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.result}: {self.who}".replace(" ", "_")


def measure(benchmark: BenchmarkFixture, action: Action, block: int) -> None:
    """Times the action and notes what the suite's report needs of it."""
    act, judge = action.prepare()
    is_right = judge(benchmark(act))
    benchmark.extra_info |= {
        "result": action.result,
        "who": action.who,
        "block": block,
        "setup": action.setup,
        "work": action.work,
        "unit": action.unit,
        "is_right": is_right,
    }
    assert is_right, "not the right answer"


MICRO = Path(__file__).parent

# Other plugins have nothing to do here, and take a second to load.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
}
_WARM_UP = 2
_PLUGIN = "pytest_benchmark"


@dataclass(frozen=True, slots=True)
class Timing:
    """One action in one block: seconds of a call, and what was done in it."""

    result: str
    who: str
    block: int
    median: float
    low: float
    high: float
    rounds: int
    is_right: bool
    setup: Setup
    work: float | None
    unit: str

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Timing:
        """An entry of pytest-benchmark's JSON."""
        info, stats = document["extra_info"], document["stats"]
        return cls(
            result=info["result"],
            who=info["who"],
            block=info["block"],
            median=stats["median"],
            low=stats["q1"],
            high=stats["q3"],
            rounds=stats["rounds"],
            is_right=info["is_right"],
            setup=info["setup"],
            work=info["work"],
            unit=info["unit"],
        )


def time_actions(file: str, most_s: float, **options: object) -> list[Timing]:
    """Those of one `test_*.py`, each for `most_s` seconds; `options` are those of the conftest.

    `RequestError` where one of them was not timed in every block: it raised.
    """
    if find_spec(_PLUGIN) is None:
        raise RequestError("no pytest-benchmark: pip install 'sosie[bench]'")
    with TemporaryDirectory(prefix="sosie-bench-") as folder:
        path = Path(folder) / "benchmark.json"
        done = subprocess.run(
            _command(file, most_s, path, options),
            env=_make_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
    # 1: an answer was not right, which the document tells too, or something raised, which it hides.
    if done.returncode not in (0, 1) or not text:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise RequestError(f"pytest ended with {done.returncode}: {' '.join(last)[:200]}")
    return _read_timings(json.loads(text), file)


def _read_timings(document: Mapping[str, Any], file: str) -> list[Timing]:
    # Without notes of its own a call was timed and then failed before anybody judged it.
    timed = {one["fullname"]: one for one in document["benchmarks"] if one["extra_info"]}
    missing = [name for name in document[PLANNED] if name not in timed]
    if missing:
        raise RequestError(
            f"{len(missing)} of {len(document[PLANNED])} actions raised, first "
            f"{missing[0].partition('::')[2]}: run pytest {MICRO / file}"
        )
    return [Timing.from_dict(one) for one in timed.values()]


def count_wrong(timings: Sequence[Timing]) -> int:
    """Actions that did not return what they should."""
    return sum(not one.is_right for one in timings)


def list_results(timings: Sequence[Timing], setup: Setup) -> Iterator[Result]:
    """A result for each name, in their order; times as good: as the first of it."""
    for name in dict.fromkeys(one.result for one in timings):
        mine = [one for one in timings if one.result == name]
        blocks = {"blocks": len({one.block for one in mine})}
        yield Result(name, setup | mine[0].setup | blocks, tuple(_list_times(mine)))


def list_rates(timings: Sequence[Timing], setup: Setup, prefix: str) -> Iterator[Result]:
    """The same as operations or bytes a second: what was asked for, whoever does more for it."""
    for name in dict.fromkeys(one.result for one in timings if one.work is not None):
        mine = [one for one in timings if one.result == name]
        called = f"{prefix}, {name[0].lower()}{name[1:]}"
        yield Result(called, setup | mine[0].setup, tuple(_list_rates(mine)))


def _make_environment() -> dict[str, str]:
    """Ours, without what is said to a pytest around us: options, or that it is one of several."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return own | _ENVIRONMENT


def _command(file: str, most_s: float, path: Path, options: Mapping[str, object]) -> list[str]:
    chosen = dict(options) | {
        "benchmark-json": path,
        "benchmark-max-time": most_s,
        "benchmark-min-time": 0.0005,
        "benchmark-warmup": "on",
        "benchmark-warmup-iterations": _WARM_UP,
    }
    tests = [str(MICRO / file), "-c", str(MICRO / "pytest.ini"), "--quiet", "--benchmark-only"]
    plugins = ["-p", "benchmark", "-p", "no:cacheprovider"]
    values = [f"--{name}={value}" for name, value in chosen.items()]
    return [sys.executable, "-P", "-m", "pytest", *tests, *plugins, *values]


def _by_who(timings: Sequence[Timing]) -> dict[str, list[Timing]]:
    """Those of each contender, block after block."""
    found: dict[str, list[Timing]] = {}
    for one in sorted(timings, key=lambda timing: timing.block):
        found.setdefault(one.who, []).append(one)
    return found


def _list_times(timings: Sequence[Timing]) -> Iterator[Figure]:
    blocks = _by_who(timings)
    base = next(iter(blocks.values()))
    largest = max(one.median for one in timings)
    unit, scale = ("ms", 1e3) if largest >= 1e-3 else ("us", 1e6)
    for who, mine in blocks.items():
        ratios = [one.median / other.median for one, other in zip(base, mine, strict=True)]
        yield Figure(
            name=who,
            unit=unit,
            value=statistics.median(one.median for one in mine) * scale,
            low=statistics.median(one.low for one in mine) * scale,
            high=statistics.median(one.high for one in mine) * scale,
            ratio=statistics.median(ratios),
            noise=spread([one.median for one in mine]),
            ratio_noise=spread(ratios),
            repeats=min(one.rounds for one in mine),
        )


def _list_rates(timings: Sequence[Timing]) -> Iterator[Figure]:
    for who, mine in _by_who(timings).items():
        work = mine[0].work
        assert work is not None
        yield Figure(
            name=who,
            unit=mine[0].unit,
            value=work / statistics.median(one.median for one in mine),
            low=work / statistics.median(one.high for one in mine),
            high=work / statistics.median(one.low for one in mine),
            noise=spread([one.median for one in mine]),
            repeats=min(one.rounds for one in mine),
        )


def measure_actions(file: str, most_s: float, setup: Setup, **options: object) -> list[Result]:
    """Results of one file as a part of a suite; nothing of them for no time.

    Skipped where pytest-benchmark is not installed; a wrong answer is a `RequestError`.
    """
    if not most_s:
        return []
    if find_spec(_PLUGIN) is None:
        missing = Figure.skip("single actions", "ms", "not installed: pip install 'sosie[bench]'")
        return [Result("Single actions, by pytest-benchmark", setup, (missing,))]
    timings = time_actions(file, most_s, **options)
    if count_wrong(timings):
        raise RequestError(f"an action gave a wrong answer: run pytest {MICRO / file}")
    return list(list_results(timings, setup))
