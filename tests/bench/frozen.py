"""Small reports, which no new measurement changes."""

from __future__ import annotations

from collections.abc import Iterator

from bench.core.machine import Machine
from bench.core.reports import Check, Figure, Report, Result, Setup

MACHINE = Machine(
    cpu="one",
    flags=("avx512_vnni",),
    cores=2,
    memory_bytes=25_276_502_016,
    copy_gb_per_s=91.0,
    system="Linux",
    python="3.11.7",
    packages={"sosie": "0.1.0"},
    load_at_start=0.1,
    warnings=(),
)
GALLERY, SEGMENT, FLAT, USEARCH = (
    "exact8, the gallery",
    "exact8, one segment",
    "FAISS Flat",
    "usearch int8, exact",
)
RECALL = "Recall of mates, score 0.45 to 0.50"
SETUP: Setup = {
    "references": 1_000_000,
    "dim": 128,
    "population": "synthetic",
    "seed": 0,
    "threads": 2,
    "kernel": "vnni",
}


def make_search() -> Report:
    """Times and recall of a few."""
    recall = (
        Figure(GALLERY, "share", 1.0),
        Figure(SEGMENT, "share", 1.0),
        Figure(USEARCH, "share", 0.99),
    )
    results = (
        _list_times("One query", {}, 54.4, 4.10, 46.6),
        _list_times("A batch", {"batch": 256}, 13.7, 0.38, 12.0),
        _list_times("One query, range", {"batch": 1}, 55.0, 4.6, None),
        _list_times("A batch, range", {"batch": 256}, 14.0, 0.29, None),
        Result(RECALL, SETUP | {"k": 10, "mates": 1_000}, recall),
    )
    checks = (
        Check("identical_answers", 1.0, 1.0, holds=True),
        Check("one_query_speedup", 13.3, 6.0, holds=True),
    )
    return Report(MACHINE, results, checks, "search")


def make_registrar() -> Report:
    """Decisions, and a stage of them."""
    setup: Setup = {"references": 100_000, "seed": 0, "filesystem": "ext4", "decisions": 6_399}
    decisions = (
        _spread("one a transaction", "decisions/s", 153.0, ratio=1.0),
        _spread("batches of 32", "decisions/s", 981.0, ratio=6.4),
    )
    stages = (_spread("the search alone", "ms", 15.1),)
    results = (
        Result("Decisions", setup, decisions),
        Result("Stages of a batch of 32", setup | {"batches": 20}, stages),
    )
    return Report(MACHINE, results, (Check("wrong_decisions", 0.0, 0.0, holds=True),), "registrar")


def make_gallery() -> Report:
    """Two figures of one name."""
    save = (Figure("save", "s", 0.876), Figure("save", "MB", 652.3))
    return Report(MACHINE, (Result("Snapshot", SETUP, save),), (), "gallery")


def make_accuracy() -> Report:
    """What a figure was measured with is a number too."""
    setup: Setup = {"faces": "lfw/images", "nonmated_pairs": 23_752_290}
    fta = (Figure("FTA", "share", 0.0),)
    return Report(MACHINE, (Result("Accuracy", setup, fta),), (), "accuracy")


def _list_times(name: str, more: Setup, flat: float, ours: float, usearch: float | None) -> Result:
    figures = [
        _spread(FLAT, "ms", flat, ratio=1.0),
        _spread(GALLERY, "ms", ours, ratio=flat / ours),
        _spread(SEGMENT, "ms", ours, ratio=flat / ours),
        Figure.skip(USEARCH, "ms", "no range")
        if usearch is None
        else _spread(USEARCH, "ms", usearch, ratio=flat / usearch),
    ]
    return Result(name, SETUP | {"k": 10} | more, tuple(figures))


def _spread(name: str, unit: str, value: float, ratio: float | None = None) -> Figure:
    """Its quartiles lie about a quarter of it apart."""
    low, high = 0.856 * value, 1.083 * value
    return Figure(name, unit, value, low, high, ratio)


def each_suite() -> Iterator[tuple[str, Report]]:
    """All of them by their suites."""
    for report in (make_search(), make_registrar(), make_gallery(), make_accuracy()):
        yield report.suite, report
