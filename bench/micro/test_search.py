"""One query and a batch, by one thread; a part of `sosie bench search`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.micro.gallery import list_searches
from bench.micro.micro_runner import Action, Sizes, measure

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


def list_actions(sizes: Sizes) -> list[Action]:
    return list_searches(sizes)


def test_search(benchmark: BenchmarkFixture, action: Action, block: int) -> None:
    measure(benchmark, action, block)
