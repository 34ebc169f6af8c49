"""Report of an evaluation: a folder with report.md and its pictures, JSON, and flagged pairs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.accuracy.bootstrap import MIN_PEOPLE, REPLICATES
from engine.accuracy.evaluation_words import write_page
from engine.accuracy.gallery_growth import MIN_GALLERY
from engine.accuracy.pair_scores import MOST_PHOTOGRAPHS
from engine.accuracy.plots import draw_attribute, draw_det, draw_growth, draw_quality
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
    with _writing_into(folder):
        pictures = draw_pictures(report, folder / "det.png")
        _write(report, write_report(report, pictures), folder)
        with (folder / "flagged.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, FLAGGED_COLUMNS)
            writer.writeheader()
            writer.writerows(evaluation.flagged.to_rows(evaluation.embeddings))
    written = (folder / name for name in ("report.md", "evaluation.json", "flagged.csv"))
    return (*written, *pictures.values())


def draw_pictures(report: Report, path: Path) -> dict[str, Path]:
    """Draw the DET curve to `path`, and the others that have data beside it, as `det-gallery.png`.

    Returns paths by name: det, gallery, quality, attribute-1, ….
    """

    bands, growth = report["quality_bands"], report["gallery_growth"]
    wanted = [
        ("det", report["det"], draw_det, report),
        ("gallery", growth and growth["curves"], draw_growth, growth),
        ("quality", bands, draw_quality, bands),
        *(
            (f"attribute-{number}", attribute, draw_attribute, attribute)
            for number, attribute in enumerate(report["attributes"], 1)
        ),
    ]
    drawn = {}
    for name, is_there, draw, part in wanted:
        if is_there:
            drawn[name] = path
            if name != "det":
                drawn[name] = path.with_name(f"{path.stem}-{name}{path.suffix}")
            draw(part, drawn[name])
    return drawn


@contextmanager
def _writing_into(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise RequestError(f"can't write into {folder.name}: {error.strerror}") from error


def _write(report: Report, page: str, folder: Path) -> None:
    (folder / "report.md").write_text(page, "utf-8")
    text = json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False)
    (folder / "evaluation.json").write_text(text + "\n", "utf-8")


def write_report(report: Report, pictures: Mapping[str, Path]) -> str:
    """The evaluation as one page of Markdown."""

    def picture(name: str) -> str:
        return f"![{name}]({pictures[name].name})" if name in pictures else ""

    return write_page(
        "report.md.j2",
        report,
        picture=picture,
        replicates=REPLICATES,
        most_photographs=MOST_PHOTOGRAPHS,
        people_needed=2 * MIN_GALLERY,
        probed_needed=MIN_PEOPLE,
    )
