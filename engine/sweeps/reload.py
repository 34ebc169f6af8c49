"""A done sweep, read from its folder and its record for a new report or a rewrite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import parquet

from engine.cases.precision import measure_precision, read_plain
from engine.errors import RegistryError, SweepOver
from engine.matching.calibration import Calibration
from engine.registry.store import Reader
from engine.sweeps.folder import GroupFile, SweepFolder
from engine.sweeps.report.contents import Chance, ReportedSweep, ReportInput
from engine.sweeps.risk import LIVENESS_WINDOW, rank_outlets, summarise
from schema.cases import Outcome
from schema.decisions import Comparison
from schema.reasons import Decision
from schema.sweeps import Group, SweepRecord, SweepState

_EXCEPTED = [Outcome.TWINS.value, Outcome.MISTAKE.value]


@dataclass(frozen=True, slots=True, eq=False)
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
    def scores(self) -> NDArray[np.float32]:
        """float32[m]: scores of all pairs except those judged to be two persons."""
        is_excepted = pc.is_in(self.pairs["outcome"], value_set=pa.array(_EXCEPTED))
        scores: NDArray[np.float32] = self.pairs["score"].filter(pc.invert(is_excepted)).to_numpy()
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
        found = self.record.summary or {}
        sweep = ReportedSweep(
            id=self.record.id,
            terms=self.record.terms,
            made_at=self.record.ended_at or self.record.created_at,
            sequence=self.record.sequence or 0,
            references=found["references"],
            comparisons=found["comparisons"],
            seconds=found["seconds"],
            same_document_pairs=found["same_document_pairs"],
            excepted_pairs=found["excepted_pairs"],
            ranking=found.get("ranking"),
        )
        return make_contents(
            sweep, self.scores, self.groups, self.cases(reader), reader, calibration, crops, console
        )


def make_contents(
    sweep: ReportedSweep,
    scores: NDArray[np.float32],
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
        carrier_names={carrier.code: carrier.name for carrier in reader.carriers()},
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
            faces[document] = sound[0].image
    return faces
