"""What a sweep found, as tables for analysts.

Rows hold ids, codes, counts and scores, never a name or a number in the clear.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa

from engine.casework.model import Outcome
from engine.sweeps.model import Group, Identity, PairTable
from engine.sweeps.summary import Seller, Summary
from engine.sweeps.tablefiles import TableFolder

if TYPE_CHECKING:
    from numpy.typing import NDArray

Judgements = Mapping[tuple[str, str], Outcome]
"""What people found of two documents, lower id first."""

_TEXTS = pa.list_(pa.string())
_MOMENT = pa.timestamp("us", "UTC")


def write_groups(folder: TableFolder, groups: Sequence[Group], cases: Mapping[str, str]) -> None:
    """`groups.parquet` and `.csv`: a row a group, in the order given.

    `cases`: case id by group key.
    """
    folder.write("groups", group_table(groups, cases))


def write_summary(folder: TableFolder, summary: Summary) -> None:
    """`outlets.csv` and `carriers.csv`."""
    folder.write_csv("outlets", seller_table(summary.outlets))
    folder.write_csv("carriers", seller_table(summary.carriers).drop_columns(["outlet"]))


def pair_table(pairs: PairTable, identities: Sequence[Identity], judged: Judgements) -> pa.Table:
    """A row a pair, highest score first; `same_carrier` is null where a side has no line.

    `identities` own the references. A pair with a reference that none of them owns is left out:
    its person was erased meanwhile.
    """
    owners = _Owners.of(identities)
    order = np.lexsort((pairs.right, pairs.left, -pairs.scores))
    owned = owners.know(pairs.left[order]) & owners.know(pairs.right[order])
    order = order[owned]
    left, right = pairs.left[order], pairs.right[order]
    sides = owners.find(left), owners.find(right)
    couples = list(zip(sides[0].tolist(), sides[1].tolist(), strict=True))
    names = [one.document_id for one in identities]
    documents = pa.array(names, pa.string())
    return pa.table(
        {
            "left_document": documents.take(pa.array(sides[0])),
            "right_document": documents.take(pa.array(sides[1])),
            "left_reference": pa.array(left),
            "right_reference": pa.array(right),
            "score": pa.array(pairs.scores[order]),
            "same_carrier": _share_carriers(identities, couples),
            "outcome": _list_outcomes(names, couples, judged),
        }
    )


def group_table(groups: Sequence[Group], cases: Mapping[str, str]) -> pa.Table:
    """As `write_groups` describes; `risk_terms` are written "name value = points"."""
    lines = [[line for one in group.identities for line in one.lines] for group in groups]
    line_ids = [[line.line_id for line in some] for some in lines]
    opened = [[line.opened_at for line in some] for some in lines]
    weakest = [group.weakest for group in groups]
    columns: dict[str, pa.Array] = {
        "rank": pa.array(range(1, len(groups) + 1), pa.int64()),
        "key": pa.array([group.key for group in groups], pa.string()),
        "kind": pa.array([group.kind.value for group in groups], pa.string()),
        "risk": pa.array([group.risk for group in groups], pa.float64()),
        "risk_terms": pa.array([_tell_terms(group) for group in groups], _TEXTS),
        "case": pa.array([cases.get(group.key) for group in groups], pa.string()),
        "identities": _counts(group.identities for group in groups),
        "lines": _counts(lines),
        "open_disputes": pa.array(
            [sum(one.disputes for one in group.identities) for group in groups], pa.int64()
        ),
        "documents": pa.array(
            [[one.document_id for one in group.identities] for group in groups], _TEXTS
        ),
        "line_ids": pa.array(line_ids, _TEXTS),
        "carriers": pa.array([sorted({x.carrier for x in some}) for some in lines], _TEXTS),
        "outlets": pa.array([sorted({x.outlet for x in some}) for some in lines], _TEXTS),
        "first_opened": pa.array([min(some, default=None) for some in opened], _MOMENT),
        "last_opened": pa.array([max(some, default=None) for some in opened], _MOMENT),
        "links": _counts(group.links for group in groups),
        "highest_score": pa.array(
            [max((x.score for x in group.links), default=None) for group in groups], pa.float32()
        ),
        "weakest_score": pa.array([x and x.score for x in weakest], pa.float32()),
        "weakest_left": pa.array([x and x.left for x in weakest], pa.string()),
        "weakest_right": pa.array([x and x.right for x in weakest], pa.string()),
        "severed_links": _counts(group.severed for group in groups),
    }
    return pa.table(columns)


def seller_table(sellers: Sequence[Seller]) -> pa.Table:
    """A row an outlet or a carrier, in the order given."""
    return pa.table(
        {
            "carrier": pa.array([one.carrier for one in sellers], pa.string()),
            "outlet": pa.array([one.outlet for one in sellers], pa.string()),
            "groups": pa.array([one.groups for one in sellers], pa.int64()),
            "identities": pa.array([one.identities for one in sellers], pa.int64()),
            "lines": pa.array([one.lines for one in sellers], pa.int64()),
            "disputed_lines": pa.array([one.disputed_lines for one in sellers], pa.int64()),
            "highest_risk": pa.array([one.highest_risk for one in sellers], pa.float64()),
        }
    )


@dataclass(frozen=True, slots=True)
class _Owners:
    """Whose each reference is: ids int64[n], ascending, and places in the list of identities."""

    ids: NDArray[np.int64]
    places: NDArray[np.int64]

    @classmethod
    def of(cls, identities: Sequence[Identity]) -> Self:
        counts = [len(one.reference_ids) for one in identities]
        ids = np.array([x for one in identities for x in one.reference_ids], dtype=np.int64)
        order = np.argsort(ids, kind="stable")
        return cls(ids[order], np.repeat(np.arange(len(identities)), counts)[order])

    def know(self, references: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.isin(references, self.ids)

    def find(self, references: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.places[np.searchsorted(self.ids, references)]


def _share_carriers(identities: Sequence[Identity], couples: Sequence[tuple[int, int]]) -> pa.Array:
    carriers = [frozenset(line.carrier for line in one.lines) for one in identities]
    return pa.array(
        [
            not carriers[one].isdisjoint(carriers[other])
            if carriers[one] and carriers[other]
            else None
            for one, other in couples
        ],
        pa.bool_(),
    )


def _list_outcomes(
    names: Sequence[str], couples: Sequence[tuple[int, int]], judged: Judgements
) -> pa.Array:
    if not judged:
        return pa.nulls(len(couples), pa.string())
    pairs = ((names[one], names[other]) for one, other in couples)
    found = (judged.get((min(pair), max(pair))) for pair in pairs)
    return pa.array([one.value if one else None for one in found], pa.string())


def _counts(lists: Iterable[Sequence[Any]]) -> pa.Array:
    return pa.array([len(one) for one in lists], pa.int64())


def _tell_terms(group: Group) -> list[str]:
    return [f"{term.name} {term.value:g} = {term.points:g}" for term in group.terms]
