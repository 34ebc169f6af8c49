"""Whoever was erased leaves what a sweep has found as well."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from engine.matching.thresholds import Calibration
from engine.registry.reader import Reader
from engine.sweeps.groups import make_group
from engine.sweeps.model import Group, GroupKind
from engine.sweeps.outputs import write_findings
from engine.sweeps.rereading import Reread
from engine.sweeps.risk import rank

_SIDES = ("left_document", "right_document")


def forget_erased(
    sweep: Reread,
    reader: Reader,
    calibration: Calibration,
    document_id: str | None = None,
) -> bool:
    """Writes a sweep's files anew without a document, or without whichever are erased; False
    where they name none.

    A group of one face goes on with whom is left, under its key, by which its case is known; with
    less than two it goes, and so does any other that has nobody left. Counts in the registry's
    row of the sweep stay: they name nobody.
    """
    named = set(_name_all(sweep))
    gone = _find_erased(named, reader) if document_id is None else named & {document_id}
    if not gone:
        return False
    threshold = sweep.record.terms.threshold
    left = replace(
        sweep,
        pairs=_without(sweep.pairs, gone),
        groups=rank(leave_out(sweep.groups, gone, threshold)),
    )
    write_findings(sweep.folder, sweep.about, left.pairs, left.contents(reader, calibration))
    return True


def leave_out(groups: Iterable[Group], gone: Collection[str], threshold: float) -> Iterable[Group]:
    """The groups without these documents, those that were nothing else left out."""
    for group in groups:
        links, severed = (
            [one for one in some if one.left not in gone and one.right not in gone]
            for some in (group.links, group.severed)
        )
        members = [one for one in group.identities if one.document_id not in gone]
        if group.kind is GroupKind.ONE_FACE:
            if links:
                yield make_group(group.key, members, links, severed, threshold)
        elif members:
            yield replace(group, identities=tuple(members))


def _find_erased(named: Collection[str], reader: Reader) -> set[str]:
    asked = sorted(named)
    known = reader.documents_by_id(asked)
    return {key for key in asked if key not in known or known[key].is_erased}


def _name_all(sweep: Reread) -> Iterable[str]:
    for side in _SIDES:
        yield from sweep.pairs[side].unique().to_pylist()
    for group in sweep.groups:
        yield from (one.document_id for one in group.identities)
        for link in (*group.links, *group.severed):
            yield from (link.left, link.right)


def _without(pairs: pa.Table, gone: Collection[str]) -> pa.Table:
    erased = pa.array(sorted(gone), pa.string())
    for side in _SIDES:
        pairs = pairs.filter(pc.invert(pc.is_in(pairs[side], value_set=erased)))
    return pairs
