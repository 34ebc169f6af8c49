"""The kernels of `indexes`; `sosie bench kernels` makes a report of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.micro.actions import Action, Sizes, measure
from bench.micro.scanning import list_scans
from bench.micro.scoring import list_scorings

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


def list_actions(sizes: Sizes) -> list[Action]:
    return [*list_scans(sizes), *list_scorings(sizes)]


def test_kernel(benchmark: BenchmarkFixture, action: Action, block: int) -> None:
    measure(benchmark, action, block)
