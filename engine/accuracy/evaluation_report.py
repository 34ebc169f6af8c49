"""Report of an evaluation: a folder with report.md and its pictures, JSON, and flagged pairs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.accuracy import evaluation_tables
from engine.accuracy.bootstrap import REPLICATES
from engine.accuracy.plots import draw_ageing, draw_attribute, draw_det, draw_growth, draw_quality
from engine.accuracy.writing import power, rate, share, times, write_table
from engine.errors import RequestError

if TYPE_CHECKING:
    from engine.accuracy.evaluate import Evaluation

Report = dict[str, Any]
FLAGGED_COLUMNS = ("photograph", "other", "score")


def write_folder(evaluation: Evaluation, folder: Path) -> tuple[Path, ...]:
    """Write report.md, evaluation.json, flagged.csv and pictures into a folder, made if missing.

    Only `flagged.csv` has paths of photographs, which may name people. Raises `RequestError` where
    the folder cannot be written.
    """
    report = evaluation.to_dict()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = draw_pictures(report, folder / "det.png")
        (folder / "report.md").write_text(write_report(report, pictures), "utf-8")
        text = json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False)
        (folder / "evaluation.json").write_text(text + "\n", "utf-8")
        rows = evaluation.flagged.to_rows(evaluation.embeddings)
        with (folder / "flagged.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, FLAGGED_COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise RequestError(f"can't write into {folder.name}: {error.strerror}") from error
    written = (folder / name for name in ("report.md", "evaluation.json", "flagged.csv"))
    return (*written, *pictures.values())


def draw_pictures(report: Report, path: Path) -> dict[str, Path]:
    """Draw the DET curve to `path`, and the others that have data beside it, as `det-gallery.png`.

    Returns paths by name: det, gallery, quality, attribute-1, …, ageing.
    """

    def beside(name: str) -> Path:
        return path.with_name(f"{path.stem}-{name}{path.suffix}")

    drawn = {}
    if report["det"]:
        draw_det(report, path)
        drawn["det"] = path
    if report["gallery_growth"] and report["gallery_growth"]["curves"]:
        draw_growth(report, beside("gallery"))
        drawn["gallery"] = beside("gallery")
    if report["quality_bands"]:
        draw_quality(report, beside("quality"))
        drawn["quality"] = beside("quality")
    for number, attribute in enumerate(report["attributes"], 1):
        name = f"attribute-{number}"
        draw_attribute(attribute, beside(name))
        drawn[name] = beside(name)
    if report["ageing"] and report["ageing"]["spans"]:
        draw_ageing(report, beside("ageing"))
        drawn["ageing"] = beside("ageing")
    return drawn


def write_report(report: Report, pictures: Mapping[str, Path]) -> str:
    """The evaluation as one page of Markdown."""
    shown = {name: f"![{name}]({path.name})\n" for name, path in pictures.items()}
    parts: list[str] = [
        f"# Error rates: {report['source']}",
        f"{report['people']:,} people, {report['photographs']:,} photographs, "
        f"{report['mated_pairs']:,} mated and {report['nonmated_pairs']:,} non-mated pairs; model "
        f"`{report['model_digest'][:12]}`. The words are those of ISO/IEC 19795-1. Intervals are "
        f"95 %, by a bootstrap over people ({REPLICATES} replicates), where no other way is named.",
        "## Failure to acquire",
        write_table(*evaluation_tables.tabulate_acquisition(report)),
        "## One to one",
        shown.get("det", ""),
        write_table(*evaluation_tables.tabulate_rates(report)),
        *_write_accuracy(report),
        *_write_fusion(report),
        *_write_identification(report, shown),
        *_write_quality(report, shown),
        *_write_attributes(report, shown),
        *_write_ageing(report, shown),
        "## Possible errors of the labels",
        describe_flagged(report["flagged"]),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _write_accuracy(report: Report) -> Iterator[str]:
    lowest = report["lowest_fmr"]
    if report["accuracy"] is not None:
        accuracy, spread = (report[name] * 100 for name in ("accuracy", "accuracy_std"))
        yield f"Over folds: {accuracy:.2f} %, standard deviation {spread:.2f} %."
    if lowest is not None:
        yield f"No FMR below {power(lowest)} is supported: ten pairs of strangers reach it."


def _write_fusion(report: Report) -> Iterator[str]:
    if report["fusion"]:
        yield f"Two photographs, one reference ({report['fusion']['people']:,} people):"
        yield write_table(*evaluation_tables.tabulate_fusion(report))
        yield describe_fusion()


def describe_fusion() -> str:
    """How the intervals are calculated."""
    return (
        "The intervals are Wilson's at a fixed threshold, over people and not over pairs: the "
        "rounds draw the same ones again."
    )


def _write_identification(report: Report, shown: Mapping[str, str]) -> Iterator[str]:
    if not report["open_set"]:
        return
    yield "## One to many"
    found = report["open_set"]
    yield (
        f"Gallery of {found['gallery_size']:,} people; {found['mated_probes']:,} mated probes, "
        f"{found['nonmated_probes']:,} of strangers."
    )
    yield write_table(*evaluation_tables.tabulate_open_set(report))
    yield describe_open_set(report)
    growth = report["gallery_growth"]
    if not growth:
        return
    yield "### By the size of the gallery"
    yield shown.get("gallery", "")
    yield describe_growth(growth)
    for curve in growth["curves"]:
        yield evaluation_tables.describe_curve(curve)
        yield write_table(*evaluation_tables.tabulate_growth(curve))


def describe_open_set(report: Report) -> str:
    """How the intervals are calculated, and why they differ from another table's."""
    return (
        "The intervals are Wilson's over the mated probes, one a person, at the threshold of this "
        "one split into people enrolled and strangers. Against the size of the gallery the rates "
        "are means over all galleries, with thresholds of their own, and the intervals a bootstrap "
        "that finds the threshold anew in each replicate: so a gallery of "
        f"{report['open_set']['gallery_size']:,} may have another rate and interval there."
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


def _write_quality(report: Report, shown: Mapping[str, str]) -> Iterator[str]:
    bands = report["quality_bands"]
    if not bands:
        return
    yield "## By quality"
    yield shown.get("quality", "")
    yield describe_quality(report)
    yield write_table(*evaluation_tables.tabulate_quality(report))


def describe_quality(report: Report) -> str:
    """Threshold and scope of the bands."""
    bands = report["quality_bands"]
    return (
        f"At score {bands['threshold']:.3f} (FMR {power(report['common_fmr'])}), at most "
        f"{bands['photographs']} photographs of a person: FNMR "
        f"{share(bands['overall'])} over {bands['overall']['trials']:,} mated pairs of "
        f"{bands['overall']['people']:,} people. A pair is in the band of its worse photograph."
    )


def _write_attributes(report: Report, shown: Mapping[str, str]) -> Iterator[str]:
    for number, attribute in enumerate(report["attributes"], 1):
        yield f"## By `{attribute['column']}`"
        yield shown.get(f"attribute-{number}", "")
        yield (
            f"One threshold for all: score {attribute['threshold']:.3f}. False negative "
            f"differential: {times(attribute['false_negative'])}. False positive differential: "
            f"{times(attribute['false_positive'])}. Strangers of different groups: FMR "
            f"{rate(attribute['across'])}. {attribute['unlabelled']:,} photographs "
            f"without a label and {attribute['mixed_pairs']:,} mated pairs of two labels count "
            "nowhere."
        )
        yield write_table(*evaluation_tables.tabulate_attribute(attribute))


def _write_ageing(report: Report, shown: Mapping[str, str]) -> Iterator[str]:
    ageing = report["ageing"]
    if not ageing:
        return
    yield "## Template ageing"
    yield shown.get("ageing", "")
    yield f"{ageing['undated']:,} photographs without a date count nowhere."
    if ageing["spans"]:
        yield write_table(*evaluation_tables.tabulate_ageing(report))


def describe_flagged(flagged: Mapping[str, Any]) -> str:
    """Number of flagged pairs, their score, and that all figures still include them."""
    return (
        f"{flagged['pairs']:,} pairs of strangers' photographs may show one person under two "
        f"names: they score {flagged['suspect_score']:.3f} or more, which "
        f"{flagged['mates_reaching'] * 100:.0f} % of the mated pairs reach. Nothing is left out of "
        "any figure for it."
    )
