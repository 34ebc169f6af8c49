"""Totals of groups: each line and document once, by outlet, by carrier, by week."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from engine.sweeps.risk import Week, fill_weeks, monday_of, summarise
from engine.sweeps.sweep_model import Group, GroupKind, Identity, LineFact

MONDAY = datetime(2024, 3, 4, tzinfo=UTC)


def line(name: str, carrier: str, outlet: str, days: int = 0, status: str = "active") -> LineFact:
    return LineFact(name, carrier, outlet, MONDAY + timedelta(days=days), status)


def group(
    key: str,
    identities: Sequence[Identity],
    kind: GroupKind = GroupKind.ONE_FACE,
    risk: float = 10.0,
) -> Group:
    return Group(
        key=key,
        kind=kind,
        identities=tuple(identities),
        links=(),
        weakest=None,
        risk=risk,
        terms=(),
    )


def test_no_group_is_a_summary_of_zeros() -> None:
    summary = summarise([])
    assert summary.totals.groups == summary.totals.lines == 0
    assert summary.totals.kinds == dict.fromkeys(GroupKind, 0)
    assert summary.outlets == summary.carriers == summary.weeks == ()


def test_what_two_groups_share_counts_once() -> None:
    shared = Identity("a", (1,), (line("1", "north", "n1"),))
    other = Identity("b", (2,), (line("2", "south", "s1", status="disputed"),))
    groups = [
        group("face", [shared, other]),
        group("ring", [shared], GroupKind.RESALE_RING, risk=40.0),
    ]
    summary = summarise(groups)
    assert (summary.totals.groups, summary.totals.identities, summary.totals.lines) == (2, 2, 2)
    assert summary.totals.disputed_lines == 1
    north = next(one for one in summary.carriers if one.carrier == "north")
    assert (north.groups, north.identities, north.lines, north.highest_risk) == (2, 1, 1, 40.0)


def test_outlets_of_one_code_at_two_carriers_are_two() -> None:
    identity = Identity("a", (1,), (line("1", "north", "main"), line("2", "south", "main")))
    summary = summarise([group("face", [identity])])
    assert [(one.carrier, one.outlet) for one in summary.outlets] == [
        ("north", "main"),
        ("south", "main"),
    ]


def test_most_lines_come_first() -> None:
    lines = (line("1", "north", "few"), line("2", "north", "many"), line("3", "north", "many"))
    summary = summarise([group("face", [Identity("a", (1,), lines)])])
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


def test_counts_are_plain_json() -> None:
    counts = summarise([group("face", [Identity("a", (1,), (line("1", "north", "n1"),))])]).counts()
    assert json.loads(json.dumps(counts)) == counts
    assert counts["kinds"] == {
        "one_face_many_documents": 1,
        "one_document_many_faces": 0,
        "resale_ring": 0,
    }


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
    made = [
        group(
            str(number),
            [
                Identity(
                    f"{number}.{place}",
                    (place,),
                    (line(f"{number}.{place}", carrier, outlet, days=9 * days),),
                )
                for place, (days, carrier, outlet) in enumerate(members)
            ],
        )
        for number, members in enumerate(groups)
    ]
    summary = summarise(made)
    lines = sum(map(len, groups))
    assert summary.totals.lines == lines
    assert sum(one.lines for one in summary.outlets) == lines
    assert sum(one.lines for one in summary.carriers) == lines
    assert sum(week.lines for week in summary.weeks) == lines
    assert sum(week.lines for week in fill_weeks(summary.weeks, 1000)) == lines
