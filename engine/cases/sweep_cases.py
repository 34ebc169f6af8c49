"""Transactions that open a case for each group of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from engine.cases.case import CaseKind, CaseOrigin
from engine.cases.opening import CaseBatch, NewCase
from engine.matching.registrar import Runner
from engine.registry.reader import Reader
from engine.registry.records import CaseState, Changes
from engine.registry.writer import Writer
from engine.sweeps.sweep_model import Group, GroupKind

GROUPS_PER_TRANSACTION = 100
"""Bounds how long decisions wait for such a transaction."""


def open_sweep_cases(
    registrar: Runner, registry: Reader, sweep_id: str, groups: Sequence[Group], actor: str
) -> dict[str, str]:
    """Open a case for each group, or merge it into an open one; returns case ids by group key.

    A group with a closed case keeps that case. A group whose links are all judged pairs gets no
    case. Called again for the same sweep, as after a crash, it adds nothing twice.
    """
    judged = registry.cases.decided_pairs()
    known = registry.cases.of_groups([group.key for group in groups])
    cases = {key: case.id for key, case in known.items() if case.state is CaseState.CLOSED}
    fresh = [group for group in groups if group.key not in cases and not _is_judged(group, judged)]
    for start in range(0, len(fresh), GROUPS_PER_TRANSACTION):
        part = fresh[start : start + GROUPS_PER_TRANSACTION]

        def perform(writer: Writer, now: datetime, part: Sequence[Group] = part) -> dict[str, str]:
            batch = CaseBatch(registry, now, known_groups=known.keys())
            batch.look_up(one.document_id for group in part for one in group.identities)
            opened = {group.key: batch.open(_new_case(group, sweep_id), actor) for group in part}
            changes = batch.add_to(Changes(sequence=writer.sequence, audit=()))
            if changes.audit:
                writer.commit(changes)
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


def _is_judged(group: Group, judged: set[tuple[str, str]]) -> bool:
    pairs = [(min(link.left, link.right), max(link.left, link.right)) for link in group.links]
    return bool(pairs) and judged.issuperset(pairs)
