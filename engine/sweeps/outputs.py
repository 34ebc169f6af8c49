"""The outputs of a sweep: tables, groups and report in its folder, and its summary; and a done
sweep, read from these for a new report or a rewrite.

Tables are Parquet, and CSV that a spreadsheet opens without harm. Rows hold ids, codes, counts and
scores, never a name or a number in the clear.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import structs
from pyarrow import parquet

from engine.cases.decided import measure_precision, read_decided, read_plain
from engine.errors import RegistryError, SweepOver
from engine.matching.calibration import Calibration
from engine.registry.store import Reader
from engine.spreadsheets import save_table
from engine.sweeps.clustering import Owners
from engine.sweeps.folder import GroupFile, SweepFolder, write_groups
from engine.sweeps.groups import without_documents
from engine.sweeps.report.contents import Chance, ReportedSweep, ReportInput
from engine.sweeps.report.page import write_report
from engine.sweeps.risk import LIVENESS_WINDOW, RankedOutlet, Seller, rank, rank_outlets, summarise
from engine.sweeps.sweep_run import SweepResult
from indexes.base import Floats
from indexes.joining import Records
from schema import frozen
from schema.cases import Outcome
from schema.decisions import Comparison
from schema.reasons import Decision
from schema.sweeps import Group, Identity, SweepRecord, SweepState, SweepTerms


def write_table(folder: Path, name: str, table: pa.Table, about: Mapping[str, str]) -> None:
    """Writes `NAME.parquet`, with `about` as its metadata, and `NAME.csv`."""
    labels = {f"sosie.{key}": value for key, value in about.items()}
    save_table(folder / f"{name}.parquet", table.replace_schema_metadata(labels))
    save_table(folder / f"{name}.csv", table)


T = TypeVar("T")
_Columns = Mapping[str, tuple[pa.DataType, Callable[[T], object]]]
"""Columns by name, each by its type and what a row has in it."""

Judgements = Mapping[tuple[str, str], Outcome]
"""Outcomes of judged pairs of documents, lower id first."""

_TEXT, _COUNT = pa.string(), pa.int64()
_TEXTS, _MOMENT, _SCORE = pa.list_(_TEXT), pa.timestamp("us", "UTC"), pa.float32()


def pair_table(pairs: Records, identities: Sequence[Identity], judged: Judgements) -> pa.Table:
    """One row per pair, highest score first; `same_carrier` is null if a side has no line. Left
    out is a pair with a reference of none of the `identities`: its person was erased meanwhile."""
    owners = Owners.numbered([one.reference_ids for one in identities])
    order = np.lexsort((pairs["right"], pairs["left"], -pairs["score"]))
    order = order[(owners.of(pairs["left"][order]) >= 0) & (owners.of(pairs["right"][order]) >= 0)]
    left, right = pairs["left"][order], pairs["right"][order]
    sides = owners.of(left), owners.of(right)
    couples = list(zip(sides[0].tolist(), sides[1].tolist(), strict=True))
    names = [one.document_id for one in identities]
    documents = pa.array(names, _TEXT)
    return pa.table(
        {
            "left_document": documents.take(pa.array(sides[0])),
            "right_document": documents.take(pa.array(sides[1])),
            "left_reference": pa.array(left),
            "right_reference": pa.array(right),
            "score": pa.array(pairs["score"][order]),
            "same_carrier": _share_carriers(identities, couples),
            "outcome": _list_outcomes(names, couples, judged),
        }
    )


def group_table(groups: Sequence[Group], cases: Mapping[str, str]) -> pa.Table:
    """One row per group, in the order given; `risk_terms` are written "name value = points".

    `cases`: case id by group key.
    """
    columns: _Columns[Group] = {
        "key": (_TEXT, lambda group: group.key),
        "kind": (_TEXT, lambda group: group.kind.value),
        "risk": (pa.float64(), lambda group: group.risk),
        "risk_terms": (
            _TEXTS,
            lambda group: [f"{one.name} {one.value:g} = {one.points:g}" for one in group.terms],
        ),
        "case": (_TEXT, lambda group: cases.get(group.key)),
        "identities": (_COUNT, lambda group: len(group.identities)),
        "lines": (_COUNT, lambda group: len(group.lines)),
        "open_disputes": (_COUNT, lambda group: sum(one.disputes for one in group.identities)),
        "documents": (_TEXTS, lambda group: [one.document_id for one in group.identities]),
        "line_ids": (_TEXTS, lambda group: [line.line_id for line in group.lines]),
        "carriers": (_TEXTS, lambda group: sorted({line.carrier for line in group.lines})),
        "outlets": (_TEXTS, lambda group: sorted({line.outlet for line in group.lines})),
        "first_opened": (_MOMENT, lambda group: min(_opened(group), default=None)),
        "last_opened": (_MOMENT, lambda group: max(_opened(group), default=None)),
        "links": (_COUNT, lambda group: len(group.links)),
        "highest_score": (_SCORE, lambda group: max((x.score for x in group.links), default=None)),
        "weakest_score": (_SCORE, lambda group: group.weakest and group.weakest.score),
        "weakest_left": (_TEXT, lambda group: group.weakest and group.weakest.left),
        "weakest_right": (_TEXT, lambda group: group.weakest and group.weakest.right),
        "severed_links": (_COUNT, lambda group: len(group.severed)),
    }
    ranks = pa.array(range(1, len(groups) + 1), _COUNT)
    return _tabulate(groups, columns).add_column(0, "rank", ranks)


def _opened(group: Group) -> list[datetime]:
    return [line.opened_at for line in group.lines]


def seller_table(sellers: Sequence[Seller]) -> pa.Table:
    """One row per outlet or carrier, in the order given."""
    counts = ("groups", "identities", "lines", "disputed_lines")
    return _outlet_table(sellers, counts, "highest_risk")


def liveness_table(outlets: Sequence[RankedOutlet]) -> pa.Table:
    """One row per outlet where liveness checks failed or proofs came, in the order given."""
    counts = ("signed", "signed_failed", "judged", "judged_failed", "proofs")
    return _outlet_table(outlets, counts, "lowest")


def _outlet_table(rows: Sequence[Any], counts: Sequence[str], share: str) -> pa.Table:
    kinds = dict.fromkeys(("carrier", "outlet"), _TEXT) | dict.fromkeys(counts, _COUNT)
    shown = (kinds | {share: pa.float64()}).items()
    return _tabulate(rows, {name: (kind, attrgetter(name)) for name, kind in shown})


def _tabulate(rows: Sequence[T], columns: _Columns[T]) -> pa.Table:
    made = {name: pa.array(map(find, rows), kind) for name, (kind, find) in columns.items()}
    return pa.table(made)


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


@frozen(kw_only=True)
class SweepCost:
    """The cost of a sweep over all its runs, and when it was done; `pace` in comparisons a second
    of its last run, None if that made none."""

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
    ranking, counted = result.ranking, _count(result, cost)
    sweep = _describe(result.task.id, result.task.terms, cost.at, result.sequence, counted)
    scores = result.pairs["score"][~result.is_excepted]
    contents = make_contents(
        sweep, scores, result.groups, cases, reader, calibration, console=console
    )
    references = np.union1d(result.pairs["left"], result.pairs["right"]).tolist()
    standing = read_decided(reader).standing
    pairs = pair_table(result.pairs, reader.facts.identities_of(references), standing)
    about = {
        "sweep": result.task.id,
        "sequence": str(result.sequence),
        "threshold": repr(result.task.terms.threshold),
    }
    write_findings(result.task.folder, about, pairs, contents)
    result.task.folder.save_covered(result.covered)
    return {
        **contents.summary.counts(),
        **counted,
        "new_references": result.new,
        "bounds": list(result.bounds),
        "comparisons_per_s": cost.pace and round(cost.pace),
        "pairs": len(result.pairs) if ranking is None else ranking.candidates.found,
        "expected_false_pairs": structs.asdict(contents.chance.false_pairs),
        "cases": len(set(cases.values())),
        "fraud_in_use": contents.fraud_in_use,
        "proofs": sum(one.proofs for one in contents.liveness),
    }


def _count(result: SweepResult, cost: SweepCost) -> dict[str, Any]:
    """What the report and the summary both say of a sweep."""
    ranking = result.ranking
    counted: dict[str, Any] = {
        "references": result.compared,
        "comparisons": cost.comparisons,
        "seconds": round(cost.seconds, 3),
        "same_document_pairs": result.same_document_pairs,
        "excepted_pairs": (
            int(result.is_excepted.sum()) if ranking is None else ranking.candidates.excepted
        ),
    }
    if ranking is not None:
        # The choice of a budget's groups, and the share of true ones to expect.
        counted["ranking"] = ranking.to_dict() | {"true": result.expected_true}
    return counted


def _describe(
    sweep_id: str, terms: SweepTerms, made_at: datetime, sequence: int, counted: Mapping[str, Any]
) -> ReportedSweep:
    """What a report says of a sweep, by what its summary counts."""
    return ReportedSweep(
        id=sweep_id,
        terms=terms,
        made_at=made_at,
        sequence=sequence,
        ranking=counted.get("ranking"),
        **{name: counted[name] for name in _COUNTED},
    )


_COUNTED = ("references", "comparisons", "seconds", "same_document_pairs", "excepted_pairs")


def write_findings(
    folder: SweepFolder, about: Mapping[str, str], pairs: pa.Table, contents: ReportInput
) -> None:
    """Writes all outputs, which only their owner can read; `about` goes into Parquet files. Last
    come those by which an erasure that was killed in between finds whom they name (`names`)."""
    summary, path = contents.summary, folder.path
    write_table(path, "pairs", pairs, about)
    write_table(path, "groups", group_table(contents.groups, contents.cases), about)
    save_table(path / "outlets.csv", seller_table(summary.outlets))
    save_table(path / "carriers.csv", seller_table(summary.carriers).drop_columns(["outlet"]))
    save_table(path / "liveness.csv", liveness_table(contents.liveness))
    write_report(folder.report, contents)
    write_groups(folder.groups, contents.groups)


_EXCEPTED = [Outcome.TWINS.value, Outcome.MISTAKE.value]


@frozen(eq=False)
class DoneSweep:
    """A done sweep as read from its folder; `pairs` as made by `outputs.pair_table`."""

    record: SweepRecord
    folder: SweepFolder
    pairs: pa.Table
    groups: Sequence[Group]

    @classmethod
    def of(cls, record: SweepRecord, folder: SweepFolder) -> DoneSweep:
        """Reads the files; `SweepOver` if the sweep is not done or its files are gone,
        `RegistryError` if one is damaged."""
        if record.state is not SweepState.DONE:
            raise SweepOver(
                f"the sweep is {record.state.value}: it has a report only when it is done"
            )
        if not folder.groups.exists():
            raise SweepOver("what this sweep found is not kept any more: sweep again")
        try:
            pairs = parquet.read_table(folder.pairs)
        except (OSError, pa.ArrowException) as error:
            raise RegistryError(f"{folder.pairs} cannot be read: sweep again") from error
        file = GroupFile.open(folder.groups)
        return cls(record, folder, pairs, file.page(len(file)))

    @property
    def about(self) -> Mapping[str, str]:
        """The metadata of the tables."""
        kept = self.pairs.schema.metadata or {}
        return {key.decode().removeprefix("sosie."): text.decode() for key, text in kept.items()}

    @property
    def scores(self) -> Floats:
        """float32[m]: scores of all pairs except those judged to be two persons."""
        is_excepted = pc.is_in(self.pairs["outcome"], value_set=pa.array(_EXCEPTED))
        scores: Floats = self.pairs["score"].filter(pc.invert(is_excepted)).to_numpy()
        return scores

    def cases(self, reader: Reader) -> dict[str, str]:
        """Current case ids by group key."""
        found = reader.cases.of_groups([group.key for group in self.groups])
        return {key: case.id for key, case in found.items()}

    def contents(
        self,
        reader: Reader,
        calibration: Calibration,
        crops: Mapping[str, bytes] | None = None,
        console: str = "",
    ) -> ReportInput:
        """The contents of a report, with the judgements made meanwhile."""
        record = self.record
        made_at = record.ended_at or record.created_at
        sweep = _describe(
            record.id, record.terms, made_at, record.sequence or 0, record.summary or {}
        )
        return make_contents(
            sweep, self.scores, self.groups, self.cases(reader), reader, calibration, crops, console
        )


def make_contents(
    sweep: ReportedSweep,
    scores: Floats,
    groups: Sequence[Group],
    cases: Mapping[str, str],
    reader: Reader,
    calibration: Calibration,
    crops: Mapping[str, bytes] | None = None,
    console: str = "",
) -> ReportInput:
    """The contents of a report; `cases`: case id by group key."""
    rate = calibration.fmr_at(sweep.terms.threshold, Comparison.FUSED)
    return ReportInput(
        sweep=sweep,
        chance=Chance(
            false_pairs=rate.times(sweep.comparisons),
            curve=calibration.curve(Comparison.FUSED),
            source=calibration.source,
        ),
        scores=scores,
        groups=groups,
        summary=summarise(groups),
        liveness=rank_outlets(
            reader.liveness_counts(sweep.made_at - LIVENESS_WINDOW, sweep.made_at)
        ),
        fraud_in_use=reader.cases.count_fraud(),
        judged=measure_precision(read_plain(reader)),
        cases=cases,
        carrier_names=reader.carrier_names(),
        crops=crops or {},
        console=console,
    )


_LIVE = "live"
_MOST_FACES = 20


def gather_faces(reader: Reader, document_ids: Sequence[str]) -> dict[str, bytes]:
    """An aligned face that is kept of each document, as a JPEG or PNG file: one that its reference
    was made of, else its newest; a live one before a portrait.

    Refused attempts do not count, since they may show somebody else. A document without a kept face
    is left out. The caller audits this access to personal data.
    """
    faces = {}
    for document, found in reader.cases.faces(document_ids, _MOST_FACES).items():
        sound = [one for one in found if one.decision != Decision.REJECTED]
        sound.sort(key=lambda one: (not one.is_of_reference, one.crop.photograph != _LIVE))
        if sound:
            faces[document] = sound[0].crop.image
    return faces


_SIDES = ("left_document", "right_document")


def erase_from_files(
    sweep: DoneSweep,
    reader: Reader,
    calibration: Calibration,
    document_id: str | None = None,
    console: str = "",
) -> None:
    """Rewrites a sweep's files without a document, or without all erased ones: all of them, for
    those that tell who is named may have been rewritten before a crash.

    A group of one face keeps its key, by which its case is known, with the members left; with less
    than two of them it is removed, and any other group with none. The counts in the registry's row
    of the sweep stay: they name nobody.
    """
    named = set(_list_documents(sweep))
    gone = _find_erased(named, reader) if document_id is None else named & {document_id}
    threshold = sweep.record.terms.threshold
    pairs = sweep.pairs
    erased = pa.array(sorted(gone), pa.string())
    for side in _SIDES:
        pairs = pairs.filter(pc.invert(pc.is_in(pairs[side], value_set=erased)))
    left = replace(
        sweep,
        pairs=pairs,
        groups=rank(
            without_documents(
                sweep.groups, gone, threshold, is_ranked=sweep.record.terms.budget is not None
            )
        ),
    )
    contents = left.contents(reader, calibration, console=console)
    write_findings(sweep.folder, sweep.about, left.pairs, contents)


def _find_erased(named: Collection[str], reader: Reader) -> set[str]:
    asked = sorted(named)
    known = reader.documents_by_id(asked)
    return {key for key in asked if key not in known or known[key].is_erased}


def _list_documents(sweep: DoneSweep) -> Iterable[str]:
    for side in _SIDES:
        yield from sweep.pairs[side].unique().to_pylist()
    for group in sweep.groups:
        yield from (one.document_id for one in group.identities)
        for link in (*group.links, *group.severed):
            yield from (link.left, link.right)
