"""Transactions that open a case for each group of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from engine.cases.decided import Decided, pair_of, read_decided
from engine.cases.opening import CaseBatch, NewCase
from engine.matching.registrar import Runner
from engine.registry.store import Reader
from engine.registry.writer import Writer
from engine.sweeps.groups import find_weakest
from schema.cases import CaseKind, CaseOrigin, CaseState
from schema.sweeps import Group, GroupKind

GROUPS_PER_TRANSACTION = 100
"""Bounds how long decisions wait for such a transaction."""


def open_sweep_cases(
    registrar: Runner, registry: Reader, sweep_id: str, groups: Sequence[Group], actor: str
) -> dict[str, str]:
    """Open a case for each group, or merge it into an open one; returns case ids by group key.

    A group with a closed case keeps that case. A pair that people have decided is in no case
    again, unless its evidence has changed: a group of such links alone gets none, and a document
    that has no other link is in none. Called again for the same sweep, as after a crash, it adds
    nothing twice.
    """
    decided = read_decided(registry)
    known = registry.cases.of_groups([group.key for group in groups])
    reopened = {
        group.key for group in groups if decided.changed.intersection(map(pair_of, group.links))
    }
    cases = {
        key: case.id
        for key, case in known.items()
        if case.state is CaseState.CLOSED and key not in reopened
    }
    asked = (_without_decided(group, decided) for group in groups if group.key not in cases)
    fresh = [group for group in asked if group is not None]
    for start in range(0, len(fresh), GROUPS_PER_TRANSACTION):
        part = fresh[start : start + GROUPS_PER_TRANSACTION]

        def perform(writer: Writer, now: datetime, part: Sequence[Group] = part) -> dict[str, str]:
            batch = CaseBatch(registry, now, known_groups=known.keys())
            batch.look_up(one.document_id for group in part for one in group.identities)
            opened = {group.key: batch.open(_new_case(group, sweep_id), actor) for group in part}
            if writes := batch.writes():
                writer.commit(writes)
            return {key: case.id for key, case in opened.items()}

        cases |= registrar.run(perform)
    return _follow(registry, cases)


def _follow(registry: Reader, cases: dict[str, str]) -> dict[str, str]:
    """Replace merged cases: a later group may have joined those of earlier ones."""
    found = registry.cases.by_id(list(cases.values()))
    return {key: found[case_id].merged_into or case_id for key, case_id in cases.items()}


def _new_case(group: Group, sweep_id: str) -> NewCase:
    documents = [one.document_id for one in group.identities]
    return NewCase(
        kind=CaseKind(group.kind.value),
        origin=CaseOrigin.SWEEP,
        document_ids=documents,
        # In groups of other kinds the references may belong to victims.
        suspect_ids=documents if group.kind is GroupKind.ONE_FACE else (),
        line_ids=[line.line_id for one in group.identities for line in one.lines],
        score=max((link.score for link in group.links), default=None),
        weakest=None if group.weakest is None else group.weakest.score,
        risk=group.risk,
        sweep_id=sweep_id,
        group_key=group.key,
    )


def _without_decided(group: Group, decided: Decided) -> Group | None:
    """The group with what is still a question in it; None where nothing is."""
    links = decided.undecided(group.links)
    if len(links) == len(group.links):
        return group
    if not links:
        return None
    linked = {end for link in links for end in (link.left, link.right)}
    members = tuple(one for one in group.identities if one.document_id in linked)
    return replace(group, identities=members, links=tuple(links), weakest=find_weakest(links))
