"""What fraud teams read of sweeps fits into one message, however large a group is."""

import pickle
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

from engine.registry.audit import AuditEntry
from schema.sweeps import Group, GroupKind, Identity, LineFact, Link, RiskTerm
from serving.registrar.operations import Operations
from serving.registrar.protocol import CallContext
from serving.sweeps.sweep_views import (
    MOST_IDENTITIES,
    MOST_LINES,
    MOST_LINKS,
    MOST_SEVERED,
    bound_group,
    count_group,
)
from serving.wire import sweeps as wire

MESSAGE_BYTES = 4 * 2**20
CONTEXT = CallContext("key:fraud", "c-1")


def group(identities: int, lines: int, key: str = "g", severed: int = 0) -> Group:
    names = [f"0198c2a4-7c1e-7b52-9d0c-{number:012d}" for number in range(identities)]
    opened_at = datetime(2026, 1, 31, 12, tzinfo=UTC)

    def line(name: str, place: int) -> LineFact:
        of = (f"carrier {place % 3}", f"outlet {place}")
        return LineFact(f"{name[:-4]}{place:04d}", *of, opened_at, "active")

    members = tuple(
        Identity(name, (number,), tuple(line(name, place) for place in range(lines)), disputes=1)
        for number, name in enumerate(names)
    )
    links = tuple(
        Link(left, right, 0.5 + place / 1e6)
        for place, (left, right) in enumerate(
            (left, right) for number, left in enumerate(names) for right in names[:number]
        )
    )
    return Group(
        key=key,
        kind=GroupKind.ONE_FACE,
        identities=members,
        links=links,
        weakest=links[0] if links else None,
        severed=tuple(
            Link(names[0], f"outside-{place:05d}", 0.9 - place / 1e5) for place in range(severed)
        ),
        risk=7.5,
        terms=(RiskTerm("identities", float(identities), 7.5),),
    )


class Groups:
    """A sweep's groups as their reader gives them."""

    def __init__(self, *groups: Group) -> None:
        self._groups = groups

    def group(self, _sweep_id: str, key: str) -> wire.Group:
        return bound_group(next(one for one in self._groups if one.key == key))

    def groups(self, _sweep_id: str, after: int, limit: int) -> wire.GroupPage:
        rows = tuple(map(count_group, self._groups[after : after + limit]))
        return wire.GroupPage(rows, len(self._groups), None)


def operations_on(*groups: Group) -> tuple[Operations, list[AuditEntry]]:
    kept: list[AuditEntry] = []

    def keep(entry: AuditEntry, _timeout_s: float, _tallies: object) -> None:
        kept.append(entry)

    sweeps = SimpleNamespace(views=Groups(*groups))
    opened = SimpleNamespace(sweeps=sweeps, registrar=SimpleNamespace(audit=keep))
    nothing = cast(Any, None)
    return Operations(cast(Any, opened), CONTEXT, 0.0, nothing, nothing), kept


def test_of_a_group_that_does_not_fit_the_closest_links_are_told_and_the_rest_counted() -> None:
    whole = group(700, 20)
    operations, _ = operations_on(whole)
    shown = operations.read_group("s", "g")
    assert len(pickle.dumps(shown)) < MESSAGE_BYTES / 2
    assert len(shown.identities) == MOST_IDENTITIES
    assert len(shown.links) == MOST_LINKS
    told = sum(len(one.lines) for one in shown.identities)
    assert told == MOST_LINES
    assert shown.left_out == wire.LeftOut(
        identities=700 - MOST_IDENTITIES,
        lines=700 * 20 - MOST_LINES,
        links=len(whole.links) - MOST_LINKS,
    )
    members = {one.document_id for one in shown.identities}
    within = [one for one in whole.links if {one.left, one.right} <= members]
    closest = sorted((one.score for one in within), reverse=True)[:MOST_LINKS]
    assert [one.score for one in shown.links] == closest
    assert shown.weakest.score == whole.links[0].score


def test_a_page_of_large_groups_is_told_in_counts() -> None:
    operations, kept = operations_on(*(group(40, 3, f"g{number}") for number in range(200)))
    page = operations.list_groups("s", 0, 200)
    assert len(pickle.dumps(page)) < MESSAGE_BYTES / 8
    assert page.total == 200
    first = page.groups[0]
    assert (first.identities, first.lines, first.disputes) == (40, 120, 40)
    assert (first.carriers, first.outlets) == (3, 3)
    assert first.weakest_score == 0.5
    assert kept[0].detail == {"after": 0, "groups": [f"g{number}" for number in range(200)]}


def test_a_group_without_links_has_no_weakest() -> None:
    operations, _ = operations_on(group(1, 1))
    assert operations.list_groups("s", 0, 1).groups[0].weakest_score is None
    assert operations.read_group("s", "g").weakest is None


def test_links_that_were_cut_are_told_and_whom_they_show_is_audited() -> None:
    operations, kept = operations_on(group(3, 1, severed=MOST_SEVERED + 2))
    shown = operations.read_group("s", "g")
    assert [one.score for one in shown.severed] == [
        0.9 - place / 1e5 for place in range(MOST_SEVERED)
    ]
    assert shown.left_out == wire.LeftOut(identities=0, lines=0, links=2)
    assert len(kept[0].detail["documents"]) == 3 + MOST_SEVERED
    assert operations.list_groups("s", 0, 1).groups[0].severed_links == MOST_SEVERED + 2
