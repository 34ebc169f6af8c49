"""Numbers and tables of a report as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.formatting import DASH, percent, power, span

MIN_PERCENT = 1e-2


def write_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, without a final line break."""
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(_escape(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def share(found: Mapping[str, Any] | None, refused: str | None = None) -> str:
    """A share with its interval, `at most` where nothing happened, or why there is none."""
    if found is None:
        return f"not given: {refused}" if refused else DASH
    if not found["value"]:
        return f"0 (at most {percent(found['high'])})"
    return f"{percent(found['value'])} ({span(found['low'], found['high'])})"


def rate(found: Mapping[str, Any] | None, refused: str | None = None) -> str:
    """Like `share`, as powers of ten where all of it is below a percent."""
    if found is None or found["high"] >= MIN_PERCENT:
        return share(found, refused)
    if not found["value"]:
        return f"0 (at most {power(found['high'])})"
    low, high = power(found["low"]), power(found["high"])
    return f"{power(found['value'])} ({low} {DASH} {high})"


def score(value: float) -> str:
    return f"{value:.3f}"


def times(differential: Mapping[str, Any] | None) -> str:
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
