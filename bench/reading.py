"""Reports from files and folders."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from bench.report import Report
from engine.errors import RequestError

REPORTS = Path(__file__).parent / "reports"
"""Those that are committed, a file a run."""
SUMMARY = "summary.json"
"""What a run of all suites says of itself, beside their reports."""


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


def list_unreadable(path: Path) -> dict[str, str]:
    """Why the files of a folder that are no reports are none, by their names without `.json`."""
    reasons = {}
    for file in sorted(path.glob("*.json")):
        try:
            read_report(file)
        except RequestError as error:
            reasons[file.stem] = str(error)
    return reasons


def explain_absent(path: Path) -> dict[str, str]:
    """Why a folder has no report under a name: the suite failed, or its file can't be read."""
    reasons = list_unreadable(path)
    # A run by hand has no summary.
    with suppress(OSError, ValueError, KeyError, TypeError):
        failures = json.loads((path / SUMMARY).read_text(encoding="utf-8"))["failures"]
        reasons |= {str(suite): f"it failed: {why}" for suite, why in dict(failures).items()}
    return reasons


def write_report(path: Path, report: Report) -> None:
    """Writes what `read_report` reads."""
    text = json.dumps(report.to_dict(), ensure_ascii=False, indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
