"""docs/accuracy.md and docs/model-card.md: their prose, filled with the figures of the reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.core.render import render
from bench.core.reports import find_figure, read_report
from bench.docs.benchmark_charts import stamp
from bench.suites.accuracy import RATES, RESEMBLANCE
from engine.accuracy import evaluation_tables
from engine.accuracy.bootstrap import MIN_PEOPLE, REPLICATES
from engine.accuracy.evaluation_report import draw_pictures
from engine.accuracy.population import PHOTOGRAPHS_OF_A_PERSON
from engine.accuracy.writing import score, write_table
from engine.errors import RateUnsupported, RequestError
from engine.faces.extractor import digest_embedding
from engine.formatting import DASH, NONE, percent, power, span
from engine.matching.calibration import Calibration, Comparison, ThresholdRates, Thresholds
from engine.models.catalog import builtin_card

EVALUATION, SUITE = "evaluation.json", "accuracy"
TOO_LOW_FMR = 1e-8
LOOKED_AT = 16
"""Pairs flagged in the half of LFW, all of which were reviewed by hand."""
POPULATION = ("single, photographs", "single, synthetic", "fused, photographs", "fused, synthetic")

Report = dict[str, Any]


def build_accuracy_page(reports: Path, images: Path) -> str:
    """The page, from evaluation.json and accuracy.json; its pictures are drawn into `images`.

    Raises `RequestError` where a report is missing or has not all parts.
    """
    report = read_evaluation(reports)
    images.mkdir(parents=True, exist_ok=True)
    for picture in draw_pictures(report, images / "det.png").values():
        stamp(picture, [reports / EVALUATION])
    fields = _fill_common(report, reports) | {
        "population": _tabulate_population(reports / f"{SUITE}.json"),
        "most_photographs": f"{PHOTOGRAPHS_OF_A_PERSON}",
        "least_people": f"{MIN_PEOPLE}",
    }
    return render("docs/accuracy.md.j2", **fields)


def build_model_card(reports: Path) -> str:
    """The model card of the default model (Mitchell et al. 2019), from the same reports."""
    report = read_evaluation(reports)
    card, detector = builtin_card("sface"), builtin_card("yunet")
    fields = _fill_common(report, reports) | {
        "sha256": card.sha256,
        "detector_sha256": detector.sha256,
        "source_url": card.source,
        "detector_url": detector.source,
        "licence": card.licence,
        "dimension": f"{card.dimension}",
        "side": f"{card.input.width_px}",
        "wheel": card.file.wheel,
        "digest": report["model_digest"],
        "supported": "\n".join(
            f"- {evaluation_tables.describe_curve(one)}"
            for one in report["gallery_growth"]["curves"]
        ),
    }
    return render("docs/model-card.md.j2", **fields)


def read_evaluation(reports: Path) -> Report:
    """What `sosie evaluate --json` wrote; raises `RequestError` where it is not all there."""
    try:
        report: Report = json.loads((reports / EVALUATION).read_text("utf-8"))
    except OSError as error:
        raise RequestError(f"cannot read {EVALUATION}: {error.strerror}") from error
    except ValueError as error:
        raise RequestError(f"{EVALUATION} is none: write it by `evaluate --json`") from error
    needed = ("gallery_growth", "fusion", "quality_bands", "lowest_fmr")
    missing = [name for name in needed if not report.get(name)]
    if missing:
        raise RequestError(f"{EVALUATION} lacks {missing[0]}: evaluate all of LFW")
    return report


def load_calibration() -> Calibration:
    """That of the default model."""
    card = builtin_card("sface")
    assert card.calibration_path is not None
    return Calibration.load(card.calibration_path, digest_embedding(card, flip=False))


def _fill_common(report: Report, reports: Path) -> dict[str, str]:
    """What both pages show."""
    calibration = _fill_calibration(load_calibration())
    suite = {SUITE: read_report(reports / f"{SUITE}.json")}
    folds = find_figure(suite, SUITE, "Accuracy", "mean of the folds")
    accuracy = NONE if folds is None or folds.value is None else percent(folds.value, 2)
    return _fill_counts(report) | _fill_tables(report) | calibration | {"accuracy": accuracy}


def _fill_counts(report: Report) -> dict[str, str]:
    failed, sent_back = (report["acquisition"][name] for name in ("failed", "sent_back"))
    growth, lowest = report["gallery_growth"], report["fnmr_at_fmr"]["1e-6"]
    return {
        "source": report["source"],
        "people": f"{report['people']:,}",
        "photographs": f"{report['photographs']:,}",
        "mated_pairs": f"{report['mated_pairs']:,}",
        "nonmated_pairs": f"{report['nonmated_pairs']:,}",
        "replicates": f"{REPLICATES}",
        "interval_1e6": span(lowest["low"], lowest["high"]) if lowest else "no rate at all",
        "failed": f"{failed['events']:,}",
        "failed_most": percent(failed["high"]),
        "sent_back": percent(sent_back["value"]),
        "fusion_people": f"{report['fusion']['people']:,}",
        "gallery_size": f"{growth['references']:,}",
        "lowest_single": power(report["lowest_fmr"]),
    }


def _fill_tables(report: Report) -> dict[str, str]:
    growth = report["gallery_growth"]
    curves = (
        f"**{evaluation_tables.describe_curve(curve)}**\n\n"
        f"{write_table(*evaluation_tables.tabulate_growth(curve))}"
        for curve in growth["curves"]
    )
    return {
        "rates": write_table(*evaluation_tables.tabulate_rates(report)),
        "acquisition": write_table(*evaluation_tables.tabulate_acquisition(report)),
        "fusion": write_table(*evaluation_tables.tabulate_fusion(report)),
        "fusion_words": evaluation_tables.describe_fusion(),
        "generalised": describe_generalised(report),
        "largest_gallery": write_table(*evaluation_tables.tabulate_largest(growth)),
        "growth": evaluation_tables.describe_growth(growth),
        "curves": "\n\n".join(curves),
        "quality": evaluation_tables.describe_quality(report),
        "bands": write_table(*evaluation_tables.tabulate_quality(report)),
        "flagged": evaluation_tables.describe_flagged(report["flagged"]),
        "looked_at": describe_looked_at(report),
    }


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


def _fill_calibration(calibration: Calibration) -> dict[str, str]:
    fused = calibration.curve(Comparison.FUSED)
    try:
        calibration.threshold_at(TOO_LOW_FMR, Comparison.ONE_TO_ONE)
    except RateUnsupported as refused:
        refusal = str(refused)
    else:
        raise AssertionError("LFW can't support so low a rate")
    return {
        "refusal": refusal,
        "lowest_fused": power(fused.lowest_fmr),
        "highest": score(fused.highest_nonmated),
        "thresholds": tabulate_thresholds(calibration),
        "calibrated_on": calibration.source,
    }


def tabulate_thresholds(calibration: Calibration) -> str:
    """The four scores with what sets them."""
    rates = ThresholdRates()
    scores = Thresholds.from_calibration(calibration, rates)
    fused = calibration.curve(Comparison.FUSED)
    review = fused.fmr_at(scores.review)
    low = power(review.low) if review.low else "0"
    rows = (
        ("`verify`", score(scores.verify), f"FMR {power(rates.verify)}, single photographs",
         "live photograph against portrait"),
        ("`same_document`", score(scores.same_document), f"FMR {power(rates.same_document)}, fused",
         "a returning subscriber against the document's reference"),
        ("`review`", score(scores.review),
         f"FMR {power(rates.review)}, fused ({low} to {power(review.high)})",
         "1:N: a possible duplicate, for a person to judge"),
        ("`certain`", score(scores.certain),
         f"the highest fused score of two strangers, {score(fused.highest_nonmated)}, plus "
         f"{rates.certain_margin:g}", "1:N: a duplicate"),
    )  # fmt: skip
    return write_table(("threshold", "score", "set by", "compares"), rows)


def _tabulate_population(path: Path) -> str:
    suite = read_report(path)

    def find(name: str, rate: float) -> str:
        figure = find_figure({SUITE: suite}, SUITE, RESEMBLANCE, f"{name}, FMR {rate:.0e}")
        return DASH if figure is None or figure.value is None else score(figure.value)

    rows = [(name, *(find(name, rate) for rate in RATES)) for name in POPULATION]
    return write_table(("", *(power(rate) for rate in RATES)), rows)
