"""Kinds of index: `index advise` measures them and names the one to take."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from serving.cli.inputs import HomeOption
from serving.cli.output import (
    FIGURES,
    JsonFlag,
    escape,
    exit_negative,
    print_json,
    print_line,
    print_table,
    show_progress,
)

if TYPE_CHECKING:
    from pathlib import Path

    from engine.accuracy.index_advice import Advice, Figures, Limits

LEAST_REFERENCES = 10_000
"""With fewer, every kind compares all references: the default does that best."""

MOST_REFERENCES = 100_000_000_000
FAR = 100
"""A projection to so many times what was measured, or more, is called a guess."""

COLUMNS = (
    "kind",
    "bytes a reference",
    "memory",
    "one query",
    "in a batch",
    "building",
    "near mates missed (95 %)",
)


def register(app: typer.Typer) -> None:
    index = typer.Typer(help="Kinds of index, and which to take.", no_args_is_help=True)
    # Without it, typer would make an app of one command that command itself.
    index.callback()(_keep_group)
    index.command("advise")(advise_kind)
    app.add_typer(index, name="index", rich_help_panel=FIGURES)


def _keep_group() -> None:
    """Kinds of index, and which to take."""


def _require_number(value: float | None) -> float | None:
    # "nan" is a float, and neither below nor above any bound.
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def advise_kind(
    references: Annotated[
        int,
        typer.Option(
            "--n",
            min=LEAST_REFERENCES,
            max=MOST_REFERENCES,
            help="References that the gallery will hold.",
        ),
    ],
    memory_gib: Annotated[
        float | None,
        typer.Option(
            "--memory-gib",
            min=0,
            callback=_require_number,
            help="Memory for it.",
            show_default="this machine's memory",
        ),
    ] = None,
    latency_ms: Annotated[
        float | None,
        typer.Option(
            "--latency-ms",
            min=0,
            callback=_require_number,
            help="Longest time of one query.",
            show_default="any",
        ),
    ] = None,
    miss_rate: Annotated[
        float | None,
        typer.Option(
            "--miss-rate",
            min=0,
            max=1,
            callback=_require_number,
            help="Largest share of near mates that an approximate kind may miss.",
            show_default="any",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=0.9,
            callback=_require_number,
            help="Score from which on a mate must be found.",
            show_default="the deployment's review threshold",
        ),
    ] = None,
    measured_at: Annotated[
        int | None,
        typer.Option(
            "--at",
            min=LEAST_REFERENCES,
            help="References to measure with.",
            show_default="as many as take a minute",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the synthetic people.")] = 0,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure every kind of index on synthetic people, and name the one to take.

    The exact one, unless it does not fit the memory or takes too long. Exit code 1 where no kind
    is within the limits. Needs no deployment.
    """
    from engine.accuracy.index_advice import Limits, advise, measurable
    from engine.accuracy.population import Population

    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = Limits(
        memory_bytes=machine_bytes if memory_gib is None else memory_gib * 2**30,
        latency_ms=latency_ms,
        miss_rate=miss_rate,
    )
    population = Population.load()
    at = measured_at or measurable(references, population.dim, machine_bytes // 2)
    if threshold is None:
        threshold = _review_threshold(home)
    with (
        _unwarned(),
        show_progress("measuring", is_shown=not as_json) as report,
    ):
        advice = advise(
            population,
            references,
            limits,
            threshold=threshold,
            measured_at=min(at, references),
            seed=seed,
            progress=report,
        )
    if as_json:
        print_json(advice.to_dict())
    else:
        _print_advice(advice, limits)
    if advice.pick is None:
        raise exit_negative()


def _review_threshold(home: Path | None) -> float:
    from serving.compose import build_thresholds, load_calibration
    from serving.settings import find_home, load_settings

    settings = load_settings(find_home(home))
    return build_thresholds(settings, load_calibration(settings)).review


@contextmanager
def _unwarned() -> Iterator[None]:
    """Without the warning of each approximate kind: its misses stand in the table."""
    log = logging.getLogger("indexes.approximate.index")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _print_advice(advice: Advice, limits: Limits) -> None:
    from indexes.approximate.misses import BAND

    at = advice.figures[0].measured_at
    print_table(f"{advice.references:,} references", COLUMNS, [_cells(x) for x in advice.figures])
    print_line(
        f"Near mates: {advice.figures[0].mates:,} probes of one photograph that score "
        f"{advice.threshold:.3f} to {advice.threshold + BAND:.3f} with their reference, of "
        "synthetic people."
    )
    if at != advice.references:
        print_line(
            f"Measured with {at:,}; [bold]~ is projected[/]: scans (exact8, flat, fastscan) grow "
            "in proportion, ivf as the root, hnsw as the logarithm. What an approximate kind "
            f"misses at {advice.references:,} is not known: the share is that of {at:,}."
        )
    if advice.references > FAR * at:
        print_line("[yellow]So far a projection is a guess[/]: measure with more, by --at.")
    print_line("Memory is that of references at rest: building takes as much again for a while.")
    if limits.memory_bytes is not None:
        print_line(f"Limits: {limits.memory_bytes / 2**30:.3g} GiB{_other_limits(limits)}.")
    picked = f"[green]Take {escape(advice.pick)}[/]" if advice.pick else "[red]Take none[/]"
    print_line(f"{picked}: {escape(advice.reason)}.")


def _other_limits(limits: Limits) -> str:
    latency = "" if limits.latency_ms is None else f", {limits.latency_ms:g} ms a query"
    misses = "" if limits.miss_rate is None else f", {limits.miss_rate:.2%} of near mates missed"
    return latency + misses


def _cells(one: Figures) -> list[str]:
    about = "~" if one.is_projected else ""
    low, high = one.miss_interval
    missed = "none" if one.is_exact else f"{one.miss_rate:.2%} ({low:.2%} to {high:.2%})"
    return [
        one.name,
        f"{one.bytes_per_reference:.0f}",
        f"{about}{one.memory_bytes / 2**30:.3g} GiB",
        f"{about}{one.one_query_ms:.3g} ms",
        f"{about}{one.batch_query_ms:.3g} ms",
        f"{about}{one.build_s:.3g} s",
        missed if one.knows_misses else f"{missed} at {one.measured_at:,}",
    ]
