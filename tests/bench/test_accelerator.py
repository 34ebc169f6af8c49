"""The suite `accelerator` on a machine without a GPU: all else runs, and the rest says why not."""

from __future__ import annotations

from bench.core.reports import Figure
from bench.suites.accelerator import QUICK, AcceleratorConfig, run


def test_without_a_gpu_every_part_is_measured_on_this_processor_or_says_why_not() -> None:
    results, measured = run(AcceleratorConfig(**QUICK))
    assert measured == {}
    figures: dict[tuple[str, str], Figure] = {
        (result.name, figure.name.partition(" (expected")[0]): figure
        for result in results
        for figure in result.figures
    }
    for key, figure in figures.items():
        told = figure.skipped or ""
        assert (figure.value is None) == told.startswith("not measured: "), (key, told)
        assert "failed" not in told
    equality, search = "Equality with the CPU", f"Search of {QUICK['rows']:,}"
    assert figures[equality, "padded, on this processor"].value < 1e-6
    assert figures[search, "its pairs differ, by numpy"].value == 0
    if results[0].setup["gpu"] == "none":
        assert figures[search, "1 queries, the GPU"].value is None
    assert {result.name for result in results if any(f.value for f in result.figures)} >= {
        "Preparation and gathering",
        "Photographs",
        search,
    }
