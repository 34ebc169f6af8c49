"""Suite `sweep`: rings hidden in a million references, found, grouped, and told from chains."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from bench.core.machine import cores, filesystem_of
from bench.core.reports import Figure, Measured, Result, Setup, Skipped
from bench.data.photographs import LFW
from bench.data.vectors import describe_population
from bench.suites.search import PROMISED_SIZE, size_reason
from bench.suites.sweep import synthetic
from bench.suites.sweep.deployment import Desked, sweep_deployment
from bench.suites.sweep.lfw import MOST_IDENTITIES, Photographed, sweep_photographs
from bench.suites.sweep.planted import DIM, LARGEST, SMALLEST, Agreement, Plan
from bench.suites.sweep.synthetic import LINKS_A_DOCUMENT, Flood, MeasuredSweep, time_flood
from engine.errors import RequestError

# The suite's figures as a report shows them.


def list_million(found: MeasuredSweep, setup: Setup, newcomers: int) -> tuple[Result, ...]:
    """What a sweep of everything costs, what it found, and the sweep of what is new."""
    return (
        _list_costs(found, setup),
        _list_findings(found, setup),
        _list_new(found, setup | {"newcomers": newcomers}),
    )


def list_flood(flood: Flood, seed: int) -> Result:
    """A threshold that strangers reach."""
    setup: Setup = {
        "links": flood.links,
        "links a document": LINKS_A_DOCUMENT,
        "scores": "random",
        "seed": seed,
        "threads": 1,
    }
    figures = (
        Figure("clustered", "s", flood.seconds),
        Figure("the largest component", "documents", float(flood.component)),
        Figure("the largest cluster", "documents", float(flood.cluster)),
    )
    return Result("A threshold far too low", setup, figures)


def list_deployment(found: Desked, setup: Setup) -> Result:
    """The same through registry, desk, cases, tables and report."""
    figures = (
        Figure("holders loaded before", "1/s", int(setup["references"]) / found.load_s),
        Figure("a sweep of everything, to its report", "s", found.all_s),
        Figure("a sweep of what is new, to its report", "s", found.new_s),
        *_list_agreement("groups", found.agreement),
        *_list_joined(found.joined, found.returning),
        _list_peak(found.peak_bytes),
    )
    return Result("In a deployment", setup, figures)


def list_photographs(found: Photographed) -> Iterable[Result]:
    """A result for each gallery."""
    for name, by_threshold in found.found.items():
        identities, people, several = found.sizes[name]
        setup: Setup = {
            "photographs": found.source,
            "without a face": found.failed,
            "references": identities,
            "people": people,
            "people with several": several,
            "identities at most": MOST_IDENTITIES,
        }
        figures = []
        for called, one in by_threshold.items():
            at = f"{called} ({one.threshold:.3f})"
            figures += [
                Figure(f"{at}: pairs, precision", "share", one.pair_precision),
                Figure(f"{at}: pairs, recall", "share", one.pair_recall),
                Figure(f"{at}: together in groups, precision", "share", one.precision),
                Figure(f"{at}: together in groups, recall", "share", one.recall),
                Figure(f"{at}: adjusted Rand index", "of 1", one.adjusted_rand),
                Figure(f"{at}: the same of connected components", "of 1", one.of_components),
                Figure(f"{at}: groups", "groups", float(one.groups)),
            ]
        yield Result(f"People under false documents, {name}", setup, tuple(figures))


def _list_costs(found: MeasuredSweep, setup: Setup) -> Result:
    """Times as good: as FAISS, which compares each pair from both sides."""
    swept = found.swept
    figures = (
        Figure("FAISS Flat's range search, projected", "s", found.flat_s, ratio=1.0),
        Figure("the sweep", "s", swept.seconds, ratio=found.flat_s / swept.seconds),
        Figure("the join in it", "s", swept.join_s),
        Figure("groups and their ranks in it", "s", swept.group_s),
        _list_peak(found.peak_bytes),
    )
    return Result("A sweep of everything", setup, figures)


def _list_findings(found: MeasuredSweep, setup: Setup) -> Result:
    """Ours, and beside it what pairs alone tell, and who is linked through however many others."""
    swept = found.swept
    figures = (
        Figure("pairs found", "pairs", float(swept.pairs)),
        Figure("planted, at or above the threshold", "pairs", float(swept.planted)),
        Figure("of these missed", "pairs", float(swept.missed)),
        Figure("of one ring, whatever their score", "pairs", float(found.ring_pairs)),
        Figure("of strangers of the population", "pairs", float(swept.false)),
        Figure("groups", "groups", float(swept.groups)),
        *_list_agreement("groups", swept.ours),
        *_list_agreement("groups of the pairs alone", swept.pairs_alone),
        *_list_agreement("connected components", swept.components),
    )
    return Result("What it found", setup, figures)


def _list_new(found: MeasuredSweep, setup: Setup) -> Result:
    renewed = found.renewed
    figures = (
        Figure("the sweep of what is new", "s", renewed.seconds),
        Figure("the join in it", "s", renewed.join_s),
        Figure("groups and their ranks in it", "s", renewed.group_s),
        Figure("planted, with a new reference", "pairs", float(renewed.planted)),
        Figure("of these missed", "pairs", float(renewed.missed)),
        *_list_joined(renewed.joined, renewed.returning),
        Figure("groups with something new", "groups", float(renewed.groups)),
    )
    return Result("A sweep of what is new", setup, figures)


def _list_agreement(name: str, one: Agreement) -> Iterable[Figure]:
    return (
        Figure(f"{name}: adjusted Rand index", "of 1", one.adjusted_rand),
        Figure(f"{name}: precision", "of pairs together", one.precision),
        Figure(f"{name}: recall", "of pairs together", one.recall),
        Figure(f"{name}: rings without a fault", "rings", float(one.exact_rings)),
        Figure(f"{name}: chains joined", "of the traps", float(one.sprung_traps)),
    )


def _list_joined(joined: int, returning: int) -> Iterable[Figure]:
    return (
        Figure("new identities of rings", "identities", float(returning)),
        Figure("of these in a group with others of their ring", "identities", float(joined)),
    )


def _list_peak(peak_bytes: int | None) -> Figure:
    name = "peak of memory, gallery and all"
    if peak_bytes is None:
        return Figure.skip(name, "GB", "no /proc here")
    return Figure(name, "GB", peak_bytes / 1e9)


QUICK = {
    "references": 20_000,
    "rings": 50,
    "traps": 10,
    "newcomers": 1_000,
    "flood": 50_000,
    "registered": 4_000,
    "people": 60,
}
PARTS = ("million", "flood", "deployment", "lfw")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepConfig:
    """`threshold`: a little above the highest score that two strangers of LFW have, 0.611.

    It is beyond what a calibration on LFW can give a rate for, as is any that serves a million.
    `flood` random links are clustered alone. A deployment has `registered` references, and rings,
    traps and newcomers in the same shares. `people`: only the first so many of the photographs.
    Checkpoints and homes lie in a folder made in `folder`.
    """

    references: int = 1_000_000
    rings: int = 1_000
    traps: int = 100
    newcomers: int = 10_000
    flood: int = 1_000_000
    registered: int = 100_000
    threshold: float = 0.62
    people: int | None = None
    faces: Path | None = None
    parts: tuple[str, ...] = PARTS
    folder: Path = Path("/var/tmp")  # noqa: S108 - a folder of its own is made in it
    seed: int = 0


def read_parts(given: str) -> tuple[str, ...]:
    """The parts named with commas, all where none is; raises `RequestError` for an unknown one."""
    names = tuple(name.strip() for name in given.split(",") if name.strip())
    for name in names:
        if name not in PARTS:
            raise RequestError(f"no part {name}: choose of {','.join(PARTS)}")
    return names or PARTS


def run(config: SweepConfig) -> tuple[tuple[Result, ...], dict[str, Measured]]:
    """All results of the suite, and the figures that its goals name."""
    if not config.folder.is_dir() or not os.access(config.folder, os.W_OK):
        raise RequestError("no folder to write to: give another as --folder")
    results: list[Result] = []
    measured: dict[str, Measured] = {}
    for part, measure in (
        ("million", _run_million),
        ("flood", _run_flood),
        ("deployment", _run_deployment),
        ("lfw", _run_lfw),
    ):
        listed, figures = measure(config, part in config.parts)
        results += listed
        measured |= figures
    return tuple(results), measured


Part = tuple[Iterable[Result], dict[str, Measured]]


def _run_million(config: SweepConfig, is_asked: bool) -> Part:
    names = (
        "planted_pairs_found",
        "adjusted_rand",
        "sprung_traps",
        "sweep_seconds",
        "sweep_peak_gb",
        "new_pairs_found",
        "new_seconds",
    )
    if not is_asked:
        return (), dict.fromkeys(names, Skipped("the part million was not asked for"))
    plan = _plan(config)
    found = synthetic.measure(plan, config.folder)
    setup = _describe(plan, config.folder) | {"kernel": found.kernel}
    results = list_million(found, setup, plan.newcomers)
    return results, dict(zip(names, _measure(found, config), strict=True))


def _measure(found: synthetic.MeasuredSweep, config: SweepConfig) -> tuple[Measured, ...]:
    """In the order of the names above."""
    swept, renewed = found.swept, found.renewed
    size = Skipped(size_reason(*PROMISED_SIZE))
    is_promised = config.references == PROMISED_SIZE[0]
    peak: Measured = Skipped("no /proc here to read the peak of memory from")
    if found.peak_bytes is not None:
        peak = found.peak_bytes / 1e9 if is_promised else size
    return (
        1 - swept.missed / max(swept.planted, 1),
        swept.ours.adjusted_rand,
        float(swept.ours.sprung_traps),
        swept.seconds if is_promised else size,
        peak,
        1 - renewed.missed / max(renewed.planted, 1),
        renewed.seconds if is_promised else size,
    )


def _run_flood(config: SweepConfig, is_asked: bool) -> Part:
    if not is_asked:
        return (), {"flood_seconds": Skipped("the part flood was not asked for")}
    flood = time_flood(config.flood, config.seed)
    promised = SweepConfig().flood
    seconds: Measured = flood.seconds
    if config.flood != promised:
        seconds = Skipped(f"promised for {promised:,} links")
    return (list_flood(flood, config.seed),), {"flood_seconds": seconds}


def _run_deployment(config: SweepConfig, is_asked: bool) -> Part:
    """Stated, without a goal of its own: at a million, the registry takes minutes to be filled."""
    if not is_asked:
        return (), {}
    share = config.registered / config.references
    plan = replace(
        _plan(config),
        references=config.registered,
        rings=max(1, round(config.rings * share)),
        traps=max(1, round(config.traps * share)),
        newcomers=max(20, round(config.newcomers * share)),
    )
    found = sweep_deployment(plan, config.folder)
    setup = _describe(plan, config.folder) | {"newcomers": plan.newcomers, "database": "SQLite"}
    return (list_deployment(found, setup),), {}


def _run_lfw(config: SweepConfig, is_asked: bool) -> Part:
    """Stated, without a goal: what these photographs bring says little of others."""
    if not is_asked:
        return (), {}
    if config.faces is None and not (LFW / "images").is_dir():
        absent = Figure.skip("precision and recall", "share", "LFW is not here: give --faces")
        return (Result("People under false documents", {}, (absent,)),), {}
    return list_photographs(sweep_photographs(config.faces, config.people)), {}


def _plan(config: SweepConfig) -> Plan:
    return Plan(
        references=config.references,
        rings=config.rings,
        traps=config.traps,
        newcomers=config.newcomers,
        threshold=config.threshold,
        seed=config.seed,
    )


def _describe(plan: Plan, folder: Path) -> Setup:
    return {
        "references": plan.references,
        "dim": DIM,
        "population": describe_population(DIM),
        "rings": plan.rings,
        "identities of a ring": f"{SMALLEST} to {LARGEST}",
        "traps": plan.traps,
        "threshold": round(plan.threshold, 4),
        "seed": plan.seed,
        "threads": cores(),
        "filesystem": filesystem_of(folder),
    }
