"""What can be compared at all, and what is missing: neither passes in silence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.core.compare import compare
from bench.core.reports import Report, Setup
from engine.errors import RequestError
from tests.bench.frozen import changed, make_search, times


@pytest.fixture(scope="module")
def search() -> Report:
    return make_search()


def set_up(report: Report, **settings: str | float) -> Report:
    """The report of a run that measured something else."""
    setup: Setup = settings
    return replace(
        report, results=tuple(replace(one, setup=one.setup | setup) for one in report.results)
    )


@pytest.mark.parametrize(
    ("name", "before", "now"),
    [
        ("seed", 0, 1),
        ("filesystem", "ext4", "tmpfs"),
        ("photographs", "lfw/images", "scikit-image astronaut"),
        ("threshold", 0.5703, 0.62),
        ("has_graph", True, False),
    ],
)
def test_another_setting_of_any_kind_is_another_measurement(
    search: Report, name: str, before: str | float, now: str | float
) -> None:
    comparison = compare(
        {"search": set_up(search, **{name: before})}, {"search": set_up(search, **{name: now})}
    )
    assert {pair.kind for pair in comparison.pairs} == {"promise"}
    assert f"{name.replace('_', ' ')} {before} before, {now} now" in comparison.notes[0]


@pytest.mark.parametrize(
    ("name", "before", "now"),
    [
        ("rounds", 15, 7),
        ("mates", 1_000, 998),
        ("deepface", "deepface 0.0.103", "deepface 0.0.104"),
        ("threshold", 0.5703, 0.5702604651451111),
    ],
)
def test_what_came_out_and_how_often_it_was_asked_are_no_settings(
    search: Report, name: str, before: str | float, now: str | float
) -> None:
    old, new = (set_up(search, **{name: value}) for value in (before, now))
    slow = changed(new, times(5.0, "exact8, the gallery", "ms"))
    comparison = compare({"search": old}, {"search": slow})
    assert comparison.notes == ()
    assert comparison.regressions


def test_a_slower_kernel_is_a_regression_and_no_other_measurement(search: Report) -> None:
    slow = changed(set_up(search, kernel="avx2"), times(5.0, "exact8, the gallery", "ms"))
    comparison = compare({"search": search}, {"search": slow})
    assert comparison.regressions
    assert comparison.notes == ("search: kernel vnni before, avx2 now: compared all the same",)


def test_a_suite_that_the_later_run_lacks_fails_it_and_says_why(search: Report) -> None:
    old = {"search": search, "join": search, "serve": search}
    comparison = compare(old, {"search": search}, {"join": "it failed: took longer than 150 s"})
    assert not comparison.regressions
    assert not comparison.holds
    assert comparison.missing == (
        "join: the new run has no report of it: it failed: took longer than 150 s",
        "serve: the new run has no report of it: it was not run",
    )
    assert comparison.to_dict()["missing"] == list(comparison.missing)
    more = compare({"search": search}, {"search": search, "join": search})
    assert more.holds
    assert more.notes == ("join: only in the new run",)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_promise_of_no_error_that_is_measured_no_more_fails_and_a_speed_is_told(
    search: Report, is_there: bool
) -> None:
    skipped = tuple(
        replace(one, value=None, holds=None, skipped="no brute force here") for one in search.checks
    )
    new = replace(search, checks=skipped if is_there else ())
    comparison = compare({"search": search}, {"search": new})
    assert not comparison.holds
    why = "no brute force here" if is_there else "the new run does not know it"
    assert comparison.missing == (
        f"search: identical_answers was measured and is not any more: {why}",
    )
    assert comparison.notes == (
        f"search: one_query_speedup was measured and is not any more: {why}",
    )
    assert compare({"search": new}, {"search": search}).holds


def test_where_nothing_can_be_compared_it_is_said_and_no_success(search: Report) -> None:
    bare = replace(search, checks=())
    with pytest.raises(RequestError, match=r"nothing to compare: search: .*seed 0 before, 1 now"):
        compare({"search": bare}, {"search": set_up(bare, seed=1)})
    with pytest.raises(RequestError, match="nothing to compare: search: the new run has no report"):
        compare({"search": search}, {"join": search})
    with pytest.raises(RequestError, match="no figure in common"):
        compare({"search": replace(bare, results=())}, {"search": bare})
