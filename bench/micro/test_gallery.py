"""Changes of a gallery, one by one; a part of `sosie bench gallery`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.micro.gallery import list_changes
from bench.micro.micro_runner import Action, Sizes, measure

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


def list_actions(sizes: Sizes) -> list[Action]:
    return list_changes(sizes)


def test_change(benchmark: BenchmarkFixture, action: Action, block: int) -> None:
    measure(benchmark, action, block)
