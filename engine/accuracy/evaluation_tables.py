"""Tables of an evaluation, for reports and terminals; a `Report` is from `Evaluation.to_dict`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.accuracy import writing
from engine.accuracy.plots import MEASURE_NAMES, REFERENCES, describe_span, write_measure
from engine.accuracy.writing import NONE, percent, power, score, share, span

Report = Mapping[str, Any]
Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Columns and rows."""


def tabulate_rates(report: Report) -> Table:
    """FNMR at false match rates, one photograph against one.

    The generalised rate has a column where there are failures to acquire.
    """
    columns = ("false match rate", "at score", "false non-match rate", "95 % interval")
    rows = []
    for name, point in report["fnmr_at_fmr"].items():
        if point is None:
            rows.append((name, NONE, "not supported", NONE))
        else:
            interval = span(point["low"], point["high"])
            rows.append((name, score(point["threshold"]), percent(point["fnmr"]), interval))
    if not report["fta"]:
        return columns, rows
    wider = [
        (*row, share(found))
        for row, found in zip(rows, report["generalised_fnmr_at_fmr"].values(), strict=True)
    ]
    return (*columns, "generalised: not acquired is missed"), wider


def tabulate_acquisition(report: Report) -> Table:
    """Photographs without a template, and those that an enrollment would send back."""
    found = report["acquisition"]
    rows = [
        ("no template (FTA)", f"{found['failed']['events']:,}", share(found["failed"])),
        *_list_reasons(found["failures"]),
        ("sent back at enrollment", f"{found['sent_back']['events']:,}", share(found["sent_back"])),
        *_list_reasons(found["problems"]),
    ]
    return ("", "photographs", "share (95 %)"), rows


def _list_reasons(reasons: Report) -> list[tuple[str, str, str]]:
    return [(f"· {name}", f"{one['events']:,}", share(one)) for name, one in reasons.items()]


def tabulate_fusion(report: Report) -> Table:
    """FNMR with one and with two photographs on either side."""
    points = report["fusion"]["points"]
    rows = [
        (power(each[0]["fmr"]), *(share(one | {"value": one["fnmr"]}) for one in each))
        for each in zip(*(points[kind] for kind in KINDS), strict=True)
    ]
    return ("FNMR at FMR", *KINDS.values()), rows


KINDS = {
    "one_to_one": "one against one",
    "fused_to_one": "fused against one",
    "fused": "fused against fused",
}


def tabulate_open_set(report: Report) -> Table:
    """FNIR at FPIR in the one gallery of the open set."""
    found = report["open_set"]
    rows = [
        (f"{one['fpir'] * 100:g} %", share(one | {"value": one["fnir"]}), share(
            two | {"value": two["fnir"]}))
        for one, two in zip(found["single"], found["fused"], strict=True)
    ]  # fmt: skip
    columns = ("FPIR", "FNIR, reference of one photograph", "FNIR, fused reference")
    return columns, rows


def tabulate_growth(curve: Report) -> Table:
    """One curve of FNIR against the size of the gallery."""
    rows = [
        (
            f"{one['gallery_size']:,}", "measured", score(one["threshold"]),
            share(one | {"value": one["fnir"]}), f"FPIR {percent(one['by_formula'])}",
        )
        for one in curve["measured"]
    ]  # fmt: skip
    rows += [
        (
            f"{one['gallery_size']:,}", "extrapolated", score(one["threshold"]),
            share(one | {"value": one["fnir"]}),
            f"FMR {power(one['fmr'])}, {one['flagged'] * 100:.0f} % of its matches flagged",
        )
        for one in curve["extrapolated"]
    ]  # fmt: skip
    columns = ("references", "", "threshold", "FNIR (95 %)", "by the formula")
    return columns, rows


def describe_curve(curve: Report) -> str:
    """Subject of a curve, and where it ends."""
    return (
        f"FPIR {curve['fpir'] * 100:g} %, {REFERENCES[curve['reference']]}: supported to "
        f"{curve['supported_to']:,} references. {curve['refused'][:1].upper()}"
        f"{curve['refused'][1:]}."
    )


def tabulate_quality(report: Report) -> Table:
    """FNMR by band, a row per measure."""
    measures = report["quality_bands"]["measures"]
    rows = [
        (MEASURE_NAMES[one["measure"]], *(_write_band(one, band) for band in one["bands"]))
        for one in measures
    ]
    return ("", *(band["name"] for band in measures[0]["bands"])), rows


def _write_band(measure: Report, band: Report) -> str:
    return f"{share(band['fnmr'], band['refused'])}; to {write_measure(measure, band)}"


def tabulate_attribute(attribute: Report) -> Table:
    """The groups of one attribute."""
    rows = [
        (
            f"`{one['label']}`",
            f"{one['people']:,} / {one['photographs']:,}",
            share(one["fta"]),
            NONE if one["median"] is None else score(one["median"]),
            share(one["fnmr"], one["fnmr_refused"]),
            writing.rate(one["fmr"], one["fmr_refused"]),
        )
        for one in attribute["groups"]
    ]
    columns = ("group", "people / photographs", "FTA", "median mated score", "FNMR", "FMR")
    return columns, rows


def tabulate_ageing(report: Report) -> Table:
    """Scores and FNMR by the years between the photographs."""
    rows = [
        (
            describe_span(one),
            f"{one['people']:,}",
            f"{one['mated_pairs']:,}",
            score(one["median"]),
            share(one["fnmr"], one["refused"]),
        )
        for one in report["ageing"]["spans"]
    ]
    return ("years between", "people", "mated pairs", "median score", "FNMR"), rows
