"""What `evaluate` and `calibrate` print for people, and the latter's JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from engine.accuracy.pictures.bars import MEASURE_NAMES
from engine.accuracy.tables import FLAGS
from engine.accuracy.writing import power, rate, share, times
from serving.cli.output import escape, print_line, print_table

if TYPE_CHECKING:
    from pathlib import Path

    from engine.accuracy.evaluate import Evaluation
    from engine.accuracy.gallery_growth import GalleryGrowth
    from engine.matching.thresholds import (
        Calibration,
        OperatingPoint,
        ThresholdRates,
        Thresholds,
    )

KINDS = {"single": "one photograph", "fused": "two fused"}
DOUBTFUL_HIGHEST = 0.9
"""Strangers who score as high are more likely one person under two names."""


def print_evaluation(measured: Evaluation, *, with_failed: bool, with_flagged: bool) -> None:
    """Writes an evaluation to standard output; paths only where they are asked for."""
    print_line(
        f"{measured.photographs:,} photographs of {measured.people:,} people; "
        f"{measured.mated_pairs:,} mated and {measured.nonmated_pairs:,} non-mated pairs."
    )
    print_line(f"Failure to acquire (FTA): {share(asdict(measured.acquisition.failed))}.")
    reasons = {**measured.acquisition.failures, **measured.acquisition.problems}
    if reasons:
        rows = [[name, f"{one.events:,}", share(asdict(one))] for name, one in reasons.items()]
        print_table("Wrong with photographs", ("reason", "photographs", "share (95 %)"), rows)
    if measured.verification is not None:
        folds = measured.verification
        print_line(
            f"Accuracy over folds: {folds.accuracy:.2%}, standard deviation "
            f"{folds.accuracy_std:.2%}."
        )
    _print_rates(measured)
    _print_open_set(measured)
    if measured.growth is not None:
        _print_growth(measured.growth)
    _print_conditions(measured)
    _print_flagged(measured, with_flagged=with_flagged)
    print_line(f"[dim]{measured.seconds:.1f} s, of it {measured.extract_s:.1f} s extraction[/]")
    for path in measured.failed_photographs if with_failed else ():
        print_line(f"not acquired: {escape(path)}")


def _print_rates(measured: Evaluation) -> None:
    from engine.accuracy.evaluate import TABLE_RATES

    rows, columns = [], ["FMR", "threshold", "FNMR (95 %)"]
    for name, wanted in TABLE_RATES.items():
        point = measured.point_at(wanted)
        rows.append([name, *(_measures(point) if point else ["not supported", ""])])
    if measured.fta:
        columns.append("generalised: not acquired is missed")
        for row, found in zip(rows, measured.generalised.values(), strict=True):
            row.append(share(asdict(found)) if found else "")
    print_table("One to one, all pairs", columns, rows)
    if measured.points:
        print_line(f"No FMR below {power(measured.points[-1].fmr)} is supported by these pairs.")


def _print_open_set(measured: Evaluation) -> None:
    if measured.identification is None:
        return
    found = measured.identification
    rows = [
        [kind, f"{one.fpir:g}", f"{one.threshold:.4f}", _share(one.fnir, one.low, one.high)]
        for kind, points in ((KINDS["single"], found.single), (KINDS["fused"], found.fused))
        for one in points
    ]
    title = f"One to {found.gallery_size:,}, open set"
    print_table(title, ("reference", "FPIR", "threshold", "FNIR (95 %)"), rows)


def _print_growth(growth: GalleryGrowth) -> None:
    rows = []
    for curve in growth.curves:
        largest = curve.measured[-1] if curve.measured else None
        beyond = curve.extrapolated[-1] if curve.extrapolated else None
        for what, one in (("measured", largest), ("extrapolated", beyond)):
            if one is not None:
                size = f"{one.gallery_size:,}"
                found = _share(one.fnir, one.low, one.high)
                rows.append([KINDS[curve.reference], f"{curve.fpir:g}", what, size, found])
        refused = ["[dim]refused[/]", "", curve.refused]
        rows.append([KINDS[curve.reference], f"{curve.fpir:g}", *refused])
    columns = ("reference", "FPIR", "", "gallery", "FNIR (95 %)")
    title = (
        "By the size of the gallery; extrapolated as if comparisons were independent: "
        f"{growth.formula}"
    )
    print_table(title, columns, rows)


def _print_conditions(measured: Evaluation) -> None:
    conditions = measured.conditions.to_dict()
    bands = conditions["quality_bands"]
    if bands:
        common = f"score {bands['threshold']:.4f} (FMR {power(conditions['common_fmr'])} over all)"
        print_line(f"What follows is at one threshold: {common}.")
        rows = [
            [
                MEASURE_NAMES[one["measure"]],
                *(share(band["fnmr"], band["refused"]) for band in one["bands"]),
            ]
            for one in bands["measures"]
        ]
        columns = ("", *(band["name"] for band in bands["measures"][0]["bands"]))
        print_table("FNMR by the quality of the worse photograph (95 %)", columns, rows)
    for attribute in conditions["attributes"]:
        _print_attribute(attribute)
    if conditions["ageing"]:
        _print_ageing(conditions["ageing"])


def _print_attribute(attribute: dict[str, Any]) -> None:
    rows = [
        [
            escape(group["label"]),
            f"{group['people']:,}",
            share(group["fnmr"], group["fnmr_refused"]),
            rate(group["fmr"], group["fmr_refused"]),
        ]
        for group in attribute["groups"]
    ]
    title = f"By {escape(attribute['column'])}"
    print_table(title, ("group", "people", "FNMR (95 %)", "FMR (95 %)"), rows)
    for name, found in (("negative", "false_negative"), ("positive", "false_positive")):
        print_line(f"False {name} differential: {escape(times(attribute[found]))}.")


def _print_ageing(ageing: dict[str, Any]) -> None:
    from engine.accuracy.pictures.ageing import describe_span

    rows = [
        [
            describe_span(one),
            f"{one['people']:,}",
            f"{one['scores'][2]:.3f}",
            share(one["fnmr"], one["refused"]),
        ]
        for one in ageing["spans"]
    ]
    columns = ("years between", "people", "median score", "FNMR (95 %)")
    print_table("Template ageing", columns, rows)
    slope = ageing["slope"]
    print_line(
        f"Within people a score changes by {slope['score_a_year']:+.4f} a year "
        f"({slope['low']:+.4f} to {slope['high']:+.4f})."
        if slope
        else f"No change of scores within people is given: {ageing['slope_refused']}."
    )


def _print_flagged(measured: Evaluation, *, with_flagged: bool) -> None:
    rows = [
        [FLAGS[flag], f"{one['within_person']:,}", f"{one['across_people']:,}"]
        for flag, one in measured.flagged.count().items()
    ]
    title = "Flagged in the data, and left in all figures"
    print_table(title, ("", "within a person", "across people"), rows)
    if with_flagged:
        for row in measured.flagged.to_rows(measured.embeddings):
            both = " · ".join(one for one in (row["photograph"], row["other"]) if one)
            known = "" if row["score"] is None else f", score {row['score']:.3f}"
            print_line(f"{row['flag']}: {escape(both)}{known}")


def _measures(point: OperatingPoint) -> list[str]:
    return [f"{point.threshold:.4f}", _share(point.fnmr, point.fnmr_low, point.fnmr_high)]


def _share(value: float, low: float, high: float) -> str:
    return share({"value": value, "low": low, "high": high})


def write_calibration(
    fitted: Calibration,
    output: Path,
    card: Path | None,
    rates: ThresholdRates,
    thresholds: Thresholds,
    left_out: int,
) -> dict[str, Any]:
    """What `calibrate --json` prints."""
    return {
        "calibration": str(output),
        "card": None if card is None else str(card),
        "model_digest": fitted.model_digest,
        "source": fitted.source,
        "people": fitted.people,
        "photographs": fitted.photographs,
        "photographs_without_a_face": left_out,
        "rates": asdict(rates),
        "thresholds": asdict(thresholds),
        "warnings": _warn(fitted, rates),
        "curves": {
            kind.value: {
                "mated_pairs": curve.mated_pairs,
                "nonmated_pairs": curve.nonmated_pairs,
                "lowest_fmr": curve.lowest_fmr,
                "highest_nonmated": curve.highest_nonmated,
            }
            for kind, curve in fitted.curves.items()
        },
    }


def print_calibration(
    fitted: Calibration,
    output: Path,
    card: Path | None,
    rates: ThresholdRates,
    thresholds: Thresholds,
    left_out: int,
) -> None:
    """Writes what was fitted to standard output, and where it is."""
    rows = [
        [
            kind.value.replace("_", " "),
            f"{curve.nonmated_pairs:,}",
            f"{curve.lowest_fmr:.2g}",
            f"{curve.points[-1].threshold:.4f}",
            f"{curve.highest_nonmated:.4f}",
        ]
        for kind, curve in fitted.curves.items()
    ]
    titles = ("comparison", "non-mated pairs", "lowest FMR", "its threshold", "highest stranger")
    print_table(f"{fitted.photographs:,} photographs of {fitted.people:,} people", titles, rows)
    if left_out:
        print_line(f"Left out, since no face was found: {left_out:,} of the photographs.")
    kept = asdict(rates)
    rows = [
        [name, f"{score:.4f}", f"FMR {kept[name]:g}" if name in kept else "highest + margin"]
        for name, score in asdict(thresholds).items()
    ]
    print_table("Thresholds that these photographs support", ("", "score", "set by"), rows)
    for warning in _warn(fitted, rates):
        print_line(f"[yellow]warning:[/] {warning}")
    if card is None:
        told = f"{escape(str(output))}: name it in the card's `calibration`."
    else:
        told = f"{escape(str(output))}, and into the card {escape(str(card))}."
    print_line(f"[green]Written[/] to {told}")


def _warn(fitted: Calibration, rates: ThresholdRates) -> list[str]:
    """Where the data fall short of the usual, and where their labels are doubtful."""
    from engine.matching.thresholds import Comparison, ThresholdRates

    usual, told = asdict(ThresholdRates()), []
    for name, chosen in asdict(rates).items():
        if chosen > usual[name]:
            told.append(
                f"{name} keeps an FMR of {chosen:g}, not the usual {usual[name]:g}: "
                "the data support no less"
            )
    if fitted.curve(Comparison.FUSED).highest_nonmated > DOUBTFUL_HIGHEST:
        told.append(
            "two strangers look like one person, and `certain` stands above them: "
            "look at `sosie evaluate --flagged`"
        )
    return told
