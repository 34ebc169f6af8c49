"""The promises as the project made them: a goal that is moved or dropped fails here."""

import pytest

from bench.core.reports import load_goals

PROMISED = {
    ("accuracy", "fnmr_at_fmr_1e-4"): ("at_most", 0.03),
    ("accuracy", "verify_fmr_least"): ("at_least", 0.00005),
    ("accuracy", "verify_fmr_most"): ("at_most", 0.00015),
    ("accuracy", "verify_fnmr"): ("at_most", 0.025),
    ("accuracy", "turned_loss"): ("at_most", 0.015),
    ("accuracy", "silent_loss"): ("at_most", 0.05),
    ("accuracy", "needless_refusals"): ("at_most", 0.15),
    ("accuracy", "bystander_wrong"): ("at_most", 0),
    ("accuracy", "bystander_refused"): ("at_most", 0.05),
    ("accuracy", "fta"): ("at_most", 0.0005),
    ("accuracy", "evaluate_seconds"): ("at_most", 110),
    ("extract", "pairs_per_second"): ("at_least", 48),
    ("extract", "deepface_speedup"): ("at_least", 3),
    ("extract", "help_seconds"): ("at_most", 0.4),
    ("extract", "verify_seconds"): ("at_most", 1.5),
    ("registrar", "decisions_per_second"): ("at_least", 500),
    ("registrar", "wrong_decisions"): ("at_most", 0),
    ("registrar", "gallery_difference"): ("at_most", 0),
    ("shards", "identical_answers"): ("at_least", 1),
    ("shards", "gallery_difference"): ("at_most", 0),
    ("shards", "replayed_needlessly"): ("at_most", 0),
    ("shards", "sharded_batch_speedup"): ("at_least", 0.5),
    ("shards", "one_shard_speedup"): ("at_least", 1.3),
    ("kernels", "wrong_kernels"): ("at_most", 0),
    ("search", "identical_answers"): ("at_least", 1),
    ("search", "one_query_speedup"): ("at_least", 6),
    ("search", "one_query_over_memory"): ("at_most", 1.25),
    ("search", "batch_speedup"): ("at_least", 12),
    ("join", "identical_pairs"): ("at_least", 1),
    ("join", "all_pairs_seconds"): ("at_most", 150),
    ("join", "comparisons_per_second"): ("at_least", 3.3e9),
    ("join", "share_of_ceiling"): ("at_least", 0.6),
    ("join", "flat_speedup"): ("at_least", 10),
    ("gallery", "bytes_per_reference"): ("at_most", 730),
    ("gallery", "open_over_build"): ("at_most", 1.5),
    ("gallery", "add_microseconds"): ("at_most", 50),
    ("gallery", "unseen_adds"): ("at_most", 0),
    ("gallery", "missed_references"): ("at_most", 0),
    ("gallery", "snapshot_answers"): ("at_least", 1),
    ("import", "photographs_per_second"): ("at_least", 95),
    ("sweep", "planted_pairs_found"): ("at_least", 1.0),
    ("sweep", "adjusted_rand"): ("at_least", 0.99),
    ("sweep", "sprung_traps"): ("at_most", 0),
    ("sweep", "sweep_seconds"): ("at_most", 180),
    ("sweep", "sweep_peak_gb"): ("at_most", 3),
    ("sweep", "new_pairs_found"): ("at_least", 1.0),
    ("sweep", "new_seconds"): ("at_most", 5),
    ("serve", "enrollment_share"): ("at_least", 0.85),
    ("serve", "enrollment_cost"): ("at_most", 1.15),
    ("serve", "proxy_speedup"): ("at_least", 6),
    ("serve", "matches_per_second"): ("at_least", 3_000),
    ("serve", "batched_comparisons_per_second"): ("at_least", 50_000),
    ("serve", "searches_per_second"): ("at_least", 1_000),
    ("serve", "wrong_searches"): ("at_most", 0),
    ("serve", "match_calm_p99_over_p50"): ("at_most", 3),
    ("serve", "match_storm_p99_over_calm"): ("at_most", 2),
    ("serve", "match_refusal_over_calm"): ("at_most", 1.5),
    ("serve", "match_recovery_over_storm"): ("at_most", 1),
    ("serve", "match_unexpected"): ("at_most", 0),
    ("serve", "enroll_calm_p99_over_p50"): ("at_most", 3),
    ("serve", "enroll_storm_p99_over_calm"): ("at_most", 2),
    ("serve", "enroll_refusal_over_calm"): ("at_most", 0.6),
    ("serve", "enroll_recovery_over_storm"): ("at_most", 1),
    ("serve", "enroll_unexpected"): ("at_most", 0),
    ("serve", "memory_growth"): ("at_most", 0.03),
    ("serve", "ready_seconds"): ("at_most", 20),
    ("serve", "ready_seconds_million"): ("at_most", 30),
    ("serve", "kills"): ("at_least", 50),
    ("serve", "lost_enrollments"): ("at_most", 0),
    ("serve", "doubled_enrollments"): ("at_most", 0),
    ("serve", "final_failures"): ("at_most", 0),
}


@pytest.mark.parametrize(("suite", "name"), PROMISED)
def test_every_promised_figure_has_its_goal(suite: str, name: str) -> None:
    goals = {(goal.suite, goal.name): goal for goal in load_goals()}
    goal = goals[suite, name]
    assert (goal.direction.value, goal.goal) == PROMISED[suite, name]


def test_no_goal_stands_outside_the_promises() -> None:
    assert {(goal.suite, goal.name) for goal in load_goals()} == set(PROMISED)


def test_every_goal_in_a_time_or_a_rate_names_the_kernel_that_bounds_it() -> None:
    """But for what is promised on any machine."""
    absolute = {"add_beside_passes_ms", "sequence_beside_passes_ms"}
    for goal in load_goals():
        is_timed = goal.unit in {"s", "ms", "us"} or goal.unit.endswith("/s")
        assert not is_timed or goal.kernel or goal.name in absolute, goal.name


def test_every_goal_says_what_it_is_in_one_line() -> None:
    for goal in load_goals():
        assert goal.unit
        assert goal.description
        assert "\n" not in goal.description
