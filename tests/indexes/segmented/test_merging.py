"""The policy of growth: how many segments there are, and how often a reference is rewritten."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexes.errors import SegmentsInvalid
from indexes.segmented.merging import (
    SegmentsConfig,
    SegmentState,
    due_merge,
    due_rewrite,
    size_class,
)

CONFIG = SegmentsConfig(head_rows=100, fan=4, dead_share=0.2, erasure_deadline_s=60)


def test_a_merge_takes_in_the_class_that_its_result_would_fill() -> None:
    assert due_merge([500, 100, 500, 100, 500, 100, 100], CONFIG) == (0, 1, 2, 3, 4, 5, 6)


def test_no_merge_makes_a_segment_larger_than_it_may_be() -> None:
    capped = SegmentsConfig(head_rows=100, fan=4, segment_rows=1000)
    assert due_merge([501, 501, 501, 501], capped) == ()
    # The smallest, as many as fit; the class above, which the result would fill, does not.
    assert due_merge([390, 300, 310, 320], capped) == (1, 2, 3)
    assert due_merge([450, 100, 450, 100, 450, 100, 100], capped) == (1, 3, 5, 6)


@given(
    fan=st.integers(2, 6),
    heads=st.integers(1, 300),
    sizes=st.lists(st.integers(100, 150), min_size=1, max_size=8),
    most=st.sampled_from([150, 1000, 4_000_000]),
)
def test_segments_stay_few_and_rewrites_rare(
    fan: int, heads: int, sizes: list[int], most: int
) -> None:
    config = SegmentsConfig(head_rows=100, fan=fan, segment_rows=most)
    segments: list[int] = []
    rewritten = 0
    for head in range(heads):
        segments.append(sizes[head % len(sizes)])
        rewritten += segments[-1]
        while places := due_merge(segments, config):
            merged = sum(segments[place] for place in places)
            rewritten += merged
            assert len(places) > 1
            assert merged <= most
            segments = [s for place, s in enumerate(segments) if place not in places] + [merged]
    classes = size_class(sum(segments), config) + 1
    # Those that are full, and the classes below.
    assert len(segments) <= (fan - 1) * classes + 2 * sum(segments) / most
    assert rewritten <= (classes + 1) * sum(segments)


def test_an_empty_segment_goes_first_and_a_dead_share_last() -> None:
    dead, full = SegmentState(79, 21, 0.0), [SegmentState(100, 0)] * 3
    assert due_rewrite([SegmentState(80, 20, 0.0)], CONFIG) == ()
    assert due_rewrite([SegmentState(500, 0), dead], CONFIG) == (1,)
    assert due_rewrite([dead, *full], CONFIG) == (0, 1, 2, 3)
    assert due_rewrite([dead, *full, SegmentState(0, 100, 0.0)], CONFIG) == (4,)


@pytest.mark.parametrize(
    "wrong",
    [
        {"head_rows": 0},
        {"fan": 1},
        {"dead_share": 1.0},
        {"dead_share": -0.1},
        {"erasure_deadline_s": -1.0},
        {"erasure_deadline_s": float("nan")},
        {"rows": "int8"},
        {"segment_rows": 8191},
    ],
)
def test_a_configuration_by_which_nothing_can_grow_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SegmentsInvalid):
        SegmentsConfig(**wrong)
