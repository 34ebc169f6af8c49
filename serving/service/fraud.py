"""The calls of fraud teams that the registrar carries out: steps of cases, and sweeps.

Whatever is answered fits into one message between processes, however large a group is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from engine.casework import desk
from engine.matching.scribe import Audit
from engine.registry.reader import Reader
from engine.registry.records import AuditEntry, CaseRecord
from engine.sweeps.expectation import Expectation, SweepRequest
from engine.sweeps.model import SweepRecord
from serving.service.desk import GroupList
from serving.service.steps import Assign, CaseStep, Close, Propose, Remark, Steering, Withdraw
from serving.service.turn import Turn
from serving.sweeping.desk import SweepDesk
from serving.sweeping.showing import group_in_short

MOST_IDENTITIES, MOST_LINES, MOST_LINKS, MOST_SEVERED = 500, 2_000, 5_000, 500
"""Of one group in an answer."""


class FraudClerk:
    """Carries out the calls of a `FraudDesk`, each for one thread.

    What shows people is audited before it is told.
    """

    def __init__(self, store: Reader, sweeps: SweepDesk, audit: Callable[[Turn], Audit]) -> None:
        self._store = store
        self._sweeps = sweeps
        self._audit = audit

    def step_case(self, case_id: str, step: CaseStep, turn: Turn) -> CaseRecord:
        given = (turn.runner, self._store, case_id)
        actor = turn.context.actor
        match step:
            case Assign(assignee):
                return desk.assign(*given, assignee, actor)
            case Remark(text):
                return desk.note(*given, text, actor)
            case Propose(outcome, lines, seen_at):
                return desk.propose(*given, outcome, lines, actor, seen_at)
            case Withdraw():
                return desk.withdraw(*given, actor)
            case Close(outcome, lines, seen_at):
                return desk.close(*given, outcome, lines, actor, seen_at)

    def expect_sweep(self, request: SweepRequest, turn: Turn) -> Expectation:
        del turn
        return self._sweeps.plan(request)

    def start_sweep(self, request: SweepRequest, turn: Turn) -> SweepRecord:
        return self._sweeps.start(request, turn.context.actor, turn.runner)

    def steer_sweep(self, sweep_id: str, steering: Steering, turn: Turn) -> SweepRecord:
        steer = {
            Steering.PAUSE: self._sweeps.pause,
            Steering.RESUME: self._sweeps.resume,
            Steering.CANCEL: self._sweeps.cancel,
        }[steering]
        return steer(sweep_id, turn.context.actor, turn.runner)

    def read_sweep(self, sweep_id: str, turn: Turn) -> SweepRecord:
        del turn
        return self._sweeps.status(sweep_id)

    def list_sweeps(self, limit: int, turn: Turn) -> list[SweepRecord]:
        del turn
        # A summary may have a row for each outlet of a country.
        return [replace(record, summary=None) for record in self._sweeps.list(limit)]

    def list_groups(self, sweep_id: str, after: int, limit: int, turn: Turn) -> GroupList:
        page = self._sweeps.groups(sweep_id, after, limit)
        detail = {"after": after, "groups": [group["key"] for group in page.groups]}
        self._audit(turn)(AuditEntry(turn.context.actor, "groups.read", sweep_id, detail))
        return GroupList(tuple(map(_shorten, page.groups)), page.total, page.next_after)

    def read_group(self, sweep_id: str, key: str, turn: Turn) -> Mapping[str, Any]:
        shown = _bound(self._sweeps.group(sweep_id, key))
        documents = [one["document_id"] for one in shown["identities"]]
        outside = {one[side] for one in shown["severed"] for side in ("left", "right")}
        documents += sorted(outside.difference(documents))
        detail = {"group": key, "documents": documents}
        self._audit(turn)(AuditEntry(turn.context.actor, "group.read", sweep_id, detail))
        return shown


def _shorten(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group without its members: counted, not named."""
    return {
        **group_in_short(group),
        "terms": group["terms"],
        "disputes": sum(one["disputes"] for one in group["identities"]),
    }


def _bound(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group with as much of it as an answer carries; what is left out is counted."""
    counts = _shorten(group)
    identities, lines_left = [], MOST_LINES
    for one in group["identities"][:MOST_IDENTITIES]:
        lines = one["lines"][:lines_left]
        lines_left -= len(lines)
        # The references are the gallery's own affair, and may be many.
        identities.append(
            {"document_id": one["document_id"], "lines": lines, "disputes": one["disputes"]}
        )
    kept = {one["document_id"] for one in identities}
    links = [one for one in group["links"] if one["left"] in kept and one["right"] in kept]
    links = sorted(links, key=lambda one: -one["score"])[:MOST_LINKS]
    severed = [one for one in group["severed"] if one["left"] in kept or one["right"] in kept]
    severed = severed[:MOST_SEVERED]
    return {
        **counts,
        "identities": identities,
        "links": links,
        "severed": severed,
        "weakest": group["weakest"],
        "left_out": {
            "identities": len(group["identities"]) - len(identities),
            "lines": counts["lines"] - (MOST_LINES - lines_left),
            "links": len(group["links"]) - len(links) + len(group["severed"]) - len(severed),
        },
    }
