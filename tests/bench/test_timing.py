from collections.abc import Callable

import numpy as np

from bench.core.machine import interleave, speedup


def test_rounds_are_interleaved_and_the_first_is_not_counted() -> None:
    order: list[str] = []

    def act(name: str) -> Callable[[], float]:
        def perform() -> float:
            order.append(name)
            return float(len(order))

        return perform

    seconds = interleave({"a": act("a"), "b": act("b")}, rounds=3)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert seconds["a"].tolist() == [3, 6, 7]
    assert seconds["b"].tolist() == [4, 5, 8]


def test_a_slow_moment_that_meets_both_leaves_the_speedup_alone() -> None:
    slow, fast = np.array([2.0, 20.0, 2.0]), np.array([1.0, 10.0, 1.0])
    assert speedup(slow, fast) == 2
