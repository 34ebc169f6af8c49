"""Blocks of a suite made one report: medians, noise, and no error that is averaged away."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.blocks import key_all, merge_blocks, spread
from bench.machine import Machine
from bench.report import Check, Figure, Report, Result

MACHINE = Machine(
    cpu="one",
    flags=(),
    cores=2,
    memory_bytes=1,
    copy_gb_per_s=1.0,
    system="",
    python="",
    packages={},
    load_at_start=0.0,
    warnings=(),
)


def block(speed: float, *checks: Check, ratio: float = 2.0) -> Report:
    figures = (
        Figure("ours", "ms", speed, speed - 1, speed + 1, ratio),
        Figure("pairs", "pairs", 7.0),
        Figure.skip("theirs", "ms", "not here"),
    )
    results = (Result("Speed", {"references": 10}, figures),)
    return Report(MACHINE, results, checks, "search")


def test_a_figure_of_blocks_is_their_median_and_its_noise_what_they_differ_by() -> None:
    merged = merge_blocks([block(10, ratio=2.0), block(12, ratio=2.2), block(11, ratio=2.1)])
    ours, pairs, theirs = merged.results[0].figures
    assert (ours.value, ours.low, ours.high, ours.ratio) == (11, 10, 12, 2.1)
    # The expected range of three normal values is 1.693 standard deviations.
    assert ours.noise == pytest.approx(2 / 1.693 / 11)
    assert ours.ratio_noise == pytest.approx(0.2 / 1.693 / 2.1)
    assert pairs.noise == 0
    assert theirs.skipped == "not here"
    assert merged.blocks == 3


def test_one_block_has_no_noise_to_state() -> None:
    assert merge_blocks([block(10)]) == block(10)
    assert spread([4.0]) is None
    assert spread([0.0, 0.0, 0.0]) is None


def test_one_block_that_errs_fails_the_report_and_one_slow_block_does_not() -> None:
    def checked(same: float, speedup: float) -> Report:
        return block(
            10,
            Check("identical_answers", same, 1.0, same >= 1),
            Check("one_query_speedup", speedup, 6.0, speedup >= 6),
        )

    merged = merge_blocks([checked(1.0, 7.0), checked(0.99, 5.0), checked(1.0, 8.0)])
    assert [check.value for check in merged.checks] == [0.99, 7.0]
    assert [check.holds for check in merged.checks] == [False, True]


def test_a_skipped_promise_stays_skipped() -> None:
    skipped = Check("one_query_speedup", None, 6.0, None, "promised for a million")
    assert merge_blocks([block(1, skipped), block(2, skipped)]).checks == (skipped,)


def test_an_error_counts_though_another_block_did_not_look_for_it() -> None:
    skipped = Check("identical_answers", None, 1.0, None, "left out")
    wrong = Check("identical_answers", 0.99, 1.0, holds=False)
    (check,) = merge_blocks([block(1, skipped), block(2, wrong)]).checks
    assert (check.value, check.holds) == (0.99, False)


def test_what_a_block_lacks_is_taken_from_the_others() -> None:
    short = replace(block(9), results=())
    (ours, *_) = merge_blocks([block(10), short, block(12)]).results[0].figures
    assert ours.value == 11


def test_figures_of_one_name_are_told_apart_by_unit_and_order() -> None:
    figures = [Figure("save", "s", 1.0), Figure("save", "MB", 2.0), Figure("save", "s", 3.0)]
    assert [key for key, _ in key_all(figures)] == [
        ("save", "s", 0),
        ("save", "MB", 0),
        ("save", "s", 1),
    ]


@given(st.lists(st.floats(1, 100), min_size=2, max_size=8), st.floats(0.5, 20))
def test_noise_is_a_share_and_does_not_depend_on_the_unit(values: list[float], by: float) -> None:
    assert spread([value * by for value in values]) == pytest.approx(spread(values), abs=1e-12)
