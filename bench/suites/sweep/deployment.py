"""The same gallery in a deployment with its registry, swept by the desk that `sosie sweep` asks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.core.reports import Figure, Result, Setup
from bench.data.vectors import Vectors
from bench.suites.baselines import clock
from bench.suites.serve.process import Worker
from bench.suites.sweep.agreement import Labels, agree, label_sets, list_joined
from bench.suites.sweep.planted import Plan, plant
from bench.suites.sweep.synthetic import list_peak, read_peak_bytes
from bench.suites.workload import load_holders, open_outlet
from engine.sweeps.estimate import SweepRequest
from engine.sweeps.folder import SweepFolder
from engine.sweeps.groupfile import GroupFile
from engine.sweeps.sweep_model import GroupKind, Scope, SweepRecord, SweepState
from serving.compose import Deployment, create_home
from serving.settings import Settings
from serving.sweeps.manager import SweepManager


@dataclass(frozen=True, slots=True, eq=False)
class Sweeping:
    """A done sweep: its seconds, its groups of faces by rows of the gallery, its process's peak."""

    seconds: float
    labels: Labels
    peak_bytes: int | None


def sweep_deployment(plan: Plan, folder: Path, setup: Setup) -> Result:
    """Enrolls all, sweeps all, enrolls the newcomers, sweeps what is new; a home in `folder`.

    Seconds are from start to done, reports and tables included; the peak of memory is that of a
    process that opens the deployment and sweeps, the greater of both.
    """
    planted = plant(plan)
    first, total = planted.first_new, len(planted.people)
    with TemporaryDirectory(prefix="sosie-bench-", dir=folder) as place:
        home = Path(place) / "home"
        create_home(home, Settings())
        load_s = clock(lambda: _load(home, planted.vectors[:first], 0))[1]
        everything = _sweep(home, plan.threshold, Scope.ALL, total)
        _load(home, planted.vectors[first:], first)
        new = _sweep(home, plan.threshold, Scope.NEW, total)
    peaks = [one.peak_bytes for one in (everything, new) if one.peak_bytes is not None]
    figures = (
        Figure("holders loaded before", "1/s", plan.references / load_s),
        Figure("a sweep of everything, to its report", "s", everything.seconds),
        Figure("a sweep of what is new, to its report", "s", new.seconds),
        *agree(planted, everything.labels[:first]).list_figures("groups"),
        *list_joined(planted, new.labels),
        list_peak(max(peaks, default=None)),
    )
    more: Setup = {"newcomers": plan.newcomers, "database": "SQLite"}
    return Result("In a deployment", setup | more, figures)


def _load(home: Path, vectors: Vectors, first_serial: int) -> None:
    with Deployment(home, Settings(), home / "cache") as deployment:
        if first_serial == 0:
            open_outlet(deployment.store)
        with deployment.store.writer() as writer:
            load_holders(writer, vectors, first_serial=first_serial)


def _sweep(home: Path, threshold: float, scope: Scope, total: int) -> Sweeping:
    """In a new process, as the command is one; `total` rows have a label."""
    with Worker() as pool:
        return pool.submit(_sweep_here, home, threshold, scope, total).result()


def _sweep_here(home: Path, threshold: float, scope: Scope, total: int) -> Sweeping:
    request = SweepRequest(threshold=threshold, scope=scope, is_unsupported_allowed=True)
    with Deployment(home, Settings(), home / "cache") as deployment:
        desk = SweepManager(deployment)
        started = desk.start(request, "bench")
        desk.wait()
        record = desk.status(started.id)
        assert record.state is SweepState.DONE, record.fault
        file = GroupFile.open(SweepFolder.of(deployment.sweep_folder, record.id).groups)
        groups = file.page(len(file), kind=GroupKind.ONE_FACE)
        references, _ = deployment.store.facts.document_owner_array()
        desk.close()
    # References were given ascending ids in the order of the rows.
    rows = (
        np.searchsorted(references, [one.reference_ids[0] for one in group.identities]).tolist()
        for group in groups
    )
    return Sweeping(_seconds(record), label_sets(total, rows), read_peak_bytes())


def _seconds(record: SweepRecord) -> float:
    assert isinstance(record.started_at, datetime)
    assert isinstance(record.ended_at, datetime)
    return (record.ended_at - record.started_at).total_seconds()
