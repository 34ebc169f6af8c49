"""The kernels of `indexes`; `sosie bench kernels` makes a report of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.micro.kernels import list_scans, list_scorings
from bench.micro.micro_runner import Action, Sizes, measure

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


def list_actions(sizes: Sizes) -> list[Action]:
    return [*list_scans(sizes), *list_scorings(sizes)]


def test_kernel(benchmark: BenchmarkFixture, action: Action, block: int) -> None:
    measure(benchmark, action, block)
