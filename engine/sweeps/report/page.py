"""The sweep report as one HTML page, and what its numbers say."""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from engine.formatting import count, duration, plural
from engine.matching.calibration import CalibrationCurve, Rate
from engine.sweeps.report import views
from engine.sweeps.report.contents import (
    KIND_MEANINGS,
    KIND_NAMES,
    RATIO_TEXTS,
    Chance,
    ReportInput,
    format_day,
    format_moment,
    format_rate,
    format_share,
)
from engine.sweeps.risk import LIVENESS_WINDOW, fill_weeks
from indexes.atomic_files import replacing
from schema import frozen


@frozen
class GroupVerdict:
    """A conclusion; `tone` is `clear`, `doubt` or `unknown`."""

    tone: str
    title: str
    text: str


def judge_ranking(chance: Chance) -> GroupVerdict:
    """Judges the ranking of a sweep with a budget: its pairs are strangers for the most part."""
    return GroupVerdict(
        "doubt",
        "Ranked, and cut off at a budget",
        f"Chance alone brings {format_rate(chance.false_pairs)}. "
        "The groups listed are the most suspicious beyond their score.",
    )


def tell_share(true: Mapping[str, Any]) -> str:
    """The share of the groups that is expected to be true, in words."""
    if true["share"] is None:
        return (
            "What share of them is true is not known: too few groups of sweeps with a budget have "
            f"been decided ({true['decided']:,})."
        )
    low, high = (format_share(true[name]) for name in ("low", "high"))
    return (
        f"About {format_share(true['share'])} of them are expected to be true ({low} to {high}), "
        f"by {true['decided']:,} groups that were decided."
    )


def judge_chance(found: int, expected: Rate) -> GroupVerdict:
    """Judges whether more pairs were found than expected by chance."""
    if not found:
        return GroupVerdict(
            "clear", "Nothing was found", "No two documents have faces that reach the threshold."
        )
    if expected.is_bound:
        return _judge_bound(found, expected)
    if found > expected.high:
        surplus = found - expected.high
        return GroupVerdict(
            "clear",
            "More than chance explains",
            f"Strangers who look alike would bring {_count_pairs(expected)}. Even at the upper "
            f"end, {count(surplus)} of the {found:,} found "
            f"({format_share(surplus / found)}) need another explanation.",
        )
    return GroupVerdict(
        "doubt",
        "No more than chance can explain",
        f"Strangers who look alike would bring {_count_pairs(expected)}, and {found:,} were found. "
        "Any of them may be two strangers: choose a higher threshold, or look at every pair.",
    )


def miss_rate(curve: CalibrationCurve, threshold: float) -> Rate | None:
    """The share of pairs of one person below `threshold`, interpolated between the calibration's
    points; None beyond them."""
    scores = [point.threshold for point in curve.points]
    if not scores[0] <= threshold <= scores[-1]:
        return None
    value, low, high = (
        float(np.interp(threshold, scores, [getattr(point, name) for point in curve.points]))
        for name in ("fnmr", "fnmr_low", "fnmr_high")
    )
    return Rate(value, low, high)


def _judge_bound(found: int, expected: Rate) -> GroupVerdict:
    if found > expected.high:
        return GroupVerdict(
            "clear",
            "More than chance explains",
            f"The threshold lies beyond the calibration, which bounds strangers who look alike to "
            f"{count(expected.high)} pairs. At least {count(found - expected.high)} "
            f"of the {found:,} found need another explanation.",
        )
    return GroupVerdict(
        "unknown",
        "Chance cannot be ruled out",
        f"The threshold lies beyond the calibration: strangers who look alike bring "
        f"{format_rate(expected)} pairs, which may be none or all of the {found:,} found. "
        "Look at every group before you act.",
    )


def _count_pairs(expected: Rate) -> str:
    return f"about {count(expected.value)} pairs ({count(expected.low)} to {count(expected.high)})"


MOST_WEEKS = 104
MOST_SELLERS = 25
FIRST_GROUPS = 5
OPEN_CARDS = 5
"""Groups whose details are open; the others fold."""


def write_report(path: Path, contents: ReportInput) -> None:
    """Writes the report atomically, readable by the owner alone."""
    page = render_report(contents)
    with replacing(path) as beside:
        # A lone surrogate in a name must not cost the report.
        beside.write_text(page, "utf-8", errors="replace", newline="\n")


def render_report(contents: ReportInput) -> str:
    """Renders the report as HTML; the same contents give the same text."""
    rows = views.list_rows(contents)
    cards = views.list_cards(contents, rows)
    members = [one for card in cards for one in card.members]
    return _templates().render(
        "report.html",
        {"style": "style.css", "script": "report.js"},
        contents=contents,
        sweep=contents.sweep,
        totals=contents.summary.totals,
        rows=rows,
        cards=cards,
        faces=sum(one.face is not None for one in members),
        faceless=sum(one.face is None for one in members),
        first=rows[:FIRST_GROUPS],
        **_show_scores(contents),
        **_show_summary(contents),
    )


def _show_scores(contents: ReportInput) -> dict[str, Any]:
    sweep, chance = contents.sweep, contents.chance
    threshold, found = sweep.terms.threshold, len(contents.scores)
    missed = miss_rate(chance.curve, threshold)
    if sweep.ranking is not None:
        return {
            "found": sweep.ranking["pairs_found"],
            "verdict": judge_ranking(chance),
            "chance_chart": None,
            "ranked_share": tell_share(sweep.ranking["true"]),
            "missed": missed,
        }
    counted = views.count_scores(contents.scores, threshold, sweep.comparisons, chance.curve)
    return {
        "found": found,
        "verdict": judge_chance(found, chance.false_pairs),
        "chance_chart": views.draw_chance(chance.false_pairs, found),
        "score_chart": views.draw_scores(counted),
        "bins": _list_bins(counted),
        "missed": missed,
    }


def _show_summary(contents: ReportInput) -> dict[str, Any]:
    summary = contents.summary
    weeks = fill_weeks(summary.weeks, MOST_WEEKS)
    first = weeks[0].monday if weeks else None
    return {
        "weeks": weeks,
        "earlier_lines": sum(one.lines for one in summary.weeks if first and one.monday < first),
        "week_chart": views.draw_timeline(weeks) if weeks else None,
        "sellers": {"Outlet": summary.outlets[:MOST_SELLERS], "Carrier": summary.carriers},
        "liveness_days": LIVENESS_WINDOW.days,
        "other_outlets": max(len(summary.outlets) - MOST_SELLERS, 0),
    }


def _list_bins(counted: views.ScoreBins) -> list[tuple[float, float, int, list[float] | None]]:
    """Bins from the threshold: from, to, found, and the strangers (value, low, high) if known."""
    return [
        (low, high, found, None if strangers[0] != strangers[0] else strangers)
        for low, high, found, strangers in zip(
            counted.edges[counted.below : -1].tolist(),
            counted.edges[counted.below + 1 :].tolist(),
            counted.found[counted.below :].tolist(),
            counted.strangers[counted.below :].tolist(),
            strict=True,
        )
    ]


class PageTemplates:
    """Templates of a page that needs no other file: its style and its script are in it, and its
    policy lets in no others."""

    def __init__(self, package: str, filters: Mapping[str, Any], names: Mapping[str, Any]) -> None:
        self._loader = PackageLoader(package)
        self._environment = Environment(
            loader=self._loader,
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= filters
        self._environment.globals |= names

    def render(self, name: str, files: Mapping[str, str], **values: Any) -> str:
        """Renders a template; `files` are its style, and its script where it has one."""
        environment, read = self._environment, self._loader.get_source
        sources = {kind: read(environment, file)[0] for kind, file in files.items()}
        own = "".join(f"{kind}-src {_digest(text)}; " for kind, text in sources.items())
        return environment.get_template(name).render(
            policy=f"default-src 'none'; {own}img-src data:; base-uri 'none'; form-action 'none'",
            **{kind: Markup(text) for kind, text in sources.items()},  # noqa: S704 - our own files
            **values,
        )


def _digest(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


@cache
def _templates() -> PageTemplates:
    formats = (format_day, format_moment, format_rate, format_share)
    return PageTemplates(
        "engine.sweeps.report",
        {"format_count": count, "plural": plural, "duration": duration}
        | {one.__name__: one for one in formats},
        {
            "KIND_NAMES": KIND_NAMES,
            "KIND_MEANINGS": KIND_MEANINGS,
            "RATIO_TEXTS": RATIO_TEXTS,
            "OPEN_CARDS": OPEN_CARDS,
        },
    )
