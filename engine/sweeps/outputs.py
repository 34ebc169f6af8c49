"""What a sweep leaves in its folder: tables, groups, the report; and its counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from engine.matching.thresholds import Calibration
from engine.registry.reader import Reader
from engine.sweeps import tables
from engine.sweeps.folder import SweepFolder
from engine.sweeps.groupfile import write_groups
from engine.sweeps.report.contents import ReportInput, Sweep
from engine.sweeps.report.page import write_report
from engine.sweeps.rereading import expect_by_chance, judge_so_far
from engine.sweeps.summary import summarise
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
    sweep, judged = _describe(swept, account), reader.judged_pairs()
    chance = expect_by_chance(sweep, calibration)
    contents = ReportInput(
        sweep=sweep,
        chance=chance,
        scores=swept.pairs.scores[~swept.is_excepted],
        groups=swept.groups,
        summary=summarise(swept.groups),
        judged=judge_so_far(judged),
        cases=cases,
        carrier_names={carrier.code: carrier.name for carrier in reader.carriers()},
    )
    references = np.union1d(swept.pairs.left, swept.pairs.right).tolist()
    outcomes = {(pair.left_document, pair.right_document): pair.outcome for pair in judged}
    pairs = tables.pair_table(swept.pairs, reader.identities_of(references), outcomes)
    about = {
        "sweep": swept.task.id,
        "sequence": str(swept.sequence),
        "threshold": repr(swept.task.terms.threshold),
    }
    write_findings(swept.task.folder, about, pairs, contents)
    swept.task.folder.keep_covered(swept.covered)
    return {
        **contents.summary.counts(),
        "references": swept.compared,
        "new_references": swept.new,
        "comparisons": account.comparisons,
        "seconds": round(account.seconds, 3),
        "comparisons_per_s": account.pace and round(account.pace),
        "pairs": len(swept.pairs),
        "same_document_pairs": swept.same_document_pairs,
        "excepted_pairs": sweep.excepted_pairs,
        "expected_false_pairs": asdict(chance.false_pairs),
        "cases": len(set(cases.values())),
    }


def write_findings(
    folder: SweepFolder, about: Mapping[str, str], pairs: pa.Table, contents: ReportInput
) -> None:
    """All that people read: `about` is told in the Parquet files."""
    into = TableFolder(path=folder.path, about=about)
    into.write("pairs", pairs)
    tables.write_groups(into, contents.groups, contents.cases)
    tables.write_summary(into, contents.summary)
    write_groups(folder.groups, contents.groups)
    write_report(folder.report, contents)


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
