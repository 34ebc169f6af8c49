"""The steps from a photograph to a vector, one thread; a part of `sosie bench extract`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.micro.extraction import list_steps
from bench.micro.micro_runner import Action, Sizes, measure

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


def list_actions(sizes: Sizes) -> list[Action]:
    return list_steps(sizes)


def test_step(benchmark: BenchmarkFixture, action: Action, block: int) -> None:
    measure(benchmark, action, block)
