"""The suite `accelerator` on a machine without a GPU: all else runs, and the rest says why not."""

from __future__ import annotations

from bench.suites.accelerator import QUICK, Config, run


def test_without_a_gpu_every_part_is_measured_on_this_processor_or_says_why_not() -> None:
    results, measured = run(Config(**QUICK))
    assert measured == {}
    figures = {
        (figure.name, figure.unit): figure for result in results for figure in result.figures
    }
    for key, figure in figures.items():
        told = figure.skipped or ""
        assert (figure.value is None) == told.startswith("not measured: "), (key, told)
    assert figures["padded, on this processor", "distance"].value < 1e-6
    assert figures["pairs differ, by numpy", "runs"].value == 0
    assert all(figures[f"{count} queries, this processor", "ms"].value for count in (1, 64, 1024))
    if results[0].setup["gpu"] == "none":
        assert figures["1 queries, the GPU", "ms"].value is None
