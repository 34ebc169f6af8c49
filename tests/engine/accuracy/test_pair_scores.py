"""All pairs, against loops over every two templates."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.accuracy.pair_scores import (
    PairScores,
    TemplateSet,
    compare_all,
    fused_templates,
    limit_photographs,
    lowest_rate,
    require_support,
    single_templates,
    thresholds_at,
    wilson_interval,
)
from engine.errors import RateUnsupported


def _draw(people: list[int]) -> TemplateSet:
    rows = np.random.default_rng(len(people)).standard_normal((len(people), 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return single_templates(rows.astype(np.float32), np.array(people, np.int64))


def _brute(
    left: TemplateSet, right: TemplateSet, pairs: list[tuple[int, int]]
) -> tuple[list, list]:
    mated, nonmated = [], []
    for i, j in pairs:
        score = float(left.vectors[i] @ right.vectors[j])
        one, other = int(left.people[i]), int(right.people[j])
        if one != other:
            nonmated.append((score, one, other))
        elif not set(left.photographs[i]) & set(right.photographs[j]):
            mated.append((score, one))
    return sorted(mated), sorted(nonmated)


def _found(scores: PairScores) -> tuple[list, list]:
    left, right = np.divmod(scores.nonmated_people, scores.population)
    mated = zip(scores.mated.tolist(), scores.mated_people.tolist(), strict=True)
    nonmated = zip(scores.nonmated.tolist(), left.tolist(), right.tolist(), strict=True)
    return sorted(mated), sorted(nonmated)


def _assert_same(found: tuple[list, list], brute: tuple[list, list]) -> None:
    for some, others in zip(found, brute, strict=True):
        assert np.array(some).shape == np.array(others).shape
        assert np.allclose(np.array(some), np.array(others), atol=1e-6)


people_of_photographs = st.lists(st.integers(0, 5), min_size=2, max_size=16)


@settings(max_examples=50, deadline=None)
@given(people_of_photographs)
def test_every_two_photographs_are_compared_once(people: list[int]) -> None:
    singles = _draw(people)
    everything = list(combinations(range(len(people)), 2))
    _assert_same(_found(compare_all(singles)), _brute(singles, singles, everything))


@settings(max_examples=50, deadline=None)
@given(people_of_photographs)
def test_mated_templates_never_share_a_photograph(people: list[int]) -> None:
    singles = _draw(people)
    fused = fused_templates(singles, 4)
    pairs = list(combinations(range(len(fused.people)), 2))
    _assert_same(_found(compare_all(fused)), _brute(fused, fused, pairs))
    pairs = list(product(range(len(fused.people)), range(len(singles.people))))
    _assert_same(_found(compare_all(fused, singles)), _brute(fused, singles, pairs))


@given(people_of_photographs)
def test_stranger_pairs_count_people_not_photographs(people: list[int]) -> None:
    singles = _draw(people)
    fused = fused_templates(singles, 8)
    for scores in (compare_all(singles), compare_all(fused, singles)):
        codes = np.divmod(scores.nonmated_people, scores.population)
        distinct = {frozenset(pair) for pair in zip(*(c.tolist() for c in codes), strict=True)}
        assert scores.stranger_pairs == len(distinct)


def test_a_person_adds_no_more_photographs_than_the_limit() -> None:
    singles = _draw([0] * 9 + [1] * 2)
    assert np.bincount(limit_photographs(singles, 4).people).tolist() == [4, 2]
    assert np.bincount(fused_templates(singles, 4).people).tolist() == [6, 1]


def test_fused_templates_are_normalised_means() -> None:
    singles = _draw([0, 0, 1, 1])
    fused = fused_templates(singles, 8)
    mean = singles.vectors[:2].mean(axis=0)
    assert fused.vectors[0] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(people_of_photographs, people_of_photographs, st.booleans())
def test_two_people_weigh_one_however_many_photographs_they_have(
    people: list[int], others: list[int], is_symmetric: bool
) -> None:
    one = _draw(people)
    other = single_templates(-_draw(others).vectors, np.sort(np.array(others, np.int64)))
    population = max(one.population, other.population)
    one, other = (replace(side, population=population) for side in (one, other))
    scores = compare_all(one) if is_symmetric else compare_all(one, other)
    if not len(scores.nonmated):
        return
    by_people: dict[tuple[int, int], list[float]] = {}
    for score, left, right in _found(scores)[1]:
        by_people.setdefault((left, right), []).append(score)

    def fmr(threshold: float) -> float:
        return float(np.mean([(np.array(own) >= threshold).mean() for own in by_people.values()]))

    for rate in (0.5, 0.2, 0.05):
        (threshold,) = scores.thresholds_at(np.array([rate]))
        assert fmr(threshold) <= rate + 1e-6
        assert fmr(np.nextafter(threshold, np.float32(-2))) > rate - 1e-6


def test_a_person_misses_the_share_of_their_own_comparisons() -> None:
    scores = compare_all(_draw([0, 0, 0, 1, 1, 2]))
    mated = np.array([0.1, 0.5, 0.9, 0.3], np.float32)
    found = replace(scores, mated=mated).missed(np.array([0.2, 0.4, 1.0], np.float32))
    assert found == pytest.approx(np.array([[1 / 3, 0, 0], [1 / 3, 1, 0], [1, 1, 0]]))


cosines = st.integers(-20, 20).map(lambda tenth: tenth / 20)
some_scores = st.lists(cosines, min_size=1, max_size=60).map(lambda s: np.array(s, np.float32))
rates = st.floats(0.01, 0.99)


@given(some_scores, rates)
def test_the_threshold_is_the_smallest_that_keeps_the_rate_ties_included(
    nonmated: np.ndarray, rate: float
) -> None:
    threshold = thresholds_at(nonmated, np.array([rate]))[0]
    assert (nonmated >= threshold).mean() <= rate * (1 + 1e-9)
    below = np.nextafter(threshold, np.float32(-2))
    assert (nonmated >= below).mean() > rate


def test_ten_pairs_above_the_threshold_support_a_rate_and_nine_do_not() -> None:
    require_support(1e-5, 1_000_000)
    with pytest.raises(RateUnsupported, match=r"1e-06 .* the lowest is 1e-05"):
        require_support(1e-6, 1_000_000)
    with pytest.raises(RateUnsupported, match=r"lowest is 1\.1e-05"):
        require_support(1e-5, 900_000)
    assert lowest_rate(0) == np.inf


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_wilson_interval_holds_its_share(counts: tuple[int, int]) -> None:
    events, trials = counts
    low, high = wilson_interval(events, trials)
    assert 0 <= low <= events / trials <= high <= 1
    assert low < high


def test_wilson_interval_of_a_known_case() -> None:
    # Newcombe 1998, table I: 81 of 263.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
