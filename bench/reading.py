"""Reports from files and folders."""

from __future__ import annotations

import json
from pathlib import Path

from bench.report import Report
from engine.errors import RequestError

REPORTS = Path(__file__).parent / "reports"
"""Those that are committed, a file a run."""


def read_report(path: Path) -> Report:
    """What `--json` wrote; `RequestError` where it is no report.

    A report that does not name its suite is of the one that its file is named after.
    """
    try:
        report = Report.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(
            f"{path} is no report: write one by `sosie bench SUITE --json`"
        ) from error
    return report


def read_reports(path: Path) -> dict[str, Report]:
    """A file's report, or those of a folder's `*.json`, by the name of the file without `.json`.

    `RequestError` where there is none. Other documents in the folder are left alone.
    """
    if not path.is_dir():
        report = read_report(path)
        return {report.suite or path.stem: report}
    found = {}
    for file in sorted(path.glob("*.json")):
        try:
            found[file.stem] = read_report(file)
        except RequestError:
            continue
    if not found:
        raise RequestError(f"no reports in {path}: `sosie bench report --output` writes some")
    return found


def write_report(path: Path, report: Report) -> None:
    """Writes what `read_report` reads."""
    text = json.dumps(report.to_dict(), ensure_ascii=False, indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
