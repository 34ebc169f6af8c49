"""Risk by stated scales, where more never brings less; totals count each line and document once."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.registry.enrollments import LivenessCount
from engine.sweeps.risk import (
    BURST,
    SCALES,
    TERMS,
    Week,
    assess,
    assess_faces,
    count_burst,
    fill_weeks,
    monday_of,
    points_of,
    rank,
    rank_outlets,
    summarise,
    total_of,
)
from schema.sweeps import Group, GroupKind, Identity, LineFact
from tests.engine.records import make_group

START = datetime(2026, 1, 1, tzinfo=UTC)
THRESHOLD = 0.6

moments = st.integers(0, 40).map(lambda days: START + timedelta(days=days))


@st.composite
def identities(draw: st.DrawFn) -> list[Identity]:
    """Identities of a group, with lines at few carriers and outlets."""
    sellers = st.tuples(st.sampled_from("AB"), st.sampled_from("123"))
    people = []
    for number in range(draw(st.integers(2, 5))):
        lines = tuple(
            LineFact(f"{number}-{line}", *draw(sellers), draw(moments), "active")
            for line in range(draw(st.integers(0, 3)))
        )
        people.append(Identity(f"d{number}", (number,), lines, draw(st.integers(0, 2))))
    return people


@pytest.mark.parametrize("name", sorted(SCALES))
def test_a_scale_rises_in_value_and_never_falls_in_points(name: str) -> None:
    for (low, low_points), (high, high_points) in pairwise(SCALES[name]):
        assert low < high
        assert low_points <= high_points
    assert SCALES[name][0][1] == 0


@pytest.mark.parametrize("kind", GroupKind)
def test_the_terms_of_a_kind_bring_100_points_together(kind: GroupKind) -> None:
    assert sum(SCALES[name][-1][1] for name in TERMS[kind]) == 100


@pytest.mark.parametrize(
    ("name", "value", "points"),
    [("identities", 1, 0), ("identities", 4, 21), ("identities", 99, 35), ("score", 0.25, 7.5)],
)
def test_points_are_interpolated_between_the_stated_values(
    name: str, value: float, points: float
) -> None:
    assert points_of(name, value) == points


@given(identities(), st.floats(0.6, 1), moments, st.sampled_from("ABC"), st.sampled_from("1234"))
def test_one_more_of_anything_never_lowers_a_group(
    people: list[Identity], weakest: float, moment: datetime, carrier: str, outlet: str
) -> None:
    before = total_of(assess_faces(people, weakest, THRESHOLD))
    first, *others = people
    line = LineFact("more", carrier, outlet, moment, "active")
    richer = [
        [*people, Identity("more", (99,))],
        [replace(first, lines=(*first.lines, line)), *others],
        [replace(first, disputes=first.disputes + 1), *others],
    ]
    for more in richer:
        assert total_of(assess_faces(more, weakest, THRESHOLD)) >= before
    assert total_of(assess_faces(people, min(weakest + 0.1, 1.0), THRESHOLD)) >= before


def test_every_term_is_stated_with_what_was_counted() -> None:
    lines = tuple(
        LineFact(f"l{number}", carrier, "shop", START + timedelta(days=days), "active")
        for number, (carrier, days) in enumerate([("A", 0), ("B", 6), ("A", 30)])
    )
    terms = assess_faces(
        [Identity("a", (1,), lines, disputes=1), Identity("b", (2,))], 0.8, THRESHOLD
    )
    assert [(term.name, term.value) for term in terms] == [
        ("identities", 2),
        ("carriers", 2),
        ("outlets", 2),
        ("burst", 2),
        ("score", pytest.approx(0.5)),
        ("disputes", 1),
    ]
    assert all(term.points == points_of(term.name, term.value) for term in terms)


def test_an_outlet_is_one_of_its_carrier() -> None:
    terms = assess(
        GroupKind.RESALE_RING, 3, [("A", "shop"), ("B", "shop"), ("A", "shop")], [START], 0
    )
    values = {term.name: term.value for term in terms}
    assert (values["carriers"], values["outlets"]) == (2, 2)


@given(st.lists(moments, max_size=12))
def test_a_burst_is_the_fullest_window(found: list[datetime]) -> None:
    fullest = max((sum(one <= x <= one + BURST for x in found) for one in found), default=0)
    assert count_burst(found) == fullest


@given(st.permutations(range(6)))
def test_a_rank_does_not_depend_on_the_order_before(order: list[int]) -> None:
    def group(number: int) -> Group:
        people = (Identity(f"{i}", (i,)) for i in range(2 + number % 2))
        return make_group(f"{number}", *people, risk=float(number // 3))

    ranked = [one.key for one in rank(group(number) for number in order)]
    assert ranked == ["3", "5", "4", "1", "0", "2"]


def test_outlets_rank_by_the_share_that_surely_failed_of_both_kinds_of_evidence() -> None:
    counts = [
        LivenessCount("blue", "large", False, 10_000, 60),
        LivenessCount("blue", "bad", False, 100, 30),
        LivenessCount("blue", "bad", True, 100, 20),
        LivenessCount("blue", "unlucky", True, 1, 1),
        LivenessCount("red", "sound", False, 500, 0),
    ]
    ranked = rank_outlets(counts)
    assert [one.outlet for one in ranked] == ["bad", "large", "unlucky"]
    bad = ranked[0]
    assert (bad.signed, bad.signed_failed, bad.judged, bad.judged_failed) == (100, 30, 100, 20)
    assert 0.15 < bad.lowest < 0.25
    assert rank_outlets([]) == ()


MONDAY = datetime(2024, 3, 4, tzinfo=UTC)


def line(name: str, carrier: str, outlet: str, days: int = 0, status: str = "active") -> LineFact:
    return LineFact(name, carrier, outlet, MONDAY + timedelta(days=days), status)


def test_what_two_groups_share_counts_once() -> None:
    shared = Identity("a", (1,), (line("1", "north", "n1"),))
    other = Identity("b", (2,), (line("2", "south", "s1", status="disputed"),))
    ring = make_group("ring", shared, kind=GroupKind.RESALE_RING, risk=40.0)
    summary = summarise([make_group("face", shared, other), ring])
    assert (summary.totals.groups, summary.totals.identities, summary.totals.lines) == (2, 2, 2)
    assert summary.totals.disputed_lines == 1
    north = next(one for one in summary.carriers if one.carrier == "north")
    assert (north.groups, north.identities, north.lines, north.highest_risk) == (2, 1, 1, 40.0)


def test_outlets_of_one_code_at_two_carriers_are_two() -> None:
    identity = Identity("a", (1,), (line("1", "north", "main"), line("2", "south", "main")))
    summary = summarise([make_group("face", identity)])
    assert [(one.carrier, one.outlet) for one in summary.outlets] == [
        ("north", "main"),
        ("south", "main"),
    ]


def test_most_lines_come_first() -> None:
    lines = (line("1", "north", "few"), line("2", "north", "many"), line("3", "north", "many"))
    summary = summarise([make_group("face", Identity("a", (1,), lines))])
    assert [(one.outlet, one.lines) for one in summary.outlets] == [("many", 2), ("few", 1)]


def test_a_week_begins_on_monday_in_utc() -> None:
    hours_ahead = timezone(timedelta(hours=8))
    assert monday_of(datetime(2024, 3, 11, 7, tzinfo=hours_ahead)) == date(2024, 3, 4)
    assert monday_of(datetime(2024, 3, 11, 9, tzinfo=hours_ahead)) == date(2024, 3, 11)


def test_quiet_weeks_are_filled_in_and_old_ones_cut() -> None:
    weeks = [Week(date(2024, 3, 4), 5), Week(date(2024, 3, 25), 2)]
    assert [week.lines for week in fill_weeks(weeks, 10)] == [5, 0, 0, 2]
    assert [week.lines for week in fill_weeks(weeks, 2)] == [0, 2]
    assert fill_weeks([], 10) == ()


@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 30), st.sampled_from("xyz"), st.sampled_from("pq")), max_size=6
        ),
        max_size=6,
    )
)
def test_every_line_is_at_one_outlet_one_carrier_and_in_one_week(
    groups: list[list[tuple[int, str, str]]],
) -> None:
    def hold(name: str, days: int, *seller: str) -> Identity:
        return Identity(name, (1,), (line(name, *seller, days=9 * days),))

    made = []
    for number, members in enumerate(groups):
        people = (hold(f"{number}.{place}", *one) for place, one in enumerate(members))
        made.append(make_group(str(number), *people))
    summary = summarise(made)
    lines = sum(map(len, groups))
    assert summary.totals.lines == lines
    assert sum(one.lines for one in summary.outlets) == lines
    assert sum(one.lines for one in summary.carriers) == lines
    assert sum(week.lines for week in summary.weeks) == lines
    assert sum(week.lines for week in fill_weeks(summary.weeks, 1000)) == lines
