"""Error rates at one threshold by quality and by attributes; they weigh people, as all others do.

Quality (ISO/IEC 29794-1 asks for FNMR by it): a comparison is as good as the worse of its two
photographs. Photographs are ranked by each measure of `engine.faces.quality` and divided into bands
by rank: every set of photographs has a worst tenth.

Differentials by attribute are in the terms of ISO/IEC 19795-10, all groups at one threshold: of the
FNMR (false negative), and of the FMR between strangers within a group (false positive). The
interval of a ratio divides the ends of both groups' intervals: it is wide on purpose, since the
worst and the best group were chosen after the fact.
"""

import numpy as np

from engine.accuracy.bootstrap import (
    Share,
    count_strangers,
    draw_people,
    pair_share_of,
    refuse_few,
    share_of,
)
from engine.accuracy.dataset import QUALITIES, Embeddings, Labels
from engine.accuracy.pair_scores import (
    MIN_EXPECTED_PAIRS,
    MOST_PHOTOGRAPHS,
    ComparedPairs,
    PairScores,
    TemplateSet,
    choose_rate,
    compare_mated,
    find_close_strangers,
    limit_photographs,
)
from indexes.base import Flags, Floats, Ints
from schema import frozen

MIXED, UNKNOWN = -2, -1
"""Codes of comparisons with two different labels, or with a side without one."""


@frozen
class Group:
    """Rates of one label; `fnmr` or `fmr` is None where a reason is given instead.

    `fta`: of all its photographs. `median`: of its mated scores, which shift before errors appear.
    """

    label: str
    people: int
    photographs: int
    mated_pairs: int
    nonmated_pairs: int
    fta: Share
    median: float | None
    fnmr: Share | None
    fnmr_refused: str | None
    fmr: Share | None
    fmr_refused: str | None


@frozen
class Differential:
    """The worst group's rate over the best one's, and over the geometric mean of all.

    None where the best group has no error: `low` is still a lower bound of the ratio.
    """

    worst: str
    best: str
    ratio: float | None
    low: float
    high: float | None
    over_geometric_mean: float | None


@frozen
class AttributeReport:
    """Groups of a column and both differentials (None with fewer than two groups to compare).

    `across`: FMR of strangers of different groups. `unlabelled` photographs and `mixed_pairs`,
    mated comparisons with two labels, are counted nowhere.
    """

    column: str
    threshold: float
    common_fmr: float
    groups: tuple[Group, ...]
    unlabelled: int
    mixed_pairs: int
    across: Share | None
    false_negative: Differential | None
    false_positive: Differential | None


@frozen(eq=False)
class GroupSample:
    """Input of every column: templates, their comparisons, and the threshold.

    `singles` are rows of `places` in the folder, whose photographs are `people` int64[n] with
    `is_failed` bool[n]; `matches` are the strangers at or above `threshold`.
    """

    singles: TemplateSet
    places: Ints
    people: Ints
    is_failed: Flags
    mated: ComparedPairs
    matches: ComparedPairs
    threshold: float
    common_fmr: float


def compare_groups(sample: GroupSample, labels: Labels) -> AttributeReport:
    """Rates of each group of a column, and their differentials."""
    codes = labels.codes[sample.places]
    mated_codes, matched_codes = _shared(codes, sample.mated), _shared(codes, sample.matches)
    weights = draw_people(sample.people, int(sample.people.max()) + 1)
    people = sample.singles.people
    templates = [
        np.bincount(people[codes == number], minlength=len(weights))
        for number in range(len(labels.names))
    ]
    groups = tuple(
        _measure(
            sample,
            name,
            labels.codes == number,
            sample.mated.keep(mated_codes == number),
            sample.matches.keep(matched_codes == number),
            templates[number],
            weights,
        )
        for number, name in enumerate(labels.names)
    )
    across = None
    labelled = np.bincount(people[codes >= 0], minlength=len(weights))
    if count_strangers(labelled) > sum(map(count_strangers, templates)):
        mixed = sample.matches.keep(matched_codes == MIXED)
        across = pair_share_of(
            people[mixed.left], people[mixed.right], labelled, weights, without=templates
        )
    return AttributeReport(
        column=labels.column,
        threshold=sample.threshold,
        common_fmr=sample.common_fmr,
        groups=groups,
        unlabelled=int((labels.codes < 0).sum()),
        mixed_pairs=int((mated_codes == MIXED).sum()),
        across=across,
        false_negative=find_differential({g.label: g.fnmr for g in groups if g.fnmr}),
        false_positive=find_differential({g.label: g.fmr for g in groups if g.fmr}),
    )


def _shared(codes: Ints, compared: ComparedPairs) -> Ints:
    """int64[k]: the label of both sides, MIXED where they differ, UNKNOWN where one is."""
    left, right = codes[compared.left], codes[compared.right]
    both = np.where(left == right, left, MIXED)
    return np.where((left < 0) | (right < 0), UNKNOWN, both)


def _measure(
    sample: GroupSample,
    label: str,
    own: Flags,
    mated: ComparedPairs,
    matches: ComparedPairs,
    templates: Ints,
    weights: Floats,
) -> Group:
    """The group of the photographs `own` bool[photographs], with its comparisons."""
    people, scores = sample.singles.people, mated.scores
    owners = people[mated.left]
    fnmr_refused = refuse_few(len(np.unique(owners)), "people with two photographs")
    least_pairs = round(MIN_EXPECTED_PAIRS / sample.common_fmr)
    strangers, asked = count_strangers(templates), int((templates > 0).sum())
    fmr_refused = refuse_few(asked) or refuse_few(
        strangers, f"non-mated pairs at FMR {sample.common_fmr:g}", least_pairs
    )
    fnmr = fmr = None
    if not fnmr_refused:
        fnmr = share_of(owners, scores < sample.threshold, weights, is_mean=True)
    if not fmr_refused:
        fmr = pair_share_of(people[matches.left], people[matches.right], templates, weights)
    return Group(
        label=label,
        people=len(np.unique(sample.people[own])),
        photographs=int(own.sum()),
        mated_pairs=len(scores),
        nonmated_pairs=strangers,
        fta=share_of(sample.people[own], sample.is_failed[own], weights),
        median=float(np.median(scores)) if len(scores) else None,
        fnmr=fnmr,
        fnmr_refused=fnmr_refused,
        fmr=fmr,
        fmr_refused=fmr_refused,
    )


def find_differential(rates: dict[str, Share]) -> Differential | None:
    """Between the groups of the highest and of the lowest rate; None with fewer than two groups."""
    if len(rates) < 2:
        return None
    worst = max(rates, key=lambda label: rates[label].value)
    best = min(rates, key=lambda label: rates[label].value)
    top, bottom = rates[worst], rates[best]
    values = np.array([rate.value for rate in rates.values()])
    has_errors = bool((values > 0).all())
    return Differential(
        worst=worst,
        best=best,
        ratio=top.value / bottom.value if bottom.value else None,
        low=top.low / bottom.high if bottom.high else 1.0,
        high=top.high / bottom.low if bottom.low else None,
        over_geometric_mean=top.value / float(np.exp(np.log(values).mean()))
        if has_errors
        else None,
    )


BANDS = (("best half", 0.5), ("next quarter", 0.75), ("next 15 %", 0.9), ("worst tenth", 1.0))
"""Bands of the photographs, and the share of them up to which each extends."""
MIDDLE_EXPOSURE = 0.5


MEASURES = {
    "inter_eye_px": ("distance of the eyes", "px"),
    "sharpness": ("sharpness", ""),
    "exposure": ("exposure", "off the middle"),
    "contrast": ("contrast", ""),
    "yaw_deg": ("turned left or right", "°"),
    "pitch_deg": ("turned up or down", "°"),
    "roll_deg": ("tilted", "°"),
    "detection_score": ("detection score", ""),
}
"""Measures of quality, in words and with their units."""


def _badness(measure: str, values: Floats) -> Floats:
    """The values, mapped so that the worst is the greatest."""
    if measure == "exposure":
        values = values - np.float32(MIDDLE_EXPOSURE)
    elif not measure.endswith("_deg"):
        return -values
    distance: Floats = np.abs(values)
    return distance


@frozen
class QualityBand:
    """A band with values up to `worst`: degrees to either side, or distance from mid exposure.

    Without `fnmr`, `refused` says why.
    """

    name: str
    worst: float
    people: int
    mated_pairs: int
    fnmr: Share | None
    refused: str | None


@frozen
class MeasuredQuality:
    """The bands of one measure, best first."""

    measure: str
    unit: str
    bands: tuple[QualityBand, ...]


@frozen
class QualityBands:
    """FNMR at `threshold`, over all mated comparisons and by band.

    At most `photographs` of a person are compared, so that nobody dominates.
    """

    threshold: float
    photographs: int
    overall: Share
    measures: tuple[MeasuredQuality, ...]


@frozen
class Conditions:
    """Rates at `threshold`, which keeps `common_fmr`; None where nothing was given.

    The threshold and all that depends on it are None where the data do not support a rate of 0.1.
    """

    common_fmr: float | None
    threshold: float | None
    quality: QualityBands | None
    attributes: tuple[AttributeReport, ...]


def measure_conditions(
    embeddings: Embeddings,
    singles: TemplateSet,
    scores: PairScores,
    attributes: tuple[Labels, ...],
    fmr: float | None,
) -> Conditions:
    """`scores` of the photographs that are compared; `fmr` may raise `RateUnsupported`."""
    rate = choose_rate(fmr, len(scores.nonmated))
    if rate is None:
        return Conditions(None, None, None, ())
    threshold = float(scores.thresholds_at(np.array([rate]))[0])
    few = limit_photographs(singles, MOST_PHOTOGRAPHS)
    places = embeddings.places[few.photographs[:, 0]]
    reports: tuple[AttributeReport, ...] = ()
    if attributes:
        sample = GroupSample(
            singles=few,
            places=places,
            people=embeddings.folder.people,
            is_failed=embeddings.is_failed,
            mated=compare_mated(few),
            matches=find_close_strangers(few, threshold),
            threshold=threshold,
            common_fmr=rate,
        )
        reports = tuple(compare_groups(sample, one) for one in attributes)
    return Conditions(
        common_fmr=rate,
        threshold=threshold,
        quality=band_quality(few, embeddings.qualities[places], threshold),
        attributes=reports,
    )


def band_quality(singles: TemplateSet, qualities: Floats, threshold: float) -> QualityBands | None:
    """FNMR by band; `qualities` float32[n, 8], a row per template. None without mated pairs."""
    mated = compare_mated(singles)
    if not len(mated):
        return None
    people = singles.people[mated.left]
    weights = draw_people(people, singles.population)
    is_missed = mated.scores < threshold

    def measure(name: str, end: float, held: Flags) -> QualityBand:
        owners = people[held]
        count = len(np.unique(owners))
        refused = refuse_few(count)
        fnmr = None if refused else share_of(owners, is_missed[held], weights, is_mean=True)
        return QualityBand(name, abs(float(end)), count, len(owners), fnmr, refused)

    measured = []
    for quality, (_, unit) in MEASURES.items():
        badness = _badness(quality, qualities[:, QUALITIES.index(quality)])
        counts = (np.array([end for _, end in BANDS]) * len(badness)).astype(int)
        ends = np.sort(badness)[np.clip(counts, 1, len(badness)) - 1]
        band_of = np.searchsorted(ends, np.maximum(badness[mated.left], badness[mated.right]))
        bands = (
            measure(name, end, band_of == number)
            for number, ((name, _), end) in enumerate(zip(BANDS, ends, strict=True))
        )
        measured.append(MeasuredQuality(quality, unit, tuple(bands)))
    return QualityBands(
        threshold=threshold,
        photographs=MOST_PHOTOGRAPHS,
        overall=share_of(people, is_missed, weights, is_mean=True),
        measures=tuple(measured),
    )
