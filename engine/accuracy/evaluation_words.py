"""Words and sections of an evaluation; a `Report` is from `to_dict` of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from engine.formatting import DASH, escape_cell, percent, power, span

Report = Mapping[str, Any]
MEASURE_NAMES = {
    "inter_eye_px": "distance of the eyes",
    "sharpness": "sharpness",
    "exposure": "exposure",
    "contrast": "contrast",
    "yaw_deg": "turned left or right",
    "pitch_deg": "turned up or down",
    "roll_deg": "tilted",
    "detection_score": "detection score",
}
MIN_PERCENT = 1e-2


def share(found: Report | None, refused: str | None = None, named: str = "value") -> str:
    """A share with its interval, `at most` where nothing happened, or why there is none."""
    if found is None:
        return f"not given: {refused}" if refused else DASH
    if not found[named]:
        return f"0 (at most {percent(found['high'])})"
    return f"{percent(found[named])} ({span(found['low'], found['high'])})"


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


def write_page(template: str, report: Report, **given: Any) -> str:
    """A report as one page of Markdown."""
    page = _open_templates().get_template(template).render(report, report=report, **given)
    return re.sub(r"\n{3,}", "\n\n", page)


@cache
def _open_templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("engine.accuracy"),
        autoescape=False,  # noqa: S701 - Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {"measures": MEASURE_NAMES}
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
