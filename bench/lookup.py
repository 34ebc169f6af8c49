"""Figures of reports by suite, result and name."""

from __future__ import annotations

from collections.abc import Mapping

from bench.report import Figure, Report, Result


def find_result(reports: Mapping[str, Report], suite: str, name: str) -> Result | None:
    """The first of that name, or None."""
    report = reports.get(suite)
    if report is None:
        return None
    return next((one for one in report.results if one.name == name), None)


def find_figure(
    reports: Mapping[str, Report], suite: str, result: str, name: str, unit: str | None = None
) -> Figure | None:
    """The first of that name, and of that unit where one is given, or None."""
    found = find_result(reports, suite, result)
    if found is None:
        return None
    fits = (one for one in found.figures if one.name == name and unit in {None, one.unit})
    return next(fits, None)
