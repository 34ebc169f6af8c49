"""Error rates at one threshold by quality, by attributes, and by the years between."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.accuracy.ageing import Ageing, measure_ageing
from engine.accuracy.attributes import Attributes, read_attributes, read_dates
from engine.accuracy.comparisons import compare_mated, find_close_strangers
from engine.accuracy.differential import AttributeReport, Sample, compare_groups
from engine.accuracy.metrics import lowest_rate, require_support, thresholds_at
from engine.accuracy.quality_bands import QualityBands, band_quality
from engine.accuracy.templates import limit_photographs
from engine.errors import RequestError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from engine.accuracy.embedding import Embeddings
    from engine.accuracy.labelled import LabelledFolder
    from engine.accuracy.templates import Templates

COMMON_FMR = 1e-4
PHOTOGRAPHS = 8
"""Of one person: or the rates of a group would be those of its most photographed."""


@dataclass(frozen=True, slots=True)
class Known:
    """What an operator's files say of the photographs; either may be missing."""

    attributes: Attributes | None
    captured_at: NDArray[np.datetime64] | None

    @classmethod
    def read(cls, folder: LabelledFolder, attributes: Path | None, dates: Path | None) -> Known:
        """Raises `RequestError` where a file can't be read, or both have dates."""
        found = None if attributes is None else read_attributes(attributes, folder)
        days = found.captured_at if found else None
        if dates is not None:
            if days is not None:
                raise RequestError("both files have the column `captured_at`: give it once")
            days = read_dates(dates, folder)
        return cls(found, days)


@dataclass(frozen=True, slots=True)
class Conditions:
    """All at `threshold`, which keeps `common_fmr` over all pairs; None where nothing was given.

    The threshold and what hangs on it are None where the data support no rate of 0.1.
    """

    common_fmr: float | None
    threshold: float | None
    quality: QualityBands | None
    attributes: tuple[AttributeReport, ...]
    ageing: Ageing | None

    def to_dict(self) -> dict[str, Any]:
        """The parts of an evaluation's report."""
        return {
            "common_fmr": self.common_fmr,
            "common_threshold": self.threshold,
            "quality_bands": self.quality and asdict(self.quality),
            "attributes": [asdict(report) for report in self.attributes],
            "ageing": self.ageing and asdict(self.ageing),
        }


def measure_conditions(
    embeddings: Embeddings,
    singles: Templates,
    nonmated: NDArray[np.float32],
    known: Known,
    fmr: float | None,
    *,
    seed: int,
) -> Conditions:
    """`nonmated`: all scores of strangers among `singles`; `fmr` may raise `RateUnsupported`."""
    rate = choose_rate(fmr, len(nonmated))
    if rate is None:
        return Conditions(None, None, None, (), None)
    threshold = float(thresholds_at(nonmated, np.array([rate]))[0])
    few = limit_photographs(singles, PHOTOGRAPHS)
    ageing = None
    if known.captured_at is not None:
        days = known.captured_at[embeddings.places]
        ageing = measure_ageing(compare_mated(singles), singles.people, days, threshold, seed=seed)
    return Conditions(
        common_fmr=rate,
        threshold=threshold,
        quality=band_quality(
            few,
            embeddings.qualities[embeddings.places[few.photographs[:, 0]]],
            threshold,
            photographs=PHOTOGRAPHS,
            seed=seed,
        ),
        attributes=_compare_columns(embeddings, few, known.attributes, threshold, rate, seed),
        ageing=ageing,
    )


def _compare_columns(
    embeddings: Embeddings,
    few: Templates,
    attributes: Attributes | None,
    threshold: float,
    rate: float,
    seed: int,
) -> tuple[AttributeReport, ...]:
    if attributes is None:
        return ()
    is_failed = np.zeros(len(embeddings.vectors), bool)
    is_failed[embeddings.failed] = True
    sample = Sample(
        singles=few,
        places=embeddings.places[few.photographs[:, 0]],
        people=embeddings.folder.people,
        is_failed=is_failed,
        mated=compare_mated(few),
        matches=find_close_strangers(few, threshold),
        threshold=threshold,
        common_fmr=rate,
    )
    return tuple(compare_groups(sample, labels, seed=seed) for labels in attributes.columns)


def choose_rate(wanted: float | None, nonmated_pairs: int) -> float | None:
    """The rate wanted, or COMMON_FMR, or where that lacks support the lowest decade that has it.

    None where not even 0.1 has; raises `RateUnsupported` where the one wanted has none.
    """
    if wanted is not None:
        require_support(wanted, nonmated_pairs)
        return wanted
    rates = (COMMON_FMR, 1e-3, 1e-2, 1e-1)
    return next((rate for rate in rates if rate >= lowest_rate(nonmated_pairs) * (1 - 1e-9)), None)
