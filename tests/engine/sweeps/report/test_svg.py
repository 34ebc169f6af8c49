"""SVG charts: what is written is escaped, scales hold their values, ticks are round."""

import pytest

from engine.sweeps.report.views import Scale, element, linear_ticks, log_ticks, whole_decades


def test_an_element_escapes_what_it_holds() -> None:
    drawn = element("text", "<b>&", class_='"x"', stroke_width=1.25)
    assert drawn == '<text class="&#34;x&#34;" stroke-width="1.2">&lt;b&gt;&amp;</text>'


@pytest.mark.parametrize("most", [1, 3, 7, 99, 1000, 12_345])
def test_covering_ticks_are_whole_few_and_reach_the_most(most: int) -> None:
    ticks = linear_ticks(0, most, 4, least_step=1, covers=True)
    assert ticks[0] == 0
    assert ticks[-1] >= most
    assert 2 <= len(ticks) <= 7
    assert all(tick == int(tick) for tick in ticks)


def test_ticks_within_a_range_do_not_leave_it() -> None:
    assert linear_ticks(0.38, 1.0, 12) == pytest.approx([0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert linear_ticks(0, 10.5, 10) == [0, 2, 4, 6, 8, 10]


def test_logarithmic_ticks_lie_within_whole_decades() -> None:
    assert whole_decades(3, 4) == (1, 10)
    assert whole_decades(1, 1) == (1, 10)
    assert log_ticks(0.5, 100) == [1, 10, 100]
    assert log_ticks(1, 10, (1, 2, 5)) == [1, 2, 5, 10]


@pytest.mark.parametrize("is_log", [False, True])
def test_a_scale_holds_what_is_outside(is_log: bool) -> None:
    scale = Scale(1.0, 100.0, 0.0, 10.0, is_log)
    assert [scale(value) for value in (0.0, 1.0, 100.0, 1e9)] == [0, 0, 10, 10]
    assert scale(10.0) == pytest.approx(5 if is_log else 10 / 11)
