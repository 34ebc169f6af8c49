"""The same gallery in a deployment with its registry, swept by the desk that `sosie sweep` asks."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.counter import load_holders, open_outlet
from bench.searchers import clock
from bench.sweeping.agreement import Labels, label_sets
from bench.sweeping.memory import read_peak_bytes
from bench.sweeping.planted import Plan, Planted, plant
from bench.sweeping.verdict import Agreement, agree, count_joined
from engine.sweeps.expectation import SweepRequest
from engine.sweeps.folder import SweepFolder
from engine.sweeps.groupfile import GroupFile
from engine.sweeps.model import GroupKind, Scope, SweepRecord, SweepState
from serving.compose import Deployment
from serving.homes import create_home
from serving.settings import Settings
from serving.sweeping.desk import SweepDesk


@dataclass(frozen=True, slots=True)
class Desked:
    """Seconds from start to done, reports and tables included, of everything and of what is new.

    `joined` of the `returning` identities are in a group with others of their ring. `peak_bytes`:
    the process's with registry, gallery and all; None where the system does not tell.
    """

    load_s: float
    all_s: float
    new_s: float
    agreement: Agreement
    returning: int
    joined: int
    peak_bytes: int | None


def sweep_deployment(plan: Plan, folder: Path) -> Desked:
    """In a new process, so that its peak of memory is that of nothing else."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(sweep_here, plan, folder).result()


def sweep_here(plan: Plan, folder: Path) -> Desked:
    """Enrolls all, sweeps all, enrolls the newcomers, sweeps what is new; a home in `folder`."""
    planted = plant(plan)
    with TemporaryDirectory(prefix="sosie-bench-", dir=folder) as place:
        home = Path(place) / "home"
        create_home(home, Settings())
        load_s = clock(lambda: _load(home, planted, 0, planted.first_new))[1]
        everything, labels = _sweep(home, plan.threshold, Scope.ALL, len(planted.people))
        agreement = agree(planted, labels[: planted.first_new])
        _load(home, planted, planted.first_new, len(planted.people))
        new, labels = _sweep(home, plan.threshold, Scope.NEW, len(planted.people))
    joined, returning = count_joined(planted, labels)
    return Desked(
        load_s=load_s,
        all_s=_seconds(everything),
        new_s=_seconds(new),
        agreement=agreement,
        returning=returning,
        joined=joined,
        peak_bytes=read_peak_bytes(),
    )


def _load(home: Path, planted: Planted, start: int, end: int) -> None:
    with Deployment(home, Settings(), home / "cache") as deployment:
        if start == 0:
            open_outlet(deployment.store)
        with deployment.store.writer() as writer:
            load_holders(writer, planted.vectors[start:end], first_serial=start)


def _sweep(home: Path, threshold: float, scope: Scope, total: int) -> tuple[SweepRecord, Labels]:
    """The sweep as the registry has it, and its groups of faces by rows of the gallery."""
    request = SweepRequest(threshold=threshold, scope=scope, is_unsupported_allowed=True)
    with Deployment(home, Settings(), home / "cache") as deployment:
        desk = SweepDesk(deployment)
        started = desk.start(request, "bench")
        desk.wait()
        record = desk.status(started.id)
        assert record.state is SweepState.DONE, record.fault
        folder = SweepFolder.of(deployment.sweep_folder, record.id)
        references, _ = deployment.store.document_owner_array()
        file = GroupFile.open(folder.groups)
        groups = file.page(len(file), kind=GroupKind.ONE_FACE)
        desk.close()
    # References were given ascending ids in the order of the rows.
    rows = (
        np.searchsorted(references, [one.reference_ids[0] for one in group.identities]).tolist()
        for group in groups
    )
    return record, label_sets(total, rows)


def _seconds(record: SweepRecord) -> float:
    assert isinstance(record.started_at, datetime)
    assert isinstance(record.ended_at, datetime)
    return (record.ended_at - record.started_at).total_seconds()
