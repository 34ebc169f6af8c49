"""What a sweep leaves in its folder: tables, groups, the report; and its counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np

from engine.casework.precision import measure_precision
from engine.matching.thresholds import Calibration, Comparison
from engine.registry.casefile import JudgedPair
from engine.registry.reader import Reader
from engine.sweeps import tables
from engine.sweeps.groupfile import write_groups
from engine.sweeps.report.contents import Chance, Judged, ReportInput, Sweep
from engine.sweeps.report.page import write_report
from engine.sweeps.summary import Summary, summarise
from engine.sweeps.sweeping import Swept
from engine.sweeps.tablefiles import TableFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What a sweep took: comparisons, seconds over all its runs; and when it was done.

    `pace`: comparisons a second of its last run while it compared, None where that made none.
    """

    comparisons: int
    seconds: float
    pace: float | None
    at: datetime


def write_outputs(
    swept: Swept,
    cases: Mapping[str, str],
    account: Account,
    reader: Reader,
    calibration: Calibration,
) -> dict[str, Any]:
    """Writes everything that people read, and what the next sweep needs; returns the summary.

    `cases`: case id by group key. The summary is plain JSON: counts, scores and rates.
    """
    folder, summary = swept.task.folder, summarise(swept.groups)
    judged = reader.judged_pairs()
    _write_tables(swept, cases, summary, judged, reader)
    write_groups(folder.groups, swept.groups)
    chance = _expect(swept, account, calibration)
    contents = ReportInput(
        sweep=_describe(swept, account),
        chance=chance,
        scores=swept.pairs.scores[~swept.is_excepted],
        groups=swept.groups,
        summary=summary,
        judged=_judge(judged),
        cases=cases,
        carrier_names={carrier.code: carrier.name for carrier in reader.carriers()},
    )
    write_report(folder.report, contents)
    folder.keep_covered(swept.covered)
    return {
        **summary.counts(),
        "references": swept.compared,
        "new_references": swept.new,
        "comparisons": account.comparisons,
        "seconds": round(account.seconds, 3),
        "comparisons_per_s": account.pace and round(account.pace),
        "pairs": len(swept.pairs),
        "same_document_pairs": swept.same_document_pairs,
        "excepted_pairs": int(swept.is_excepted.sum()),
        "expected_false_pairs": asdict(chance.false_pairs),
        "cases": len(set(cases.values())),
    }


def _write_tables(
    swept: Swept,
    cases: Mapping[str, str],
    summary: Summary,
    judged: Sequence[JudgedPair],
    reader: Reader,
) -> None:
    about = {
        "sweep": swept.task.id,
        "sequence": str(swept.sequence),
        "threshold": repr(swept.task.terms.threshold),
    }
    into = TableFolder(path=swept.task.folder.path, about=about)
    references = np.union1d(swept.pairs.left, swept.pairs.right).tolist()
    outcomes = {(pair.left_document, pair.right_document): pair.outcome for pair in judged}
    tables.write_pairs(into, swept.pairs, reader.identities_of(references), outcomes)
    tables.write_groups(into, swept.groups, cases)
    tables.write_summary(into, summary)


def _describe(swept: Swept, account: Account) -> Sweep:
    return Sweep(
        id=swept.task.id,
        terms=swept.task.terms,
        made_at=account.at,
        sequence=swept.sequence,
        references=swept.compared,
        comparisons=account.comparisons,
        seconds=account.seconds,
        same_document_pairs=swept.same_document_pairs,
        excepted_pairs=int(swept.is_excepted.sum()),
    )


def _expect(swept: Swept, account: Account, calibration: Calibration) -> Chance:
    rate = calibration.fmr_at(swept.task.terms.threshold, Comparison.FUSED)
    return Chance(
        false_pairs=rate.times(account.comparisons),
        curve=calibration.curve(Comparison.FUSED),
        source=calibration.source,
    )


def _judge(pairs: Sequence[JudgedPair]) -> Judged | None:
    found = measure_precision(pairs)
    rate = found.rate
    return None if rate is None else Judged(pairs=found.judged, precision=rate)
