"""Elements of an SVG drawing, as text; what is written is escaped."""

from __future__ import annotations

from html import escape


def write_line(kind: str, start: tuple[float, float], end: tuple[float, float]) -> str:
    """A straight line of a style that the page has."""
    (x1, y1), (x2, y2) = start, end
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def write_text(
    text: str, at: tuple[float, float], anchor: str, kind: str = "", *, is_upright: bool = False
) -> str:
    """Words before (`end`), around (`middle`) or after (`start`) a point."""
    x, y = at
    turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if is_upright else ""
    style = f' class="{kind}"' if kind else ""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f"<text {place}{style}{turned}>{escape(text)}</text>"


def write_box(kind: str, at: tuple[float, float], size: tuple[float, float]) -> str:
    """A rectangle; its width is never below zero."""
    (x, y), (width, height) = at, size
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{height:.1f}"'
    return f'<rect class="{kind}" {place}/>'


def write_path(path: str, colour: str, title: str, kind: str = "") -> str:
    """A stroke in a colour of the page; `title` is shown when it is pointed at."""
    style = f' class="{kind}"' if kind else ""
    stroke = f'style="stroke:var(--{colour})"'
    return f'<path{style} d="{path}" {stroke}>{_write_title(title)}</path>'


def write_disc(at: tuple[float, float], radius: float, colour: str, title: str) -> str:
    place = f'cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius:g}"'
    return f'<circle {place} style="fill:var(--{colour})">{_write_title(title)}</circle>'


def _write_title(text: str) -> str:
    return f"<title>{escape(text)}</title>"
