"""The same gallery in a deployment with its registry, swept as `sosie sweep` does it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.core.reports import Figure, Result, Setup
from bench.core.timing import clock
from bench.data.vectors import Vectors
from bench.suites.serve.process import Worker
from bench.suites.sweep.agreement import Labels, agree, label_sets, list_joined
from bench.suites.sweep.planted import Plan, plant
from bench.suites.sweep.synthetic import list_peak, read_peak_bytes
from bench.suites.workload import load_holders, make_home
from engine.sweeps.estimate import SweepRequest
from engine.sweeps.folder import SweepFolder
from engine.sweeps.groupfile import GroupFile
from engine.sweeps.sweep_model import GroupKind, Scope, SweepState
from serving.compose import Deployment
from serving.settings import Settings
from serving.sweeps.manager import SweepManager

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
    all_s, everything, all_peak = _sweep(home, plan.threshold, Scope.ALL, total)
    _load(home, planted.vectors[first:], first)
    new_s, new, new_peak = _sweep(home, plan.threshold, Scope.NEW, total)
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


def _sweep(home: Path, threshold: float, scope: Scope, total: int) -> Sweeping:
    """In a new process, as the command is one; `total` rows have a label."""
    with Worker() as pool:
        return pool.submit(_sweep_here, home, threshold, scope, total).result()


def _sweep_here(home: Path, threshold: float, scope: Scope, total: int) -> Sweeping:
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
