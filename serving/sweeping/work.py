"""What the thread of a sweep does, and what becomes of the sweep when that goes wrong."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec

from engine.casework.opening import open_sweep_cases
from engine.errors import GalleryBehind, LeaseLost, NotInstalled, SosieError, StorageFailed
from engine.registry.records import utc_now
from engine.sweeps.model import SweepRecord, SweepState
from engine.sweeps.nearness import look_into
from engine.sweeps.sweeping import SweepTask, run_sweep
from indexes.errors import ShardLost
from indexes.exact.scanner import Scanner
from serving.compose import Deployment
from serving.errors import describe
from serving.sweeping.book import ITSELF, SweepBook
from serving.sweeping.planning import find_known
from serving.sweeping.run import SweepRun, SweepStopped

_log = logging.getLogger(__name__)

_RUNNING = frozenset({SweepState.RUNNING})
_NOT_OURS = (LeaseLost, GalleryBehind, ShardLost)
"""The registry is to be opened again, and whoever opens it goes on with the sweep."""
_CURABLE = (OSError, StorageFailed, MemoryError)
"""Somebody can make room and resume it."""


def perform_sweep(
    deployment: Deployment, book: SweepBook, run: SweepRun, record: SweepRecord
) -> None:
    """Raises nothing: how it ended is in the registry."""
    try:
        run.begin()
        _sweep(deployment, book, run, record)
    except SweepStopped:
        _log.info("sweep %s has stopped", record.id)
    except _NOT_OURS as error:
        _log.warning("sweep %s waits for the registry (%s)", record.id, type(error).__name__)
    except Exception as error:  # noqa: BLE001 - whatever it is, people must see it
        _tell_failure(book, run, record, error)
    _tidy(deployment, run, record)


def require_libraries() -> None:
    """A service runs without what a sweep's files are written with; a sweep is refused."""
    if any(find_spec(name) is None for name in ("pyarrow", "jinja2")):
        raise NotInstalled(
            "a sweep writes its files with pyarrow and Jinja2, which are not installed here: "
            "pip install 'sosie[desk]'"
        )


def _sweep(deployment: Deployment, book: SweepBook, run: SweepRun, record: SweepRecord) -> None:
    # Not above: see `require_libraries`.
    from engine.sweeps.outputs import Account, write_outputs  # noqa: PLC0415

    store, scope = deployment.store, record.terms.scope
    task = SweepTask(
        id=record.id,
        terms=record.terms,
        folder=run.folder,
        known=find_known(deployment.sweep_folder, scope, store.last_done_sweep()),
    )
    with closing(Scanner(threads=deployment.settings.sweep.threads or None)) as scanner:
        join = deployment.joiner(scanner)
        look = look_into(deployment.restored.gallery)
        swept = run_sweep(task, join, store, look=look, progress=run.tell, check=run.check)
    cases = open_sweep_cases(deployment.registrar, store, record.id, swept.groups, ITSELF)
    run.check()
    account = Account(
        comparisons=run.progress.comparisons_total,
        seconds=run.spent_s,
        pace=run.pace,
        at=utc_now(),
    )
    summary = write_outputs(swept, cases, account, store, deployment.calibration)
    done = book.move(
        record.id,
        _RUNNING,
        SweepState.DONE,
        detail={"pairs": len(swept.pairs), "groups": len(swept.groups)},
        change=lambda one: replace(
            one, sequence=swept.sequence, progress=run.progress, summary=summary
        ),
    )
    run.folder.drop_checkpoint()
    deployment.sweeps.forget_since(done)


def _tell_failure(book: SweepBook, run: SweepRun, record: SweepRecord, error: Exception) -> None:
    if isinstance(error, OSError):
        fault = f"its folder cannot be written ({error.strerror}): make room, then resume it"
    else:
        fault = describe(error).message
    target = SweepState.PAUSED if isinstance(error, _CURABLE) else SweepState.FAILED
    _log.error("sweep %s is %s (%s)", record.id, target.value, type(error).__name__)
    try:
        book.move(
            record.id,
            _RUNNING,
            target,
            detail={"error": type(error).__name__},
            change=lambda one: replace(one, fault=fault, progress=run.progress),
        )
    except SosieError as second:
        # Somebody has stopped it meanwhile, or the registry is gone: then it runs at the next open.
        _log.warning("sweep %s: that was not kept (%s)", record.id, type(second).__name__)


def _tidy(deployment: Deployment, run: SweepRun, record: SweepRecord) -> None:
    """Only a sweep that is done has something to read, and only one that is alive goes on."""
    try:
        state = deployment.store.sweep(record.id).state
        if state in {SweepState.CANCELLED, SweepState.FAILED}:
            run.folder.remove()
        elif state is SweepState.PAUSED:
            run.folder.drop_outputs()
    except SosieError as error:
        _log.warning("sweep %s: its folder stays (%s)", record.id, type(error).__name__)
