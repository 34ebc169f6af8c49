"""Differences between groups: found where they were planted, not where there are none."""

from collections.abc import Callable

import numpy as np
import pytest

from engine.accuracy.conditions import AttributeReport, GroupSample, compare_groups
from engine.accuracy.dataset import Labels
from engine.accuracy.pair_scores import (
    compare_all,
    compare_mated,
    find_close_strangers,
    single_templates,
    thresholds_at,
)

Faces = Callable[..., tuple[np.ndarray, np.ndarray]]


def judge(vectors: np.ndarray, people: np.ndarray, group: np.ndarray) -> AttributeReport:
    """`group` of each photograph, at FMR 1e-2 over all."""
    singles = single_templates(vectors, people)
    threshold = float(thresholds_at(compare_all(singles).nonmated, np.array([1e-2]))[0])
    sample = GroupSample(
        singles=singles,
        places=np.arange(len(people)),
        people=people,
        is_failed=np.zeros(len(people), bool),
        mated=compare_mated(singles),
        matches=find_close_strangers(singles, threshold),
        threshold=threshold,
        common_fmr=1e-2,
    )
    names = tuple(f"g{number}" for number in range(group.max() + 1))
    return compare_groups(sample, Labels("made", names, group))


def test_a_group_of_noisy_photographs_is_missed_more_often(draw_faces: Faces) -> None:
    good, people = draw_faces(60, 4, noise=0.5, seed=1)
    poor, _ = draw_faces(60, 4, noise=1.0, seed=2)
    labels = np.concatenate([people, people + 60])
    found = judge(np.concatenate([good, poor]), labels, (labels >= 60).astype(int))
    differential = found.false_negative
    assert (differential.worst, differential.best) == ("g1", "g0")
    assert differential.low > 1
    clear, noisy = found.groups
    assert clear.median > noisy.median
    assert noisy.fnmr.value == (missed := noisy.fnmr.events) / noisy.mated_pairs > 0
    assert missed <= noisy.mated_pairs == 60 * 6


def test_look_alikes_in_one_group_are_a_false_positive_differential(draw_faces: Faces) -> None:
    """Group g1 has half of its variance in common."""
    vectors, people = draw_faces(120, 3, dim=32, seed=3)
    alike = people >= 60
    vectors[alike] += 0.7 * np.eye(32, dtype=np.float32)[0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = judge(vectors, people, alike.astype(int))
    differential = found.false_positive
    assert differential.worst == "g1"
    assert differential.low > 1
    assert found.across.value < found.groups[1].fmr.value


def average(matched: np.ndarray, wanted: np.ndarray, people: np.ndarray) -> float:
    """The mean of each person's, or each pair of people's, share of the wanted comparisons."""
    codes = people[:, None] * 1000 + people[None, :]
    asked = np.bincount(codes[wanted])
    hits = np.bincount(codes[wanted & matched], minlength=len(asked))
    return float((hits[asked > 0] / asked[asked > 0]).mean())


def test_rates_of_groups_and_across_them_are_those_of_a_loop(draw_faces: Faces) -> None:
    vectors, people = draw_faces(80, 4, seed=4)
    group = np.random.default_rng(0).integers(0, 2, len(people))
    found = judge(vectors, people, group)
    scores = vectors @ vectors.T
    upper = np.triu(np.ones_like(scores, bool), 1)
    strangers = upper & (people[:, None] != people[None, :])
    same = group[:, None] == group[None, :]
    for number, one in enumerate(found.groups):
        own = strangers & same & (group == number)[:, None]
        assert one.nonmated_pairs == own.sum()
        assert one.fmr.value == pytest.approx(average(scores >= found.threshold, own, people))
        mated = upper & ~strangers & same & (group == number)[:, None]
        assert one.mated_pairs == mated.sum()
        assert one.fnmr.value == pytest.approx(average(scores < found.threshold, mated, people))
    mixed = strangers & ~same
    assert found.across.trials == mixed.sum()
    assert found.across.value == pytest.approx((scores[mixed] >= found.threshold).mean())
    assert found.mixed_pairs == (upper & ~strangers & ~same).sum()


def test_groups_drawn_at_random_are_seldom_told_apart(draw_faces: Faces) -> None:
    differing = 0
    for seed in range(30):
        vectors, people = draw_faces(130, 3, noise=0.8, seed=seed)
        group = np.random.default_rng(seed).integers(0, 3, 130)[people]
        found = judge(vectors, people, group)
        differing += found.false_negative.low > 1
    assert differing <= 2, "one in twenty, three groups and the choice of two of them allowed for"


def test_a_small_group_is_refused_by_name_and_compared_with_nobody(draw_faces: Faces) -> None:
    vectors, people = draw_faces(100, 4, seed=5)
    group = np.where(people < 12, 2, people % 2)
    found = judge(vectors, people, group)
    small = found.groups[2]
    assert (small.label, small.people, small.fnmr, small.fmr) == ("g2", 12, None, None)
    assert small.fnmr_refused == "12 people with two photographs, 30 are needed"
    assert small.fmr_refused == "12 people, 30 are needed"
    for differential in (found.false_negative, found.false_positive):
        assert "g2" not in {differential.worst, differential.best}


def test_too_few_pairs_for_the_rate_are_refused_with_their_number(draw_faces: Faces) -> None:
    vectors, people = draw_faces(110, 1, seed=6)
    vectors = np.concatenate([vectors, vectors[:30]])
    people = np.concatenate([people, people[:30]])
    found = judge(vectors, people, (people >= 70).astype(int))
    assert found.groups[1].fmr_refused == "780 non-mated pairs at FMR 0.01, 1,000 are needed"
    assert found.false_positive is None


def test_no_error_in_the_best_group_gives_a_bound_and_no_ratio(draw_faces: Faces) -> None:
    good, people = draw_faces(60, 4, noise=0.05, seed=7)
    poor, _ = draw_faces(60, 4, noise=1.2, seed=8)
    labels = np.concatenate([people, people + 60])
    found = judge(np.concatenate([good, poor]), labels, (labels >= 60).astype(int)).false_negative
    assert (found.ratio, found.high, found.over_geometric_mean) == (None, None, None)
    assert found.low > 1
