"""Pictures of the curves: latency against size, recall against speed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.charts.canvas import close, open_panels, write_plainly
from bench.curves import LATENCY_BATCH, LATENCY_ONE, RECALL, SPEED
from engine.errors import RequestError

# Okabe and Ito's colours, which people with any colour vision can tell apart; each kind has a mark
# of its own besides.
_STYLES = {
    "exact8": ("#D55E00", "o"),
    "FAISS Flat": ("#000000", "s"),
    "FAISS Flat by BLAS": ("#7F7F7F", "s"),
    "FAISS PQ4fs+refine": ("#0072B2", "^"),
    "FAISS IVF": ("#009E73", "v"),
    "hnswlib": ("#CC79A7", "D"),
}
_OTHER = ("#56B4E9", "x")
_HEIGHT = 4.6

Point = tuple[float, float, str]
"""Across, up, and what is written beside it."""
Lines = dict[str, list[Point]]


def draw_plots(report: Path, folder: Path) -> tuple[Path, Path]:
    """Writes `latency.png` and `recall.png`; `RequestError` where the report has no curves."""
    results, machine = _read(report)
    latency, recall = folder / "latency.png", folder / "recall.png"
    caption = _describe(results, machine)
    _draw_latency(results, latency, caption)
    _draw_recall(results, recall, caption)
    return latency, recall


def _read(report: Path) -> tuple[Sequence[Mapping[str, Any]], Mapping[str, Any]]:
    try:
        document = json.loads(report.read_text("utf-8"))
        results: Sequence[Mapping[str, Any]] = document["results"]
        names = {result["name"] for result in results}
    except OSError as error:
        raise RequestError(f"cannot read {report}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{report} is no report: write it by `curves --json`") from error
    if not {LATENCY_ONE, LATENCY_BATCH, SPEED} <= names:
        raise RequestError(f"{report} has no curves: write it by `curves --json`")
    return results, document.get("machine", {})


def _draw_latency(results: Sequence[Mapping[str, Any]], path: Path, caption: str) -> None:
    plots = ((LATENCY_ONE, "One query"), (LATENCY_BATCH, "A batch of {batch}"))
    figure, axes = open_panels(_HEIGHT, len(plots))
    for axis, (name, title) in zip(axes, plots, strict=True):
        chosen = [result for result in results if result["name"] == name]
        for line, points in _latencies(chosen):
            _plot(axis, line, points)
        axis.set_title(title.format(**chosen[0]["setup"]))
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("references in the gallery")
        axis.set_ylabel("milliseconds a query")
    axes[0].legend(fontsize=8)
    _close(figure, path, caption)


def _latencies(results: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Point]]]:
    """A line a searcher; IVF's has fewer lists in a small gallery, and is the same line."""
    lines: Lines = {}
    for result in results:
        size = float(result["setup"]["references"])
        for figure in result["figures"]:
            kind, _, setting = figure["name"].partition(", ")
            line = f"FAISS IVF, {setting}" if kind.startswith("FAISS IVF") else figure["name"]
            lines.setdefault(line, []).append((size, figure["value"], ""))
    yield from lines.items()


def _draw_recall(results: Sequence[Mapping[str, Any]], path: Path, caption: str) -> None:
    (speeds,) = (result for result in results if result["name"] == SPEED)
    milliseconds = {figure["name"]: figure["value"] for figure in speeds["figures"]}
    bands = [result for result in results if result["name"].startswith(RECALL)]
    figure, axes = open_panels(_HEIGHT, len(bands))
    for axis, band in zip(axes, bands, strict=True):
        lines: Lines = {}
        for one in band["figures"]:
            if one["value"] is not None:
                kind, _, setting = one["name"].partition(", ")
                note = setting.rpartition(" ")[2] if kind != "exact8" else ""
                point = (1e3 / milliseconds[one["name"]], one["value"], note)
                lines.setdefault(_family(kind), []).append(point)
        for line, points in lines.items():
            _plot(axis, line, points)
        axis.set_title(f"Mates with a {band['name'].removeprefix(RECALL).lstrip(', ')}")
        axis.set_xscale("log")
        axis.set_xlabel("queries a second, in batches")
        axis.set_ylabel("share of the mates that are found")
        axis.set_ylim(top=1.03)
        if lines:
            axis.legend(fontsize=8, loc="lower left", title="numbers: k_factor, nprobe, ef")
    _close(figure, path, caption)


def _family(kind: str) -> str:
    return "FAISS IVF" if kind.startswith("FAISS IVF") else kind


def _plot(axis: Any, line: str, points: Sequence[Point]) -> None:
    kind, _, setting = line.partition(", ")
    colour, mark = _STYLES.get(kind, _OTHER)
    dash = ":" if setting.endswith("256") else "-"
    across, up = [point[0] for point in points], [point[1] for point in points]
    axis.plot(
        across,
        up,
        dash,
        color=colour,
        marker=mark,
        markersize=7 if kind == "exact8" else 5,
        label=line,
    )
    for x, y, note in points:
        if note:
            axis.annotate(note, (x, y), (4, -11), textcoords="offset points", fontsize=7)


def _close(figure: Any, path: Path, caption: str) -> None:
    for axis in figure.axes:
        write_plainly(axis.xaxis)
        if axis.get_yscale() == "log":
            write_plainly(axis.yaxis)
    close(figure, path, caption)


def _describe(results: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> str:
    setup = results[-1]["setup"]
    where = f"{machine['cpu']}, {machine['cores']} cores; " if machine else ""
    return (
        f"{where}{setup['dim']} dimensions, {setup['population']}, seed {setup['seed']}, "
        f"{setup['threads']} threads, kernel {setup['kernel']}; recall at "
        f"{setup['references']:,} references"
    )
