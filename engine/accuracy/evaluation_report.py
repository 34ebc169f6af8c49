"""Report of an evaluation: a folder with report.md and its picture, JSON, and flagged pairs."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from engine.accuracy.bootstrap import REPLICATES
from engine.accuracy.conditions import MEASURES
from engine.accuracy.pair_scores import MOST_PHOTOGRAPHS
from engine.errors import RequestError, file_errors
from engine.formatting import DASH, escape_cell, percent, power, span
from engine.plots import open_panels, save_figure

if TYPE_CHECKING:
    from engine.accuracy.evaluate import Evaluation

Report = Mapping[str, Any]
"""The result of `Evaluation.to_dict`."""
MIN_PERCENT = 1e-2


def share(found: Report | None, refused: str | None = None) -> str:
    """A share with its interval, `at most` where nothing happened, or why there is none."""
    if found is None:
        return f"not given: {refused}" if refused else DASH
    if not found["value"]:
        return f"0 (at most {percent(found['high'])})"
    return f"{percent(found['value'])} ({span(found['low'], found['high'])})"


def rate(found: Report | None, refused: str | None = None) -> str:
    """Like `share`, as powers of ten where all of it is below a percent."""
    if found is None or found["high"] >= MIN_PERCENT:
        return share(found, refused)
    if not found["value"]:
        return f"0 (at most {power(found['high'])})"
    low, high = power(found["low"]), power(found["high"])
    return f"{power(found['value'])} ({low} {DASH} {high})"


def times(differential: Report | None) -> str:
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


def write_measure(measure: Report, band: Report) -> str:
    """The limit of a band, with its unit."""
    unit = measure["unit"]
    gap = "" if unit in {"", "°"} else " "
    return f"{band['worst']:.3g}{gap}{unit}"


def write_section(name: str, *given: Report) -> str:
    """A table or a sentence of the template `sections.md.j2`."""
    return str(
        getattr(_open_templates().get_template("sections.md.j2").module, name)(*given)
    ).strip()


@cache
def _open_templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("engine.accuracy"),
        autoescape=False,  # noqa: S701 - Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {"measures": {name: words for name, (words, _) in MEASURES.items()}}
    environment.filters |= {
        "cell": escape_cell,
        "count": "{:,}".format,
        "measure": write_measure,
        "percent": percent,
        "power": power,
        "rate": rate,
        "score": "{:.3f}".format,
        "share": share,
        "span": span,
        "times": times,
    }
    return environment


def write_folder(evaluation: Evaluation, folder: Path) -> tuple[Path, ...]:
    """Write report.md, its picture, evaluation.json and flagged.csv into a folder, made if missing.

    Only `flagged.csv` has paths of photographs, which may name people. Raises `RequestError` where
    the folder cannot be written.
    """
    report = evaluation.to_dict()
    written = [folder / name for name in ("report.md", "evaluation.json", "flagged.csv")]
    with file_errors(f"can't write into {folder.name}"):
        folder.mkdir(parents=True, exist_ok=True)
        if report["det"]:
            draw_det(report, folder / "det.png")
            written.append(folder / "det.png")
        page = write_report(report, has_picture=bool(report["det"]))
        (folder / "report.md").write_text(page, "utf-8")
        text = json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False)
        (folder / "evaluation.json").write_text(text + "\n", "utf-8")
        with (folder / "flagged.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ("photograph", "other", "score"))
            writer.writeheader()
            writer.writerows(evaluation.flagged.to_rows(evaluation.embeddings))
    return tuple(written)


def write_report(report: Report, *, has_picture: bool = False) -> str:
    """The evaluation as one page of Markdown, with det.png beside it or without."""
    page = (
        _open_templates()
        .get_template("report.md.j2")
        .render(
            report,
            report=report,
            has_picture=has_picture,
            replicates=REPLICATES,
            most_photographs=MOST_PHOTOGRAPHS,
        )
    )
    return re.sub(r"\n{3,}", "\n\n", page)


CURVE, BAND = "#0b6e75", "#8cc5c4"
FNMR_TICKS = (1e-5, 1e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
MIN_FNMR, MAX_FNMR = 1e-6, 0.97
"""A logit axis has neither zero nor one."""


def draw_det(report: Report, path: Path, **texts: str) -> None:
    """Write a PNG of the DET curve with its 95 % band and the points of the report's table; raises
    `RequestError` where there is no curve to draw."""
    if not report["det"]:
        raise RequestError("no DET curve: too few pairs of strangers for a false match rate of 0.1")
    figure, (axes,) = open_panels(8.4, 5.6)
    names = ("fmr", "fnmr", "fnmr_low", "fnmr_high")
    fmr, fnmr, low, high = np.array([[point[name] for name in names] for point in report["det"]]).T
    floor = max(float(fnmr.min()) / 3, MIN_FNMR)
    top = min(max(float(high.max()) * 1.3, floor * 10), MAX_FNMR)
    axes.set_xscale("log")
    # There the DET curve of Gaussian scores is nearly straight.
    axes.set_yscale("logit")
    axes.set_yticks(FNMR_TICKS, [f"{value * 100:.3g} %" for value in FNMR_TICKS])
    axes.minorticks_off()
    axes.set_ylim(floor, top)
    fnmr, low, high = (np.clip(one, floor, top) for one in (fnmr, low, high))
    axes.fill_between(fmr, low, high, color=BAND, alpha=0.45, lw=0, label="95 % interval")
    axes.plot(fmr, fnmr, color=CURVE, lw=2.2, label="one photograph against one")
    marked = {name: point for name, point in report["fnmr_at_fmr"].items() if point is not None}
    for name, point in marked.items():
        place = float(name), max(point["fnmr"], floor)
        axes.plot(*place, "o", ms=7, mfc="white", mec=CURVE, mew=2, zorder=3, clip_on=False)
        text = f"{point['fnmr'] * 100:.2g} %\nscore ≥ {point['threshold']:.3f}"
        axes.annotate(text, place, (9, 9), textcoords="offset points", fontsize=9)
    heading = "How often the right person is missed, for each false match rate"
    axes.set_title(heading, loc="left", pad=26, fontsize=13, weight="bold")
    below = (
        f"{report['people']:,} people, {report['photographs']:,} photographs, "
        f"{report['mated_pairs']:,} mated and {report['nonmated_pairs']:,} non-mated pairs"
    )
    axes.text(0, 1.025, below, transform=axes.transAxes, fontsize=9.5)
    axes.set_xlabel("false match rate (FMR)")
    axes.set_ylabel("false non-match rate (FNMR)")
    axes.legend(frameon=False, loc="upper right")
    save_figure(figure, path, **texts)
