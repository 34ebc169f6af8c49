"""The outputs of a sweep: tables, groups and report in its folder, and its summary.

Tables are Parquet, and CSV that a spreadsheet opens without harm. Rows hold ids, codes, counts and
scores, never a name or a number in the clear.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from msgspec import structs
from pyarrow import csv, parquet

from engine.atomic_files import replacing
from engine.cases.decided import read_decided
from engine.matching.calibration import Calibration
from engine.registry.store import Reader
from engine.spreadsheets import guard_cells
from engine.sweeps.clustering import Owners, PairTable
from engine.sweeps.folder import SweepFolder, write_groups
from engine.sweeps.reload import make_contents
from engine.sweeps.report.contents import ReportedSweep, ReportInput
from engine.sweeps.report.page import write_report
from engine.sweeps.risk import RankedOutlet, Seller
from engine.sweeps.sweep_run import SweepResult
from schema.cases import Outcome
from schema.sweeps import Group, Identity, LineFact


def write_table(folder: Path, name: str, table: pa.Table, about: Mapping[str, str]) -> None:
    """Writes `NAME.parquet`, with `about` as its metadata, and `NAME.csv`."""
    labelled = table.replace_schema_metadata(
        {f"sosie.{key}": value for key, value in about.items()}
    )
    with replacing(folder / f"{name}.parquet") as beside, beside.open("wb") as file:
        parquet.write_table(labelled, file, compression="zstd")
    write_csv(folder, name, table)


def write_csv(folder: Path, name: str, table: pa.Table) -> None:
    """Writes `NAME.csv`, which a spreadsheet opens without harm."""
    with replacing(folder / f"{name}.csv") as beside, beside.open("wb") as file:
        csv.write_csv(guard_cells(table), file)


Judgements = Mapping[tuple[str, str], Outcome]
"""Outcomes of judged pairs of documents, lower id first."""

_TEXTS = pa.list_(pa.string())
_MOMENT = pa.timestamp("us", "UTC")


def pair_table(pairs: PairTable, identities: Sequence[Identity], judged: Judgements) -> pa.Table:
    """One row per pair, highest score first; `same_carrier` is null if a side has no line.

    `identities` own the references. A pair with a reference of none of them is left out: its person
    was erased meanwhile.
    """
    owners = Owners.numbered([one.reference_ids for one in identities])
    order = np.lexsort((pairs.right, pairs.left, -pairs.scores))
    order = order[(owners.of(pairs.left[order]) >= 0) & (owners.of(pairs.right[order]) >= 0)]
    left, right = pairs.left[order], pairs.right[order]
    sides = owners.of(left), owners.of(right)
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
    """One row per group, in the order given; `risk_terms` are written "name value = points".

    `cases`: case id by group key.
    """
    lines = [[line for one in group.identities for line in one.lines] for group in groups]
    columns: dict[str, pa.Array] = {
        "rank": pa.array(range(1, len(groups) + 1), pa.int64()),
        "key": pa.array([group.key for group in groups], pa.string()),
        "kind": pa.array([group.kind.value for group in groups], pa.string()),
        "risk": pa.array([group.risk for group in groups], pa.float64()),
        "risk_terms": pa.array([_describe_terms(group) for group in groups], _TEXTS),
        "case": pa.array([cases.get(group.key) for group in groups], pa.string()),
        "identities": _counts(group.identities for group in groups),
        "lines": _counts(lines),
        "open_disputes": pa.array(
            [sum(one.disputes for one in group.identities) for group in groups], pa.int64()
        ),
        "documents": pa.array(
            [[one.document_id for one in group.identities] for group in groups], _TEXTS
        ),
        **_line_columns(lines),
        **_link_columns(groups),
    }
    return pa.table(columns)


def _line_columns(lines: Sequence[Sequence[LineFact]]) -> dict[str, pa.Array]:
    """Columns of the lines of each group."""
    opened = [[line.opened_at for line in some] for some in lines]
    return {
        "line_ids": pa.array([[line.line_id for line in some] for some in lines], _TEXTS),
        "carriers": pa.array([sorted({x.carrier for x in some}) for some in lines], _TEXTS),
        "outlets": pa.array([sorted({x.outlet for x in some}) for some in lines], _TEXTS),
        "first_opened": pa.array([min(some, default=None) for some in opened], _MOMENT),
        "last_opened": pa.array([max(some, default=None) for some in opened], _MOMENT),
    }


def _link_columns(groups: Sequence[Group]) -> dict[str, pa.Array]:
    """Columns of the links of each group."""
    weakest = [group.weakest for group in groups]
    return {
        "links": _counts(group.links for group in groups),
        "highest_score": pa.array(
            [max((x.score for x in group.links), default=None) for group in groups], pa.float32()
        ),
        "weakest_score": pa.array([x and x.score for x in weakest], pa.float32()),
        "weakest_left": pa.array([x and x.left for x in weakest], pa.string()),
        "weakest_right": pa.array([x and x.right for x in weakest], pa.string()),
        "severed_links": _counts(group.severed for group in groups),
    }


def seller_table(sellers: Sequence[Seller]) -> pa.Table:
    """One row per outlet or carrier, in the order given."""
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


def liveness_table(outlets: Sequence[RankedOutlet]) -> pa.Table:
    """One row per outlet where liveness checks failed, in the order given."""
    columns: dict[str, pa.Array] = {
        name: pa.array([getattr(one, name) for one in outlets], kind)
        for name, kind in (
            ("carrier", pa.string()),
            ("outlet", pa.string()),
            ("signed", pa.int64()),
            ("signed_failed", pa.int64()),
            ("judged", pa.int64()),
            ("judged_failed", pa.int64()),
            ("lowest", pa.float64()),
        )
    }
    return pa.table(columns)


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


def _describe_terms(group: Group) -> list[str]:
    return [f"{term.name} {term.value:g} = {term.points:g}" for term in group.terms]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepCost:
    """The cost of a sweep: comparisons, seconds over all its runs; and when it was done.

    `pace` is the comparisons per second of its last run, None if that made none.
    """

    comparisons: int
    seconds: float
    pace: float | None
    at: datetime


def write_outputs(
    result: SweepResult,
    cases: Mapping[str, str],
    cost: SweepCost,
    reader: Reader,
    calibration: Calibration,
    console: str = "",
) -> dict[str, Any]:
    """Writes all outputs and what the next sweep needs; returns the summary.

    `cases`: case id by group key. The summary is plain JSON: counts, scores and rates.
    """
    sweep = _describe(result, cost)
    scores = result.pairs.scores[~result.is_excepted]
    contents = make_contents(
        sweep, scores, result.groups, cases, reader, calibration, console=console
    )
    assert contents.chance is not None, "a calibration is given"
    references = np.union1d(result.pairs.left, result.pairs.right).tolist()
    standing = read_decided(reader).standing
    pairs = pair_table(result.pairs, reader.facts.identities_of(references), standing)
    about = {
        "sweep": result.task.id,
        "sequence": str(result.sequence),
        "threshold": repr(result.task.terms.threshold),
    }
    write_findings(result.task.folder, about, pairs, contents)
    result.task.folder.save_covered(result.covered)
    ranking = result.ranking
    return ({} if ranking is None else {"ranking": sweep.ranking}) | {
        **contents.summary.counts(),
        "references": result.compared,
        "new_references": result.new,
        "bounds": list(result.bounds),
        "comparisons": cost.comparisons,
        "seconds": round(cost.seconds, 3),
        "comparisons_per_s": cost.pace and round(cost.pace),
        "pairs": len(result.pairs) if ranking is None else ranking.candidates.found,
        "same_document_pairs": result.same_document_pairs,
        "excepted_pairs": sweep.excepted_pairs,
        "expected_false_pairs": structs.asdict(contents.chance.false_pairs),
        "cases": len(set(cases.values())),
        "fraud_in_use": contents.fraud_in_use,
    }


def write_findings(
    folder: SweepFolder, about: Mapping[str, str], pairs: pa.Table, contents: ReportInput
) -> None:
    """Writes all outputs, only their owner can read them; `about` goes into Parquet files.

    Files by which an erasure finds whom they name (`SweepFolder.names`) come after the others that
    name the same: killed in between, it finds them again.
    """
    summary = contents.summary
    write_table(folder.path, "pairs", pairs, about)
    write_table(folder.path, "groups", group_table(contents.groups, contents.cases), about)
    write_csv(folder.path, "outlets", seller_table(summary.outlets))
    write_csv(folder.path, "carriers", seller_table(summary.carriers).drop_columns(["outlet"]))
    write_csv(folder.path, "liveness", liveness_table(contents.liveness))
    write_report(folder.report, contents)
    write_groups(folder.groups, contents.groups)


def _tell(result: SweepResult) -> dict[str, Any] | None:
    """The choice of a budget's groups, and the share of true ones to expect."""
    if result.ranking is None:
        return None
    return result.ranking.to_dict() | {"true": result.expected_true}


def _describe(result: SweepResult, cost: SweepCost) -> ReportedSweep:
    return ReportedSweep(
        id=result.task.id,
        terms=result.task.terms,
        made_at=cost.at,
        sequence=result.sequence,
        references=result.compared,
        comparisons=cost.comparisons,
        seconds=cost.seconds,
        same_document_pairs=result.same_document_pairs,
        excepted_pairs=(
            int(result.is_excepted.sum())
            if result.ranking is None
            else result.ranking.candidates.excepted
        ),
        ranking=_tell(result),
    )
