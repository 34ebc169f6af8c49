"""Which way a figure is better, read from its unit and name; most counts are neither.

Reports say what was measured, and targets which way a promise goes; between two reports a figure
that nobody promised must be judged too.
"""

from __future__ import annotations

import re
from enum import StrEnum

from bench.report import Figure


class Better(StrEnum):
    """What an improvement looks like."""

    MORE = "more"
    LESS = "less"


_TIME = re.compile(r"(ns|us|ms|s|min)( of a core|/\w+)?")
_SIZE = re.compile(r"(bytes|kB|MB|GB|MiB)(/\w+| written|/min)?")
_RATE = re.compile(r".*/s|GOPS")
_SHARES = frozenset({"share", "share of pairs", "of 1", "of pairs together", "of the best"})
_WRONG = re.compile(
    r"missed|lost|doubled|wrong|differ|removed$|chains joined|too few|not seen|answers of another"
)
_WORSE_SHARES = re.compile(r"^FTA|^FNMR|refused|growth|failed|review")
# Said of the load, the data or the machine, not of the product.
_GIVEN = re.compile(r"offered|sent$|late, p99|reading|^codes$|meanwhile$|slope|samples around")
# No clock is in their unit, and yet they are of how a run went.
_UNSTEADY = re.compile(
    r"peak of memory|memory (at|after)|growth|slope|refused|answers of another|failures to|"
    r"given up|requests answered|of them enrollments|acknowledged|decided before the kill"
)
_OTHERS = re.compile(
    r"FAISS|usearch|hnswlib|pgvector|deepface|face_recognition|numpy|MatMulInteger|python -c|"
    r"dequantised|PReLU as four|connected components|pairs alone|Serve's own proxy"
)


def better(figure: Figure) -> Better | None:
    """None where a change is neither good nor bad by itself, or is not Sosie's."""
    name, unit = figure.name, figure.unit
    if is_other(figure) or _GIVEN.search(name):
        return None
    if unit == "FNMR" or unit.startswith("largest"):
        return Better.LESS
    if unit in _SHARES:
        return Better.LESS if _WORSE_SHARES.search(name) else Better.MORE
    if _RATE.fullmatch(unit):
        return Better.MORE
    if _TIME.fullmatch(unit) or _SIZE.fullmatch(unit) or unit == "times":
        return Better.LESS
    return Better.LESS if _WRONG.search(name) else None


def is_other(figure: Figure) -> bool:
    """Whether it is of what Sosie is compared with."""
    return _OTHERS.search(figure.name) is not None


def varies(figure: Figure) -> bool:
    """Whether the same run again gives another value: a clock or a scheduler is in it."""
    unit = figure.unit
    is_time = _TIME.fullmatch(unit) or _RATE.fullmatch(unit) or unit in {"times", "of the best"}
    return bool(is_time) or _UNSTEADY.search(figure.name) is not None
