"""Tables of an evaluation, for reports and terminals; a `Report` is from `Evaluation.to_dict`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.formatting import DASH, percent, power, span

Report = Mapping[str, Any]
Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Columns and rows."""
REFERENCES = {"single": "reference of one photograph", "fused": "reference fused of two"}
MEASURE_NAMES = {
    "inter_eye_px": "distance of the eyes",
    "sharpness": "sharpness",
    "exposure": "exposure",
    "contrast": "contrast",
    "yaw_deg": "turned left or right",
    "pitch_deg": "turned up or down",
    "roll_deg": "tilted",
    "detection_score": "detection score",
}
MIN_PERCENT = 1e-2


def share(found: Mapping[str, Any] | None, refused: str | None = None) -> str:
    """A share with its interval, `at most` where nothing happened, or why there is none."""
    if found is None:
        return f"not given: {refused}" if refused else DASH
    if not found["value"]:
        return f"0 (at most {percent(found['high'])})"
    return f"{percent(found['value'])} ({span(found['low'], found['high'])})"


def rate(found: Mapping[str, Any] | None, refused: str | None = None) -> str:
    """Like `share`, as powers of ten where all of it is below a percent."""
    if found is None or found["high"] >= MIN_PERCENT:
        return share(found, refused)
    if not found["value"]:
        return f"0 (at most {power(found['high'])})"
    low, high = power(found["low"]), power(found["high"])
    return f"{power(found['value'])} ({low} {DASH} {high})"


def score(value: float) -> str:
    return f"{value:.3f}"


def times(differential: Mapping[str, Any] | None) -> str:
    """Ratio of the worst to the best group, its interval, and whether chance explains it."""
    if differential is None:
        return "not given: fewer than two groups are large enough"
    worst, best = f"`{differential['worst']}`", f"`{differential['best']}`"
    ratio, low, high = (differential[name] for name in ("ratio", "low", "high"))
    if ratio is None and low <= 1:
        return f"no ratio: {best} has no error, and chance could bring those of {worst}"
    text = f"{ratio:.3g} times" if ratio else f"at least {low:.2g} times"
    interval = f"{low:.2g} {'and more' if high is None else f'to {high:.3g}'}"
    verdict = "beyond chance" if low > 1 else "no more than chance could bring"
    return f"{worst} {text} {best} ({interval}; {verdict})"


def write_measure(measure: Mapping[str, Any], band: Mapping[str, Any]) -> str:
    """The limit of a band, with its unit."""
    unit = measure["unit"]
    gap = "" if unit in {"", "°"} else " "
    return f"{band['worst']:.3g}{gap}{unit}"


def describe_span(span: Mapping[str, Any]) -> str:
    """For example "2 to 5" or "20 or more"."""
    if span["to_years"] is None:
        return f"{span['from_years']:g} or more"
    return f"{span['from_years']:g} to {span['to_years']:g}"


def tabulate_rates(report: Report) -> Table:
    """FNMR at false match rates, one photograph against one.

    The generalised rate has a column where there are failures to acquire.
    """
    columns = ("false match rate", "at score", "false non-match rate", "95 % interval")
    rows = []
    for name, point in report["fnmr_at_fmr"].items():
        if point is None:
            rows.append((name, DASH, "not supported", DASH))
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


def tabulate_largest(growth: Report) -> Table:
    """FNIR in the largest gallery that was measured, by FPIR and kind of reference."""
    rows: dict[str, list[str]] = {}
    for curve in growth["curves"]:
        last = curve["measured"][-1]
        rate = f"{curve['fpir'] * 100:g} %"
        rows.setdefault(rate, [rate]).append(share(last | {"value": last["fnir"]}))
    return ("FPIR", *(f"FNIR, {name}" for name in REFERENCES.values())), list(rows.values())


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
            DASH if one["median"] is None else score(one["median"]),
            share(one["fnmr"], one["fnmr_refused"]),
            rate(one["fmr"], one["fmr_refused"]),
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


def tabulate_protocol(report: Report) -> Table:
    """Rates of a protocol at the threshold, then at false match rates of its own strangers."""
    columns = ("", "at score", "FNMR", "FMR", "generalised FNMR", "generalised FMR")
    rows = [("**threshold**", report["rates"])]
    rows += [(f"FMR {name}", rates) for name, rates in report["at_fmr"].items()]
    return columns, [
        (name, *([DASH] * 5))
        if rates is None
        else (
            name,
            score(rates["threshold"]),
            share(rates["fnmr"]),
            rate(rates["fmr"]),
            share(rates["generalised_fnmr"]),
            rate(rates["generalised_fmr"]),
        )
        for name, rates in rows
    ]


def tabulate_protocol_groups(groups: Sequence[Report]) -> Table:
    """The generalised rates of the groups of one attribute."""
    columns = ("group", "people", "honest / strangers' attempts", "generalised FNMR",
               "generalised FMR")  # fmt: skip
    return columns, [
        (
            f"`{one['label']}`",
            f"{one['people']:,}",
            f"{one['mated']:,} / {one['nonmated']:,}",
            share(one["generalised_fnmr"], one["refused"]),
            rate(one["generalised_fmr"], one["refused"]),
        )
        for one in groups
    ]


def describe_fusion() -> str:
    """How the intervals are calculated."""
    return (
        "The intervals are Wilson's at a fixed threshold, over people and not over pairs: the "
        "rounds draw the same ones again."
    )


def describe_growth(growth: Mapping[str, Any]) -> str:
    """How the curves were calculated."""
    return (
        f"Measured up to {growth['references']:,} references, at every size over all galleries "
        "that these allow. Beyond that extrapolated: were comparisons independent, "
        f"{growth['formula']}, with the FMR of {growth['comparisons']:,} comparisons of a "
        "stranger's photograph with a reference. At the sizes measured the last column says what "
        "the formula would have given for the FPIR."
    )


def describe_quality(report: Report) -> str:
    """Threshold and scope of the bands."""
    bands = report["quality_bands"]
    return (
        f"At score {bands['threshold']:.3f} (FMR {power(report['common_fmr'])}), at most "
        f"{bands['photographs']} photographs of a person: FNMR "
        f"{share(bands['overall'])} over {bands['overall']['trials']:,} mated pairs of "
        f"{bands['overall']['people']:,} people. A pair is in the band of its worse photograph."
    )


def describe_flagged(flagged: Mapping[str, Any]) -> str:
    """Number of flagged pairs, their score, and that all figures still include them."""
    return (
        f"{flagged['pairs']:,} pairs of strangers' photographs may show one person under two "
        f"names: they score {flagged['suspect_score']:.3f} or more, which "
        f"{flagged['mates_reaching'] * 100:.0f} % of the mated pairs reach. Nothing is left out of "
        "any figure for it."
    )
