"""docs/accuracy.md and docs/model-card.md: their prose, filled with the figures of the reports."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.render import render
from bench.core.reports import Figure, find_figure, find_result, read_report
from bench.core.reports import Report as BenchReport
from bench.suites.accuracy import HELD_OUT, REPEATS
from bench.suites.degraded import DEGRADED, LOSSES
from engine.accuracy.bootstrap import MIN_PEOPLE, REPLICATES
from engine.accuracy.evaluate import list_galleries
from engine.accuracy.evaluation_report import draw_det, open_panels, save_figure, write_section
from engine.accuracy.pair_scores import MOST_PHOTOGRAPHS
from engine.errors import RateUnsupported, RequestError
from engine.formatting import percent, power, span, write_table
from engine.matching.calibration import ONE_PERSON_FACTOR, Calibration, ThresholdRates, Thresholds
from engine.models.catalog import builtin_card
from schema.decisions import Comparison
from serving.deployment.models import load_calibration
from serving.settings.settings import Settings

EVALUATION, SUITE = "evaluation.json", "accuracy"
TOO_LOW_FMR = 1e-8
LOOKED_AT = 16
"""Pairs flagged in the half of LFW, all of which were reviewed by hand."""
GOOD, BAD, NEEDLESS = "#0072B2", "#CC3311", "#E69F00"
_STAMP = "reports"

Report = dict[str, Any]


def score(value: float) -> str:
    return f"{value:.3f}"


def build_accuracy_page(reports: Path, images: Path) -> str:
    """The page, from evaluation.json and accuracy.json; its pictures are drawn into `images`.

    Raises `RequestError` where a report is missing or has not all parts.
    """
    report = read_evaluation(reports)
    images.mkdir(parents=True, exist_ok=True)
    draw_det(report, images / "det.png")
    stamp(images / "det.png", [reports / EVALUATION])
    suite = read_report(reports / f"{SUITE}.json")
    if draw_degraded({SUITE: suite}, images / "degraded.png"):
        stamp(images / "degraded.png", [reports / f"{SUITE}.json"])
    return render("docs/accuracy.md.j2", **_fill(report, reports))


def build_model_card(reports: Path) -> str:
    """The model card of the default model (Mitchell et al. 2019), from the same reports."""
    card, detector = builtin_card("sface"), builtin_card("yunet")
    fields = _fill(read_evaluation(reports), reports)
    return render("docs/model-card.md.j2", card=card, detector=detector, **fields)


def read_evaluation(reports: Path) -> Report:
    """What `sosie evaluate --json` wrote; raises `RequestError` where it is not all there."""
    try:
        report: Report = json.loads((reports / EVALUATION).read_text("utf-8"))
    except OSError as error:
        raise RequestError(f"cannot read {EVALUATION}: {error.strerror}") from error
    except ValueError as error:
        raise RequestError(f"{EVALUATION} is none: write it by `evaluate --json`") from error
    needed = ("fusion", "quality_bands", "lowest_fmr")
    missing = [name for name in needed if not report.get(name)]
    if missing:
        raise RequestError(f"{EVALUATION} lacks {missing[0]}: evaluate all of LFW")
    return report


def _fill(report: Report, reports: Path) -> dict[str, Any]:
    """What both pages are given: the report, with its tables and sentences, and the calibration."""
    suite = read_report(reports / f"{SUITE}.json")
    calibration = load_calibration(Settings())
    fused = calibration.curve(Comparison.FUSED)
    review = Thresholds.from_calibration(calibration).review
    try:
        calibration.threshold_at(TOO_LOW_FMR, Comparison.ONE_TO_ONE)
    except RateUnsupported as refused:
        refusal = str(refused)
    else:
        raise AssertionError("LFW can't support so low a rate")
    return {
        "report": report,
        **_read_held_out(suite),
        "version": calibration.version,
        "single_review": power(calibration.fmr_at(review, Comparison.FUSED_TO_ONE).value),
        "fused_review": power(fused.fmr_at(review).value),
        "rates": write_section("rates", report),
        "acquisition": write_section("acquisition", report["acquisition"]),
        "fusion": write_section("fusion", report["fusion"]),
        "fusion_words": write_section("fusion_words"),
        "generalised": describe_generalised(report),
        "galleries_words": write_section("galleries_words"),
        "galleries": write_section("galleries", list_curves(calibration)),
        "quality": write_section("quality_words", report),
        "bands": write_section("quality", report["quality_bands"]),
        "flagged": write_section("flagged_words", report["flagged"]),
        "looked_at": describe_looked_at(report),
        "refusal": refusal,
        "lowest_fused": power(fused.lowest_fmr),
        "highest": score(fused.highest_nonmated),
        "thresholds": tabulate_thresholds(calibration),
        "calibrated_on": calibration.source,
        "replicates": REPLICATES,
        "least_people": MIN_PEOPLE,
        "most_photographs": MOST_PHOTOGRAPHS,
        "percent": percent,
        "power": power,
        "span": span,
    }


def list_curves(calibration: Calibration) -> Report:
    """Of each kind of comparison the points for galleries of several sizes."""
    return {
        kind.value.replace("_", " "): {
            str(size): one and asdict(one)
            for size, one in list_galleries(calibration.curve(kind).points)
        }
        for kind in Comparison
    }


def _read_held_out(suite: BenchReport) -> dict[str, Any]:
    """Rates of people that `verify` was not fitted on."""
    rates = {name.lower(): _find(suite, HELD_OUT, f"verify, {name}") for name in ("FMR", "FNMR")}
    return {"held_out": {**rates, "repeats": REPEATS}}


def _find(suite: BenchReport, result: str, name: str) -> Figure:
    found = find_figure({SUITE: suite}, SUITE, result, name)
    if found is None or found.value is None:
        raise RequestError(f"{SUITE}.json lacks {result}: run `sosie bench accuracy` on all of LFW")
    return found


def describe_generalised(report: Report) -> str:
    """Where the generalised rate of this report stands."""
    if not report["fta"]:
        return "Here both are the same: every photograph gave a template."
    return "The table of [one to one](#one-to-one) has it in its last column."


def describe_looked_at(report: Report) -> str:
    """Whether people have seen what this report flags: only where it flags what they saw."""
    if report["flagged"]["pairs"] == LOOKED_AT:
        return "All that were flagged were looked at, and are one person."
    return "They are what the machine flags: nobody has looked at all of these."


def tabulate_thresholds(calibration: Calibration) -> str:
    """The scores with what sets them."""
    rates = ThresholdRates()
    scores = Thresholds.from_calibration(calibration, rates)
    fused, to_one = map(calibration.curve, (Comparison.FUSED, Comparison.FUSED_TO_ONE))
    review = fused.fmr_at(scores.review)
    low = power(review.low) if review.low else "0"
    rows = (
        ("`verify`", score(scores.verify), f"FMR {power(rates.verify)}, single photographs",
         "live photograph against portrait"),
        ("`verify_fused`", score(scores.verify_fused), f"FMR {power(rates.verify)}, fused",
         "the most that `verify` becomes for several live frames"),
        ("`one_person`", score(scores.one_person),
         f"FMR {power(rates.verify * ONE_PERSON_FACTOR)}, single photographs",
         "one of several live frames against each of the others"),
        ("`same_document`", score(scores.same_document), f"FMR {power(rates.same_document)}, fused",
         "a returning subscriber against the document's reference"),
        ("`same_document_single`", score(scores.of(Comparison.FUSED_TO_ONE).same_document),
         f"FMR {power(rates.same_document)}, one against fused",
         "their live face, and their portrait, alone"),
        ("`review`", score(scores.review),
         f"FMR {power(rates.review)}, fused ({low} to {power(review.high)})",
         "1:N: a possible duplicate, for a person to judge"),
        ("`review_single`", score(scores.of(Comparison.FUSED_TO_ONE).review),
         f"FMR {power(rates.review)}, one against fused",
         "1:N of the live face, and of the portrait, alone"),
        ("`certain`", score(scores.certain),
         f"the highest fused score of two strangers, {score(fused.highest_nonmated)}, plus "
         f"{rates.certain_margin:g}", "1:N: a duplicate"),
        ("`certain_single`", score(scores.of(Comparison.FUSED_TO_ONE).certain),
         f"the same, one against fused: {score(to_one.highest_nonmated)}, plus "
         f"{rates.certain_margin:g}", "1:N of one photograph alone"),
    )  # fmt: skip
    return write_table(("threshold", "score", "set by", "compares"), rows)


def stamp(picture: Path, reports: Iterable[Path]) -> None:
    """Write the digest of the reports that a PNG was drawn from into it."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(_STAMP, digest_reports(reports))
    with Image.open(picture) as image:
        image.load()
        image.save(picture, pnginfo=info)


def read_stamp(picture: Path) -> str | None:
    """The digest in a picture; None where it has none."""
    from PIL import Image

    with Image.open(picture) as image:
        return image.info.get(_STAMP)


def digest_reports(reports: Iterable[Path]) -> str:
    """SHA-256 of their bytes, in this order."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in reports)).hexdigest()


def draw_degraded(reports: Mapping[str, BenchReport], path: Path) -> bool:
    """Stacked bars of what becomes of honest pairs at each level of each degradation."""
    result = find_result(reports, "accuracy", DEGRADED)
    if result is None:
        return False
    shares = {figure.name: 100 * (figure.value or 0.0) for figure in result.figures}
    levels = [name.removesuffix(", lost") for name in shares if name.endswith(", lost")]
    size = -(-len(levels) // _LEVEL_COLUMNS)
    figure, panels = open_panels(12.0, 0.19 * size + 1.2, _LEVEL_COLUMNS)
    for axes, start in zip(panels, range(0, len(levels), size), strict=True):
        shown = levels[start : start + size]
        left = np.zeros(len(shown))
        for label, color, of in _OUTCOMES:
            widths = np.array([of(*(shares[f"{one}, {kind}"] for kind in LOSSES)) for one in shown])
            axes.barh(shown, widths, left=left, height=0.7, color=color, label=label)
            left += widths
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.tick_params(axis="y", labelsize=7)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    caption = (
        "per cent of a person's first photograph against the second, degraded; "
        f"{result.setup['people']} people, none of them used for fitting"
    )
    save_figure(figure, path, caption)
    return True


_LEVEL_COLUMNS = 3
# Of (lost, silent, needless), as `sosie bench accuracy` reports them.
_OUTCOMES: tuple[tuple[str, str, Callable[[float, float, float], float]], ...] = (
    ("below the threshold, no reason told", BAD, lambda _lost, silent, _needless: silent),
    ("below the threshold, sent back with a reason", GOOD, lambda lost, silent, _: lost - silent),
    ("sent back, would have matched", NEEDLESS, lambda _lost, _silent, needless: needless),
)
