"""Report of an evaluation: a folder with report.md and its pictures, JSON, and flagged pairs."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from engine.accuracy import evaluation_tables
from engine.accuracy.bootstrap import MIN_PEOPLE, REPLICATES
from engine.accuracy.evaluation_tables import rate, times
from engine.accuracy.gallery_growth import MIN_GALLERY
from engine.accuracy.pair_scores import MOST_PHOTOGRAPHS
from engine.accuracy.plots import draw_ageing, draw_attribute, draw_det, draw_growth, draw_quality
from engine.errors import RequestError
from engine.formatting import power, write_table

if TYPE_CHECKING:
    from engine.accuracy.evaluate import Evaluation
    from engine.accuracy.protocols import ProtocolEvaluation

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


def write_protocol_folder(evaluation: ProtocolEvaluation, folder: Path) -> None:
    """Write report.md and evaluation.json into a folder, made if missing; no path of a photograph.

    Raises `RequestError` where the folder cannot be written.
    """
    report = evaluation.to_dict()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.md").write_text(write_protocol(report), "utf-8")
        text = json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False)
        (folder / "evaluation.json").write_text(text + "\n", "utf-8")
    except OSError as error:
        raise RequestError(f"can't write into {folder.name}: {error.strerror}") from error


def write_protocol(report: Report) -> str:
    """The evaluation by a protocol as one page of Markdown."""
    return _render("protocol.md.j2", report, tables=evaluation_tables)


def write_report(report: Report, pictures: Mapping[str, Path]) -> str:
    """The evaluation as one page of Markdown."""

    def picture(name: str) -> str:
        return f"![{name}]({pictures[name].name})" if name in pictures else ""

    return _render(
        "report.md.j2",
        report,
        picture=picture,
        replicates=REPLICATES,
        most_photographs=MOST_PHOTOGRAPHS,
        tables=evaluation_tables,
        people_needed=2 * MIN_GALLERY,
        probed_needed=MIN_PEOPLE,
    )


def _render(template: str, report: Report, **given: Any) -> str:
    environment = Environment(
        loader=PackageLoader("engine.accuracy"),
        autoescape=False,  # noqa: S701 - Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "count": "{:,}".format,
        "power": power,
        "rate": rate,
        "times": times,
        "table": lambda table: write_table(*table),
    }
    page = environment.get_template(template).render(report, report=report, **given)
    return re.sub(r"\n{3,}", "\n\n", page)
