"""One action, repeated by pytest-benchmark, and whether what it returned is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.report import Setup

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

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
    faces: str = ""


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
