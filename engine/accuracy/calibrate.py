"""Calibration of a model: thresholds by false match rate, and their entry in the model card."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from engine.accuracy.bootstrap import operating_points, rate_grid
from engine.accuracy.dataset import LabelledFolder, Progress, embed_folder
from engine.accuracy.evaluate import HIGHEST_FMR
from engine.accuracy.pair_scores import (
    MOST_PHOTOGRAPHS,
    PairScores,
    TemplateSet,
    compare_all,
    fused_templates,
    keep_people,
    limit_photographs,
    single_templates,
)
from engine.errors import CalibrationError, ModelCardInvalid, ModelMissing
from engine.faces.extractor import Extractor, digest_embedding
from engine.matching.calibration import (
    CERTAIN_PEOPLE,
    ONE_PERSON_FACTOR,
    UNSET,
    Calibration,
    CalibrationCurve,
    ThresholdRates,
    Thresholds,
)
from engine.models.catalog import Transform, load_card, name_transform
from indexes.base import Floats, Ints
from schema.decisions import Comparison

COARSE_RATES = (0.9, 0.5, 0.2)
"""Above the grid, so that low scores have an FMR too."""


def calibrate_folder(
    root: Path,
    extractor: Extractor,
    *,
    source: str,
    transform: bool = False,
    progress: Progress | None = None,
) -> tuple[Calibration, Transform | None]:
    """Extract every photograph of `root` (a folder per person) and fit a calibration.

    With `transform` one is fitted first, and the calibration to its vectors; the extractor's card
    must have none. Photographs without a face are left out. Raises `RequestError` or
    `CalibrationError` where there are too few photographs.
    """
    embeddings = embed_folder(LabelledFolder.open(root), extractor, progress)
    vectors, people = embeddings.acquired()
    digest, made = extractor.model_digest, None
    if transform and len(vectors):
        assert not extractor.card.transform
        made = fit_transform(vectors, people)
        vectors = made.apply(vectors)
        digest = digest_embedding(name_transform(extractor.card, "fitted", made), extractor.flip)
    return calibrate(vectors, people, model_digest=digest, source=source), made


def fit_transform(vectors: Floats, people: Ints) -> Transform:
    """The mean of people's means, of unit rows float32[n, d]: every person weighs one."""
    few = limit_photographs(single_templates(vectors, people), MOST_PHOTOGRAPHS)
    starts = few.starts()
    present = np.flatnonzero(np.diff(starts))
    sums = np.add.reduceat(few.vectors.astype(np.float64), starts[present])
    means = sums / np.diff(starts)[present][:, None]
    return Transform(means.mean(axis=0).astype(np.float32))


def calibrate(vectors: Floats, people: Ints, *, model_digest: str, source: str) -> Calibration:
    """Curves of single and of fused templates; `vectors` float32[n, d], unit rows.

    People are weighed, not photographs (`PairScores`), and at most eight photographs of each are
    compared. A fused template is made of every two of them; mated ones share no photograph,
    and where nobody has four the FNMR of fused ones is anything from 0 to 1. `source` describes the
    photographs. Raises `CalibrationError` where they are too few for an FMR of 0.1.
    """
    if not len(vectors):
        raise CalibrationError("no face was found: a calibration needs photographs of people")
    curves = {}
    for kind, scores in _compare(single_templates(vectors, people)):
        if kind is Comparison.ONE_TO_ONE and not len(scores.mated):
            raise CalibrationError("nobody has two photographs: add some of the same people")
        grid = rate_grid(HIGHEST_FMR, len(scores.nonmated))
        curves[kind] = CalibrationCurve(
            people=int((scores.counts.sum(axis=0) > 0).sum()),
            mated_pairs=len(scores.mated),
            nonmated_pairs=len(scores.nonmated),
            stranger_pairs=scores.stranger_pairs,
            highest_nonmated=float(scores.nonmated.max()),
            points=operating_points(scores, np.concatenate([COARSE_RATES, grid])),
        )
    return Calibration(
        model_digest=model_digest,
        source=source,
        people=len(np.unique(people)),
        photographs=len(vectors),
        most_photographs=MOST_PHOTOGRAPHS,
        curves=curves,
    )


def choose_rates(calibration: Calibration) -> ThresholdRates:
    """The usual rates, each raised to the lowest of 1, 2, 5, 10, … that the data support."""
    usual = ThresholdRates()
    single = calibration.curve(Comparison.ONE_TO_ONE).lowest_fmr
    fused = max(
        calibration.curve(kind).lowest_fmr for kind in (Comparison.FUSED, Comparison.FUSED_TO_ONE)
    )
    return ThresholdRates(
        verify=_raise_rate(usual.verify, single),
        same_document=_raise_rate(usual.same_document, fused),
        review=_raise_rate(usual.review, fused),
        certain_margin=usual.certain_margin,
    )


def _raise_rate(usual: float, lowest: float) -> float:
    rounded = (step * 10.0**power for power in range(-9, 0) for step in (1, 2, 5))
    return max(usual, next(float(f"{rate:.0e}") for rate in rounded if rate >= lowest * (1 - 1e-9)))


def _compare(singles: TemplateSet) -> Iterator[tuple[Comparison, PairScores]]:
    """One kind after the other: each takes hundreds of megabytes."""
    few = limit_photographs(singles, MOST_PHOTOGRAPHS)
    yield Comparison.ONE_TO_ONE, compare_all(few)
    fused = fused_templates(few, MOST_PHOTOGRAPHS)
    # Of the same people, so that this curve and that of fused ones differ by the probe alone.
    yield Comparison.FUSED_TO_ONE, compare_all(fused, keep_people(few, np.unique(fused.people)))
    yield Comparison.FUSED, compare_all(fused)


def write_transform(text: str, transform_file: str, transform: Transform) -> str:
    """The card's text with the name and digest of this transform's file."""
    top, tables = _split(_TRANSFORM.sub("", f"{text.rstrip()}\n"))
    sha256 = hashlib.sha256(transform.to_bytes()).hexdigest()
    named = f"transform = {json.dumps(transform_file)}\ntransform_sha256 = {json.dumps(sha256)}\n"
    return f"{top.rstrip()}\n{named}\n{tables}"


_TRANSFORM = re.compile(r"^[ \t]*transform(_sha256)?[ \t]*=.*\n", re.MULTILINE)
NOTE = "Fitted by `sosie calibrate`"
_NOTES = re.compile(rf"^# {NOTE}.*\n(?:#.*\n)*", re.MULTILINE)
_TABLE = re.compile(r"^[ \t]*\[", re.MULTILINE)
_CALIBRATION = re.compile(r"^[ \t]*calibration[ \t]*=.*$", re.MULTILINE)
_THRESHOLDS = re.compile(
    r"^[ \t]*\[thresholds\][ \t]*(#.*)?\n(?:[ \t]*(?:\w+[ \t]*=.*)?\n)*", re.MULTILINE
)


def write_calibrated(
    text: str, calibration_file: str, rates: ThresholdRates, notes: tuple[str, ...]
) -> str:
    """The card's text with this calibration and these rates, and `notes` as comments.

    Everything else in it is preserved, comments included.
    """
    text = _THRESHOLDS.sub("", _NOTES.sub("", f"{text.rstrip()}\n"))
    top, tables = _split(text)
    line = f"calibration = {json.dumps(calibration_file)}"
    if _CALIBRATION.search(top):
        top = _CALIBRATION.sub(lambda _: line, top, count=1)
    else:
        top = f"{top.rstrip()}\n{line}\n\n"
    lines = [
        *(f"# {note}" for note in notes),
        "[thresholds]",
        f"verify_fmr = {rates.verify!r}",
        f"same_document_fmr = {rates.same_document!r}",
        f"review_fmr = {rates.review!r}",
        f"certain_margin = {rates.certain_margin!r}",
    ]
    return f"{top}{tables.rstrip()}\n\n" + "\n".join(lines) + "\n"


def name_sources(rates: ThresholdRates, thresholds: Thresholds) -> dict[str, str]:
    """What sets each threshold, by its name."""
    few = "not set: too few people"
    certain = {
        name: few if getattr(thresholds, name) == UNSET else "highest + margin"
        for name in ("certain", "certain_single")
    }
    return certain | {
        "verify": f"FMR {rates.verify:g}",
        "verify_fused": f"FMR {rates.verify:g}, fused",
        "one_person": f"FMR {ONE_PERSON_FACTOR * rates.verify:g}",
        "same_document": f"FMR {rates.same_document:g}",
        "same_document_single": f"FMR {rates.same_document:g}, one against fused",
        "review": f"FMR {rates.review:g}",
        "review_single": f"FMR {rates.review:g}, one against fused",
    }


def describe_thresholds(
    calibration: Calibration, rates: ThresholdRates, thresholds: Thresholds
) -> tuple[str, ...]:
    """Comment lines on the thresholds of a card."""
    single = calibration.curve(Comparison.ONE_TO_ONE)
    source = "".join(c for c in " ".join(calibration.source.split()) if c.isprintable())
    sources = name_sources(rates, thresholds)
    told = [
        f"{name} {getattr(thresholds, name):.4f} ({sources[name]})"
        for name in ("verify", "same_document", "review", "certain")
    ]
    return (
        f"{NOTE} from {source}: {calibration.photographs:,} photographs of "
        f"{calibration.people:,} people.",
        f"Version {calibration.version}, scores: {', '.join(told[:2])},",
        f"{', '.join(told[2:])}. Lowest rate supported:",
        f"{single.lowest_fmr:.1e} one to one, "
        f"{calibration.curve(Comparison.FUSED).lowest_fmr:.1e} fused.",
    )


DOUBTFUL_HIGHEST = 0.9
"""Strangers who score as high are more likely one person under two names."""
BOUND_SIZES = (1_000, 10_000, 100_000)


def warn_of(
    fitted: Calibration, rates: ThresholdRates, gallery_sizes: Sequence[int] = BOUND_SIZES
) -> list[str]:
    """Warnings where the data fall short of the usual, or their labels are doubtful.

    `gallery_sizes`: of references, for which the bound of what is told as certain is stated.
    """
    usual, warnings = asdict(ThresholdRates()), []
    for name, chosen in asdict(rates).items():
        if chosen > usual[name]:
            warnings.append(
                f"{name} keeps an FMR of {chosen:g}, not the usual {usual[name]:g}: "
                "the data support no less"
            )
    fused = fitted.curve(Comparison.FUSED)
    if not fused.certain_margin_holds:
        warnings.append(
            f"`certain` is not set, so nothing is rejected by 1:N alone: it takes {CERTAIN_PEOPLE} "
            f"people with two photographs, here are {fused.people:,}"
        )
    bound = 3 / fused.stranger_pairs
    shares = (f"{min(size * bound, 1):.2g} in {size:,}" for size in gallery_sizes)
    warnings.append(
        f"no two of {fused.stranger_pairs:,} pairs of strangers score above "
        f"{fused.highest_nonmated:.3f}: the share of newcomers who would is at most (95 %), by the "
        f"references of the gallery, {', '.join(shares)}"
    )
    if not fused.mated_pairs:
        warnings.append(
            "nobody has four photographs: how many people a fused reference misses is not known"
        )
    if fused.highest_nonmated > DOUBTFUL_HIGHEST:
        warnings.append(
            "two strangers look like one person, and `certain` stands above them: "
            "look at `sosie evaluate --flagged`"
        )
    return warnings


def save_card(path: Path, text: str) -> None:
    """Write the card atomically; raises and changes nothing where it would be invalid."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_text(text, encoding="utf-8")
        load_card(fresh)
        fresh.replace(path)
    except OSError as error:
        raise ModelMissing(f"cannot write the model card {path}: {error.strerror}") from error
    except ModelCardInvalid as error:
        raise ModelCardInvalid(
            f"{path} cannot be changed by itself: set `calibration` and [thresholds] by hand"
        ) from error
    finally:
        fresh.unlink(missing_ok=True)


def _split(text: str) -> tuple[str, str]:
    """The text before the first table, and the rest."""
    found = _TABLE.search(text)
    place = found.start() if found else len(text)
    return text[:place], text[place:]
