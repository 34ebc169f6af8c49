"""States of sweeps in the registry, and what one would cost and find. Each change of a state is one
audited transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np

from engine.errors import RegistryError, SweepBusy, SweepOver
from engine.matching.registrar import Runner
from engine.registry.audit import AuditEntry
from engine.registry.database import new_id
from engine.registry.store import Reader
from engine.registry.sweeps import SweepChange
from engine.registry.writer import Writer
from engine.sweeps.clustering import PairTable
from engine.sweeps.estimate import ExpectedSweep, GallerySize, SweepOrder, expect
from engine.sweeps.folder import Covered, SweepFolder
from indexes.exact.device import open_scanner
from indexes.joining.join import measure_pace
from schema.decisions import Comparison
from schema.sweeps import SweepRecord, SweepScope, SweepState, SweepTerms
from serving.deployment.deployment import Deployment
from serving.deployment.models import find_conversion
from serving.settings.settings import Settings

ALIVE = frozenset({SweepState.QUEUED, SweepState.RUNNING, SweepState.PAUSED})
"""At most one sweep is in one of these."""
ITSELF = "sweep"
"""The actor of changes that a sweep makes itself."""


class SweepStates:
    """Changes the states of sweeps; `runner` makes the changes where no other is given."""

    def __init__(self, registry: Reader, runner: Runner) -> None:
        self._registry = registry
        self._runner = runner
        found = registry.sweeps.newest(1)
        self.newest = found[0] if found else None
        """As last written: the holder of the lease is the only writer."""

    def find_alive(self) -> SweepRecord | None:
        """The sweep that has not ended: always the newest."""
        newest = self._registry.sweeps.newest(1)
        return newest[0] if newest and newest[0].state in ALIVE else None

    def require_none_alive(self) -> None:
        """`SweepBusy`, naming the sweep that is alive."""
        alive = self.find_alive()
        if alive is not None:
            raise SweepBusy(
                f"sweep {alive.id} is {alive.state.value}, and one runs at a time: "
                "let it end, or cancel it"
            )

    def enter(
        self, terms: SweepTerms, detail: Mapping[str, Any], actor: str, runner: Runner | None = None
    ) -> SweepRecord:
        """Adds a running sweep; `SweepBusy` where another is alive."""

        def perform(writer: Writer, now: datetime) -> SweepRecord:
            # Inside the transaction, where nothing else is written.
            self.require_none_alive()
            record = SweepRecord(
                id=new_id(),
                state=SweepState.RUNNING,
                terms=terms,
                requested_by=actor,
                created_at=now,
                started_at=now,
            )
            entry = AuditEntry(actor, "sweep.started", record.id, detail)
            return self._commit(writer, record, entry)

        return (runner or self._runner).run(perform)

    def move(
        self,
        sweep_id: str,
        source: Collection[SweepState],
        target: SweepState,
        actor: str = ITSELF,
        *,
        runner: Runner | None = None,
        detail: Mapping[str, Any] | None = None,
        change: Callable[[SweepRecord], SweepRecord] = lambda record: record,
    ) -> SweepRecord:
        """Moves a sweep to `target`; `SweepOver` unless its state is in `source`, or `NotFound`."""

        def perform(writer: Writer, now: datetime) -> SweepRecord:
            record = self._registry.sweeps.get(sweep_id)
            if record.state not in source:
                raise SweepOver(
                    f"the sweep is {record.state.value}, and can't become {target.value}: "
                    f"that is for one that is {' or '.join(sorted(source))}"
                )
            ended_at = None if target in ALIVE else now
            fault = None if target is SweepState.RUNNING else record.fault
            moved = change(replace(record, state=target, ended_at=ended_at, fault=fault))
            entry = AuditEntry(actor, _ACTIONS[target], sweep_id, detail or {})
            return self._commit(writer, moved, entry)

        return (runner or self._runner).run(perform)

    def _commit(self, writer: Writer, record: SweepRecord, entry: AuditEntry) -> SweepRecord:
        writer.commit([entry, SweepChange(record)])
        self.newest = record
        return record


_ACTIONS = {
    SweepState.RUNNING: "sweep.resumed",
    SweepState.PAUSED: "sweep.paused",
    SweepState.DONE: "sweep.done",
    SweepState.CANCELLED: "sweep.cancelled",
    SweepState.FAILED: "sweep.failed",
}


REPRESENTATIVE_COMPARISONS = 1_000_000_000
"""The time of a sweep with so many comparisons predicts that of the next."""


def plan_sweep(deployment: Deployment, request: SweepOrder) -> ExpectedSweep:
    """The expectation; measures the machine's pace, for a second, unless a sweep has shown it."""
    chosen = deployment.settings.sweep
    curve, review = deployment.calibration.curve(Comparison.FUSED), deployment.thresholds.review
    if chosen.fmr > 0:
        # What the operator has set may be asked for.
        review = min(review, curve.threshold_at(chosen.fmr))
    if request.is_open and request.budget is None and chosen.fmr > 0:
        request = replace(request, fmr=chosen.fmr)
    gallery = deployment.restored.gallery
    last = deployment.store.sweeps.last_done()
    known = find_known(deployment, request.scope, last, is_whole=request.budget is None)
    ids, sequence = gallery.ids, gallery.sequence
    size = GallerySize(
        references=len(ids),
        new=len(ids) if known is None else int((~np.isin(ids, known.ids)).sum()),
        sequence=sequence,
        dim=gallery.dim,
        held_bytes=gallery.account().total,
    )
    expectation = expect(
        request,
        size,
        curve,
        pace=_find_pace(last, size, deployment.settings),
        budget=chosen.false_pairs,
        at_least=-1.0 if last is None or known is None else last.terms.threshold,
        review=review,
    )
    terms = replace(expectation.terms, model_digest=deployment.store.model_digest)
    return replace(expectation, terms=terms)


def is_converted(deployment: Deployment, sweep: SweepRecord) -> bool:
    """True where references were converted to another model since a sweep began, so that its scores
    and its threshold are of vectors that are there no more."""
    if sweep.terms.model_digest is None:
        # Of a version before transforms.
        return find_conversion(deployment.settings) is not None
    return sweep.terms.model_digest != deployment.store.model_digest


def find_known(
    deployment: Deployment, scope: SweepScope, last: SweepRecord | None, *, is_whole: bool
) -> Covered | None:
    """References and pairs that a sweep of this scope need not compare again; None for all.

    `RegistryError` where the last sweep's folder is gone, references were converted since, or
    the last sweep kept only the pairs of its budget and this one needs the `is_whole`.
    """
    if scope is SweepScope.ALL:
        return None
    if last is None:
        none = np.empty(0, np.int64)
        return Covered(none, PairTable(none, none, np.empty(0, np.float32)))
    if is_whole and last.terms.budget is not None:
        raise RegistryError(
            f"sweep {last.id} kept only what its budget had room for: give a budget again, or "
            "sweep all once"
        )
    if is_converted(deployment, last):
        raise RegistryError(
            f"references were converted to another model since sweep {last.id}: sweep all once"
        )
    covered = SweepFolder.of(deployment.sweep_folder, last.id).load_covered()
    if covered is None:
        raise RegistryError(
            f"what sweep {last.id} has covered is gone from its folder: sweep all once"
        )
    return covered


def _find_pace(last: SweepRecord | None, size: GallerySize, settings: Settings) -> float:
    """Comparisons a second."""
    if last is not None and last.summary is not None:
        pace = last.summary.get("comparisons_per_s")
        if pace and last.summary["comparisons"] >= REPRESENTATIVE_COMPARISONS:
            return float(pace)
    scanner = open_scanner(settings.gallery.device, settings.sweep.threads or None)
    with closing(scanner):
        return measure_pace(size.dim, scanner, size.references * (size.references - 1) // 2)
