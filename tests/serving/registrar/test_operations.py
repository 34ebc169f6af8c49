"""Where store and gallery stand, read while both move."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from engine.errors import StorageFailed
from engine.registry.records import AuditEntry
from serving.compose import Deployment
from serving.registrar.operations import (
    MOST_IDENTITIES,
    MOST_LINES,
    MOST_LINKS,
    MOST_SEVERED,
    FraudClerk,
    OpenRegistry,
)
from serving.registrar.protocol import CallContext, Turn
from serving.sweeps.sweep_views import GroupPage


@pytest.fixture
def opened(open_home: Callable[..., Deployment]) -> Iterator[OpenRegistry]:
    registry = OpenRegistry(open_home(), 64, lambda *_: None, lambda *_: None)
    yield registry
    registry.close()


def test_a_change_between_the_two_readings_is_no_lag(
    opened: OpenRegistry, crowd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = opened.store.sequence

    def read_and_move() -> int:
        stored = read()
        opened.registrar.enroll([crowd.request()])
        return stored

    monkeypatch.setattr(opened.store, "sequence", read_and_move)
    mark = opened.read_watermark()
    assert (mark.sequence, mark.store_sequence, mark.is_behind) == (0, 0, False)
    assert opened.gallery.sequence == 1


def test_a_gallery_that_lacks_a_change_of_the_store_is_behind(
    opened: OpenRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened.store, "sequence", lambda: 7)
    mark = opened.read_watermark()
    assert (mark.sequence, mark.store_sequence, mark.is_behind) == (0, 7, True)


def test_a_store_that_cannot_be_read_is_not_taken_for_a_lag(
    opened: OpenRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> int:
        raise StorageFailed("the database is gone")

    monkeypatch.setattr(opened.store, "sequence", fail)
    mark = opened.read_watermark()
    assert (mark.store_sequence, mark.is_behind) == (None, False)


MESSAGE_BYTES = 4 * 2**20
TURN = Turn(CallContext("key:fraud", "c-1"), cast(Any, None), 0.0)


def group(identities: int, lines: int, key: str = "g", severed: int = 0) -> dict[str, Any]:
    names = [f"0198c2a4-7c1e-7b52-9d0c-{number:012d}" for number in range(identities)]
    members = [
        {
            "document_id": name,
            "reference_ids": [number],
            "lines": [
                {
                    "line_id": f"{name[:-4]}{place:04d}",
                    "carrier": f"carrier {place % 3}",
                    "outlet": f"outlet {place}",
                    "opened_at": "2026-01-31T12:00:00+00:00",
                    "status": "active",
                }
                for place in range(lines)
            ],
            "disputes": 1,
        }
        for number, name in enumerate(names)
    ]
    links = [
        {"left": left, "right": right, "score": 0.5 + place / 1e6}
        for place, (left, right) in enumerate(
            (left, right) for number, left in enumerate(names) for right in names[:number]
        )
    ]
    return {
        "key": key,
        "kind": "one_face_many_documents",
        "identities": members,
        "links": links,
        "weakest": links[0] if links else None,
        "severed": [
            {"left": names[0], "right": f"outside-{place:05d}", "score": 0.9 - place / 1e5}
            for place in range(severed)
        ],
        "risk": 7.5,
        "terms": [{"name": "identities", "value": float(identities), "points": 7.5}],
    }


class Groups:
    """A sweep's groups as its desk gives them."""

    def __init__(self, *groups: dict[str, Any]) -> None:
        self._groups = groups

    def group(self, _sweep_id: str, key: str) -> dict[str, Any]:
        return next(one for one in self._groups if one["key"] == key)

    def groups(self, _sweep_id: str, after: int, limit: int) -> GroupPage:
        return GroupPage(list(self._groups[after : after + limit]), len(self._groups), None)


def clerk_of(*groups: dict[str, Any]) -> tuple[FraudClerk, list[AuditEntry]]:
    kept: list[AuditEntry] = []
    made = FraudClerk(cast(Any, None), cast(Any, Groups(*groups)), lambda _: kept.append)
    return made, kept


def test_a_group_that_fits_is_told_whole_and_audited() -> None:
    whole = group(4, 2)
    clerk, kept = clerk_of(whole)
    shown = clerk.read_group("s", "g", TURN)
    members = [dict(one) for one in whole["identities"]]
    assert [one.pop("reference_ids") for one in members]
    assert shown["identities"] == members
    assert sorted(shown["links"], key=lambda one: one["score"]) == whole["links"]
    assert set(shown["left_out"].values()) == {0}
    [entry] = kept
    documents = [one["document_id"] for one in whole["identities"]]
    assert (entry.action, entry.subject, entry.actor) == ("group.read", "s", "key:fraud")
    assert entry.detail == {"group": "g", "documents": documents}


def test_of_a_group_that_does_not_fit_the_closest_links_are_told_and_the_rest_counted() -> None:
    whole = group(700, 20)
    clerk, _ = clerk_of(whole)
    shown = clerk.read_group("s", "g", TURN)
    assert len(pickle.dumps(shown)) < MESSAGE_BYTES / 2
    assert len(shown["identities"]) == MOST_IDENTITIES
    assert len(shown["links"]) == MOST_LINKS
    told = sum(len(one["lines"]) for one in shown["identities"])
    assert told == MOST_LINES
    assert shown["left_out"] == {
        "identities": 700 - MOST_IDENTITIES,
        "lines": 700 * 20 - MOST_LINES,
        "links": len(whole["links"]) - MOST_LINKS,
    }
    members = {one["document_id"] for one in shown["identities"]}
    within = [one for one in whole["links"] if {one["left"], one["right"]} <= members]
    closest = sorted((one["score"] for one in within), reverse=True)[:MOST_LINKS]
    assert [one["score"] for one in shown["links"]] == closest
    assert shown["weakest"] == whole["weakest"]


def test_a_page_of_large_groups_is_told_in_counts() -> None:
    clerk, kept = clerk_of(*(group(40, 3, f"g{number}") for number in range(200)))
    page = clerk.list_groups("s", 0, 200, TURN)
    assert len(pickle.dumps(page)) < MESSAGE_BYTES / 8
    assert page.total == 200
    first = page.groups[0]
    assert (first["identities"], first["lines"], first["disputes"]) == (40, 120, 40)
    assert (first["carriers"], first["outlets"]) == (3, 3)
    assert first["weakest_score"] == 0.5
    assert kept[0].detail == {"after": 0, "groups": [f"g{number}" for number in range(200)]}


def test_a_group_without_links_has_no_weakest() -> None:
    clerk, _ = clerk_of(group(1, 1))
    assert clerk.list_groups("s", 0, 1, TURN).groups[0]["weakest_score"] is None
    assert clerk.read_group("s", "g", TURN)["weakest"] is None


def test_links_that_were_cut_are_told_and_whom_they_show_is_audited() -> None:
    clerk, kept = clerk_of(group(3, 1, severed=MOST_SEVERED + 2))
    shown = clerk.read_group("s", "g", TURN)
    assert [one["score"] for one in shown["severed"]] == [
        0.9 - place / 1e5 for place in range(MOST_SEVERED)
    ]
    assert shown["left_out"] == {"identities": 0, "lines": 0, "links": 2}
    assert len(kept[0].detail["documents"]) == 3 + MOST_SEVERED
    assert clerk.list_groups("s", 0, 1, TURN).groups[0]["severed_links"] == MOST_SEVERED + 2
