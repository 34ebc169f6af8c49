"""A run of all suites as a folder: a page, a document a suite, pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.charts.drawing import draw_all
from bench.pages.markdown import count_promises, render
from bench.reading import SUMMARY, write_report
from bench.suites import SUITES, Ran

PAGE = "report.md"


def write_folder(folder: Path, ran: Ran) -> dict[str, Any]:
    """Writes `report.md`, `SUITE.json`, `summary.json` and pictures; returns the summary.

    Reports of a run before that this one lacks are removed: a folder is one run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, report in ran.reports.items():
        write_report(folder / f"{name}.json", report)
    for suite in SUITES:
        if suite.name not in ran.reports:
            (folder / f"{suite.name}.json").unlink(missing_ok=True)
    pictures = draw_all(ran.reports, folder) if ran.reports else {}
    kept, measured = count_promises(ran.reports)
    page = render(
        "report.md.j2",
        stamp=ran.machine,
        quick=ran.is_quick,
        kept=kept,
        measured=measured,
        reports=ran.reports,
        failures=ran.failures,
        pictures={name: path.name for name, path in pictures.items()},
    )
    (folder / PAGE).write_text(page, encoding="utf-8")
    summary = {
        "folder": str(folder),
        "quick": ran.is_quick,
        "suites": {
            name: {"holds": ran.keeps(one), "blocks": one.blocks, "seconds": ran.seconds[name]}
            for name, one in ran.reports.items()
        },
        "failures": ran.failures,
        "promises": {"kept": kept, "measured": measured},
        "pictures": sorted(path.name for path in pictures.values()),
    }
    text = json.dumps(summary, ensure_ascii=False, indent=2)
    (folder / SUMMARY).write_text(text + "\n", encoding="utf-8")
    return summary
