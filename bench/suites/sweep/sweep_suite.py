"""Suite `sweep`: rings hidden in a million references, found, grouped, and told from chains.

And photographs of known people as a gallery: each photograph of a person under a false document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.core.machine import DISK, cores, filesystem_of, open_folder
from bench.core.reports import Figure, Measured, Result, Setup, Skipped, SuiteOutput, choose_names
from bench.core.timing import clock
from bench.data.photographs import LFW, find_faces
from bench.data.vectors import Rows, Vectors, default_thresholds, describe_population
from bench.suites.baselines import PROMISED_SIZE, build_gallery, size_reason
from bench.suites.serve.process import Worker
from bench.suites.sweep import synthetic
from bench.suites.sweep.agreement import (
    Labels,
    adjusted_rand,
    agree,
    count_pairs,
    label_groups,
    label_linked,
    label_sets,
    list_joined,
    share_pairs,
)
from bench.suites.sweep.hard_rings import HardPlan, measure_budgets
from bench.suites.sweep.planted import DIM, LARGEST, SMALLEST, Plan, plant
from bench.suites.sweep.synthetic import list_peak, make_facts, read_peak_bytes
from bench.suites.workload import load_holders, make_home
from engine.accuracy.dataset import LabelledFolder, embed_folder
from engine.accuracy.pair_scores import fuse
from engine.faces.extractor import open_extractor
from engine.sweeps.clustering import PairTable
from engine.sweeps.estimate import SweepRequest
from engine.sweeps.folder import GroupFile, SweepFolder
from engine.sweeps.groups import group_faces
from indexes.exact.scanner import Scanner
from indexes.joining.join import join_gallery
from schema.sweeps import Group, GroupKind, SweepScope, SweepState
from serving.deployment.deployment import Deployment
from serving.settings.settings import Settings
from serving.sweeps.manager import SweepManager

MOST_IDENTITIES = 20
"""Of one person: a few have hundreds of photographs, and would be most of all pairs."""


def sweep_photographs(faces: Path | None, people: int | None) -> Iterator[Result]:
    """Extracts all photographs (of the first `people`), and sweeps them at three thresholds.

    A result for each gallery: of the pairs, and of the pairs of identities that share a group.
    """
    root = find_faces(faces)
    folder = LabelledFolder.open(root)
    if people is not None:
        folder = _first(folder, people)
    with open_extractor() as one:
        embeddings = embed_folder(folder, one)
    vectors, labels = embeddings.acquired()
    limits = default_thresholds()
    thresholds = {
        "same document": limits.same_document,
        "review": limits.review,
        "certain": limits.certain,
    }
    for name, each in (("one photograph each", 1), ("fused of two photographs", 2)):
        references, owners = _split(vectors, labels, each)
        counts = np.unique(owners, return_counts=True)[1]
        setup: Setup = {
            "photographs": f"{root.parent.name}/{root.name}",
            "without a face": len(embeddings.failed),
            "references": len(owners),
            "people": len(counts),
            "people with several": int((counts > 1).sum()),
            "identities at most": MOST_IDENTITIES,
        }
        figures = tuple(_sweep_people(references, owners, thresholds))
        yield Result(f"People under false documents, {name}", setup, figures)


def _first(folder: LabelledFolder, people: int) -> LabelledFolder:
    kept = folder.people < people
    paths = tuple(path for path, is_kept in zip(folder.paths, kept, strict=True) if is_kept)
    return LabelledFolder(folder.root, folder.names[:people], paths, folder.people[kept])


def _split(vectors: Vectors, people: Rows, each: int) -> tuple[Vectors, Rows]:
    """References fused of `each` photographs, none used twice, and whose they are.

    People with too few photographs are left out; those with enough for one reference have one
    honest identity.
    """
    references, owners = [], []
    for person in np.unique(people).tolist():
        own = np.flatnonzero(people == person)
        for number in range(min(len(own) // each, MOST_IDENTITIES)):
            chosen = vectors[own[number * each : (number + 1) * each]]
            references.append(chosen[0] if each == 1 else fuse(chosen[:1], chosen[1:])[0])
            owners.append(person)
    return np.array(references, np.float32), np.array(owners)


def _sweep_people(
    references: Vectors, people: Rows, thresholds: Mapping[str, float]
) -> Iterator[Figure]:
    scanner = Scanner()
    indexed, _ = build_gallery(references, scanner)
    facts = make_facts(len(people))
    for name, threshold in thresholds.items():
        joined = join_gallery(indexed, threshold).pairs
        pairs = PairTable(joined.left, joined.right, joined.scores)
        groups = group_faces(pairs, threshold, facts, read_vectors=indexed.held)
        yield from _compare(f"{name} ({threshold:.3f})", people, pairs, groups)
    scanner.close()


def _compare(at: str, people: Rows, pairs: PairTable, groups: Sequence[Group]) -> Iterator[Figure]:
    labels = label_groups(len(people), groups)
    precision, recall = share_pairs(people, labels)
    right = int((people[pairs.left] == people[pairs.right]).sum())
    mated = count_pairs(np.unique(people, return_counts=True)[1])
    components = adjusted_rand(people, label_linked(len(people), pairs))
    yield Figure(f"{at}: pairs, precision", "share", right / len(pairs) if len(pairs) else 1.0)
    yield Figure(f"{at}: pairs, recall", "share", right / mated if mated else 1.0)
    yield Figure(f"{at}: together in groups, precision", "share", precision)
    yield Figure(f"{at}: together in groups, recall", "share", recall)
    yield Figure(f"{at}: adjusted Rand index", "of 1", adjusted_rand(people, labels))
    yield Figure(f"{at}: the same of connected components", "of 1", components)
    yield Figure(f"{at}: groups", "groups", float(len(groups)))


QUICK = {
    "references": 20_000,
    "rings": 50,
    "traps": 10,
    "newcomers": 1_000,
    "flood": 50_000,
    "registered": 4_000,
    "hard_rings": 40,
    "siblings": 100,
    "people": 60,
}
PARTS: dict[str, tuple[str, ...]] = {
    "million": (
        "planted_pairs_found",
        "adjusted_rand",
        "sprung_traps",
        "sweep_seconds",
        "sweep_peak_gb",
        "new_pairs_found",
        "new_seconds",
    ),
    "budgets": ("budget_gain", "ranking_share"),
    "flood": ("flood_seconds",),
    # Stated, without goals: at a million, the registry takes minutes to be filled, and what
    # photographs bring says little of others.
    "deployment": (),
    "lfw": (),
}
"""The parts, and the figures of each that goals name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepConfig:
    """`threshold`: above the highest score that two strangers of LFW have, 0.54, and high enough
    for a trap, whose strangers score up to 0.5.

    It is beyond what a calibration on LFW can give a rate for, as is any that serves a million.
    `flood` random links are clustered alone. A deployment has `registered` references, and rings,
    traps and newcomers in the same shares. `people`: only the first so many of the photographs.
    `hard_rings` and pairs of `siblings` are hidden in a gallery of their own (`hard_rings`).
    Checkpoints and homes lie in a folder made in `folder`.
    """

    references: int = 1_000_000
    rings: int = 1_000
    traps: int = 100
    newcomers: int = 10_000
    flood: int = 1_000_000
    registered: int = 100_000
    hard_rings: int = 1_000
    siblings: int = 10_000
    threshold: float = 0.62
    people: int | None = None
    faces: Path | None = None
    parts: tuple[str, ...] = tuple(PARTS)
    folder: Path = DISK
    seed: int = 0


def read_parts(given: str) -> tuple[str, ...]:
    """The parts named with commas, all where none is; raises `RequestError` for an unknown one."""
    return choose_names(given, PARTS, "no part {name}: choose of {known}") or tuple(PARTS)


def run(config: SweepConfig) -> SuiteOutput:
    with open_folder(config.folder) as folder:
        return _run_parts(replace(config, folder=folder))


def _run_parts(config: SweepConfig) -> SuiteOutput:
    results: list[Result] = []
    measured: dict[str, Measured] = {}
    for part, measure in (
        ("million", _run_million),
        ("budgets", _run_budgets),
        ("flood", _run_flood),
        ("deployment", _run_deployment),
        ("lfw", _run_lfw),
    ):
        measured |= dict.fromkeys(PARTS[part], Skipped(f"the part {part} was not asked for"))
        if part in config.parts:
            listed, figures = measure(config)
            results += listed
            measured |= figures
    return tuple(results), measured


def _run_million(config: SweepConfig) -> SuiteOutput:
    plan = _plan(config)
    results, found = synthetic.measure(plan, config.folder, _describe(plan, config.folder))
    absent = Skipped("no /proc here to read the peak of memory from")
    measured: dict[str, Measured] = {name: found.get(name, absent) for name in PARTS["million"]}
    if config.references != PROMISED_SIZE[0]:
        size = Skipped(size_reason(*PROMISED_SIZE))
        measured |= dict.fromkeys(("sweep_seconds", "sweep_peak_gb", "new_seconds"), size)
    return results, measured


def _run_budgets(config: SweepConfig) -> SuiteOutput:
    plan = HardPlan(
        references=config.references,
        rings=config.hard_rings,
        siblings=config.siblings,
        seed=config.seed,
    )
    setup: Setup = {
        "references": plan.references,
        "dim": DIM,
        "population": "synthetic, with SFace's statistics, look-alikes too",
        "seed": plan.seed,
        "threads": cores(),
        "filesystem": filesystem_of(config.folder),
    }
    results, found = measure_budgets(plan, config.folder, setup)
    measured: dict[str, Measured] = dict(found)
    if config.references != PROMISED_SIZE[0]:
        measured = dict.fromkeys(measured, Skipped(size_reason(*PROMISED_SIZE)))
    return results, measured


def _run_flood(config: SweepConfig) -> SuiteOutput:
    seconds = synthetic.time_flood(config.flood, config.seed)
    promised = SweepConfig().flood
    is_promised = config.flood == promised
    measured = seconds if is_promised else Skipped(f"promised for {promised:,} links")
    return (), {"flood_seconds": measured}


def _run_deployment(config: SweepConfig) -> SuiteOutput:
    share = config.registered / config.references
    plan = replace(
        _plan(config),
        references=config.registered,
        rings=max(1, round(config.rings * share)),
        traps=max(1, round(config.traps * share)),
        newcomers=max(20, round(config.newcomers * share)),
    )
    return (sweep_deployment(plan, config.folder, _describe(plan, config.folder)),), {}


def _run_lfw(config: SweepConfig) -> SuiteOutput:
    if config.faces is None and not (LFW / "images").is_dir():
        absent = Figure.skip("precision and recall", "share", "LFW is not here: give --faces")
        return (Result("People under false documents", {}, (absent,)),), {}
    return tuple(sweep_photographs(config.faces, config.people)), {}


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


Sweeping = tuple[float, Labels, int | None]
"""A done sweep: its seconds, its groups of faces by rows of the gallery, its process's peak."""


def sweep_deployment(plan: Plan, folder: Path, setup: Setup) -> Result:
    """Enrolls all, sweeps all, enrolls the newcomers, sweeps what is new; a home in `folder`.

    Seconds are from start to done, reports and tables included; the peak of memory is that of a
    process that opens the deployment and sweeps, the greater of both.
    """
    planted = plant(plan)
    first, total = planted.first_new, len(planted.people)
    home = folder / "home"
    make_home(home)
    load_s = clock(lambda: _load(home, planted.vectors[:first], 0))[1]
    all_s, everything, all_peak = _sweep(home, plan.threshold, SweepScope.ALL, total)
    _load(home, planted.vectors[first:], first)
    new_s, new, new_peak = _sweep(home, plan.threshold, SweepScope.NEW, total)
    peaks = [one for one in (all_peak, new_peak) if one is not None]
    figures = (
        Figure("holders loaded before", "1/s", plan.references / load_s),
        Figure("a sweep of everything, to its report", "s", all_s),
        Figure("a sweep of what is new, to its report", "s", new_s),
        *agree(planted, everything[:first]).list_figures("groups"),
        *list_joined(planted, new),
        list_peak(max(peaks, default=None)),
    )
    more: Setup = {"newcomers": plan.newcomers, "database": "SQLite"}
    return Result("In a deployment", setup | more, figures)


def _load(home: Path, vectors: Vectors, first_serial: int) -> None:
    with Deployment(home, Settings()) as deployment, deployment.store.writer() as writer:
        load_holders(writer, vectors, first_serial=first_serial)


def _sweep(home: Path, threshold: float, scope: SweepScope, total: int) -> Sweeping:
    """In a new process, as the command is one; `total` rows have a label."""
    with Worker() as pool:
        return pool.submit(_sweep_here, home, threshold, scope, total).result()


def _sweep_here(home: Path, threshold: float, scope: SweepScope, total: int) -> Sweeping:
    request = SweepRequest(threshold=threshold, scope=scope, is_unsupported_allowed=True)
    with Deployment(home, Settings()) as deployment:
        manager = SweepManager(deployment)
        started = manager.start(request, "bench")
        manager.wait()
        record = manager.status(started.id)
        assert record.state is SweepState.DONE, record.fault
        file = GroupFile.open(SweepFolder.of(deployment.sweep_folder, record.id).groups)
        groups = file.page(len(file), kind=GroupKind.ONE_FACE)
        references, _ = deployment.store.facts.document_owner_array()
        manager.close()
    # References were given ascending ids in the order of the rows.
    rows = (
        np.searchsorted(references, [one.reference_ids[0] for one in group.identities]).tolist()
        for group in groups
    )
    assert record.started_at
    assert record.ended_at
    taken = record.ended_at - record.started_at
    return taken.total_seconds(), label_sets(total, rows), read_peak_bytes()
