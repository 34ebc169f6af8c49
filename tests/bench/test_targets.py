"""The promises as the project made them: a goal that is moved or dropped fails here."""

import hashlib

from bench.core.reports import load_goals

PROMISED = "dc75208a6d4aae0b3585d1b446617f5a0fc253d499ff702755bce9949f27bb7b"
"""Of all goals with their suites, names, directions and values: who changes one changes it too."""


def test_no_goal_is_moved_dropped_or_added_unseen() -> None:
    goals = sorted((one.suite, one.name, one.direction.value, one.goal) for one in load_goals())
    assert hashlib.sha256(repr(goals).encode()).hexdigest() == PROMISED, goals


def test_every_goal_in_a_time_or_a_rate_names_the_kernel_that_bounds_it() -> None:
    """But for what is promised on any machine."""
    absolute = {"add_beside_passes_ms", "sequence_beside_passes_ms"}
    for goal in load_goals():
        is_timed = goal.unit in {"s", "ms", "us"} or goal.unit.endswith("/s")
        assert not is_timed or goal.kernel or goal.name in absolute, goal.name
