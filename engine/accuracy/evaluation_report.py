"""Report of an evaluation: a folder with report.md and its pictures, JSON, and flagged pairs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.accuracy.bootstrap import REPLICATES
from engine.accuracy.evaluation_words import write_page
from engine.accuracy.pair_scores import MOST_PHOTOGRAPHS
from engine.accuracy.plots import draw_det
from engine.errors import RequestError

if TYPE_CHECKING:
    from engine.accuracy.evaluate import Evaluation

Report = dict[str, Any]
FLAGGED_COLUMNS = ("photograph", "other", "score")


def write_folder(evaluation: Evaluation, folder: Path) -> tuple[Path, ...]:
    """Write report.md, its picture, evaluation.json and flagged.csv into a folder, made if missing.

    Only `flagged.csv` has paths of photographs, which may name people. Raises `RequestError` where
    the folder cannot be written.
    """
    report = evaluation.to_dict()
    written = [folder / name for name in ("report.md", "evaluation.json", "flagged.csv")]
    with _writing_into(folder):
        if report["det"]:
            draw_det(report, folder / "det.png")
            written.append(folder / "det.png")
        page = write_report(report, has_picture=bool(report["det"]))
        (folder / "report.md").write_text(page, "utf-8")
        text = json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False)
        (folder / "evaluation.json").write_text(text + "\n", "utf-8")
        with (folder / "flagged.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, FLAGGED_COLUMNS)
            writer.writeheader()
            writer.writerows(evaluation.flagged.to_rows(evaluation.embeddings))
    return tuple(written)


@contextmanager
def _writing_into(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise RequestError(f"can't write into {folder.name}: {error.strerror}") from error


def write_report(report: Report, *, has_picture: bool = False) -> str:
    """The evaluation as one page of Markdown, with det.png beside it or without."""
    return write_page(
        "report.md.j2",
        report,
        has_picture=has_picture,
        replicates=REPLICATES,
        most_photographs=MOST_PHOTOGRAPHS,
    )
