"""Numbers for people: the same in a terminal, on a page and in a picture."""

from __future__ import annotations

from collections.abc import Callable

MINUS = "\u2212"
NONE = "-"
_SIZES = ((2**50, "PiB"), (2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def number(value: float | None) -> str:
    """Four significant digits, large numbers whole with commas; a hyphen where there is none."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def fixed(value: float, digits: int = 0) -> str:
    """So many digits after the point, with commas and a true minus sign."""
    return f"{value:,.{digits}f}".replace("-", MINUS)


def percent(share: float, digits: int = 0) -> str:
    """`12.5 %` for 0.125."""
    return f"{fixed(share * 100, digits)} %"


def with_interval(
    value: float,
    low: float,
    high: float,
    is_bound: bool = False,
    *,
    write: Callable[[float], str] = "{:.2g}".format,
    level: str = "",
) -> str:
    """A rate or an expected count with its 95 % interval: `5 (2 to 9)`, or `at most 5`."""
    if is_bound:
        return f"at most {write(value)}"
    return f"{write(value)} ({level}{write(low)} to {write(high)})"


def size(size_bytes: float) -> str:
    """`1.91 GiB`, in the largest unit that fits."""
    for unit, name in _SIZES:
        if size_bytes >= unit:
            return f"{size_bytes / unit:,.3g} {name}"
    return f"{size_bytes:,.0f} bytes"


def whole_gib(size_bytes: float) -> str:
    """`1,024 GiB`, whatever the size."""
    return f"{size_bytes / 2**30:,.0f} GiB"


def duration(seconds: float) -> str:
    """`14.2 s`; minutes from two on, hours from two on."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
