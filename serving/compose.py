"""Builds the working parts from settings: once for the command line and for every server."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

from engine.errors import KeyRingMissing, RegistryError, SosieError
from engine.matching.documents import Document, FormAuthority
from engine.matching.holders import ErasureCertificate, erase_holder, find_erasable
from engine.matching.judge import Judge
from engine.matching.observation import Observer
from engine.matching.registrar import Registrar, RegistrarConfig
from engine.matching.restoration import Restored
from engine.matching.runner import Runner
from engine.matching.thresholds import Calibration, Thresholds
from engine.matching.watchlist import WatchList
from engine.registry.keyring import KeyRing
from engine.registry.records import utc_now
from engine.registry.store import Store
from engine.registry.vault import Vault
from engine.registry.writer import Writer
from engine.sweeps.keeping import SweepKeeper
from indexes.errors import ShardLost
from indexes.upkeep import Upkeep
from serving.homes import registry_url
from serving.models import (
    build_extractor,
    build_thresholds,
    embedder_card,
    load_calibration,
    model_digest,
)
from serving.retention.terms import read_crop_policy
from serving.settings import KEY_RING_FILE, Settings
from serving.snapshots import OpenIndex, ShardKeeper, SnapshotKeeper, gallery_config

if TYPE_CHECKING:
    from engine.faces.extractor import Extractor
    from engine.sweeps.sweeping import Join
    from indexes.exact.scanner import Scanner

SNAPSHOT_FOLDER = "gallery"
SNAPSHOT_AFTER = 1_000
"""A closing deployment that replayed or added more references than this saves a snapshot."""


def warn_on_stderr(message: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"sosie: warning: {message}\n")


class Deployment:
    """An opened home; each part is built when it is first asked for. Close it after use.

    `warn` is told, in one line, what went wrong beside a command that did what it was asked.
    With `open_index` the gallery lies on shards, is built from the store, and has no snapshot.
    `observer` is for whoever counts, `gather_s` for whoever serves many at once (see
    `RegistrarConfig`): to be set before the registrar is asked for.
    """

    observer: Observer | None = None
    gather_s: float = 0.0

    def __init__(
        self,
        home: Path,
        settings: Settings,
        cache: Path,
        warn: Callable[[str], None] = warn_on_stderr,
        open_index: OpenIndex | None = None,
    ) -> None:
        self.home = home
        self.settings = settings
        self._cache = cache
        self._open_index = open_index
        self._upkeep: Upkeep | None = None
        self._erasing = Lock()
        path = home / KEY_RING_FILE
        if not path.exists():
            raise KeyRingMissing(f"no key ring at {path}: put back the one of this deployment")
        self.vault = Vault(KeyRing.load(path), embedder_card(settings).dimension)
        self.store = Store.open(
            registry_url(home, settings), self.vault, model_digest=model_digest(settings)
        )
        self._warn = warn

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def extractor(self) -> Extractor:
        return build_extractor(self.settings, self._cache)

    @cached_property
    def calibration(self) -> Calibration:
        return load_calibration(self.settings)

    @cached_property
    def thresholds(self) -> Thresholds:
        return build_thresholds(self.settings, self.calibration)

    @cached_property
    def _snapshots(self) -> SnapshotKeeper:
        config = gallery_config(self.settings, near=self.thresholds.review)
        parts = (self.store, self.snapshot_folder, config, self._warn)
        return ShardKeeper(*parts, self._open_index) if self._open_index else SnapshotKeeper(*parts)

    @cached_property
    def restored(self) -> Restored:
        """The gallery, brought to the state of the store when it is first asked for."""
        return self._snapshots.restore()

    @cached_property
    def watchlist(self) -> WatchList:
        return WatchList(self.vault.dim, self.store.watchlist())

    @cached_property
    def judge(self) -> Judge:
        return Judge(
            store=self.store,
            vault=self.vault,
            gallery=self.restored.gallery,
            watch=self.watchlist,
            thresholds=self.thresholds,
            authority=FormAuthority(),
            model_digest=self.store.model_digest,
            false_candidates=self.expect_false_candidates,
            crops=read_crop_policy(self.settings.crops),
        )

    @cached_property
    def writer(self) -> Writer:
        """Takes the writer's lease; `WriterBusy` where another process has it."""
        return self.store.writer()

    @cached_property
    def registrar(self) -> Registrar:
        """Takes the writer's lease, and owns it."""
        writer = self.writer
        try:
            self._drop_outdated(writer.sequence)
            self._snapshots.sweep()
            if self.restored.fault is not None:
                # A later store might believe what this one refuses.
                self.remove_snapshot()
            sizes = self.settings.registrar
            config = RegistrarConfig(sizes.batch_size, sizes.queue_size, self.gather_s)
            registrar = Registrar(writer, self.judge, config, observer=self.observer)
        except BaseException:
            writer.close()
            del self.writer
            raise
        # Where nothing is written there is nothing to keep up with.
        self._upkeep = Upkeep(self.restored.gallery).start()
        return registrar

    def joiner(self, scanner: Scanner) -> Join:
        """How a sweep finds all pairs of the gallery, wherever that is."""
        return self._snapshots.joiner(self.restored.gallery, scanner)

    @property
    def sweep_folder(self) -> Path:
        return self.home / self.settings.sweep.folder

    @cached_property
    def sweeps(self) -> SweepKeeper:
        """The files of sweeps; whatever changes them is for the holder of the writer's lease."""
        days = self.settings.sweep.keep_days
        stay = timedelta(days=days) if days else None
        return SweepKeeper(self.sweep_folder, self.store, lambda: self.calibration, stay)

    def expect_false_candidates(self, gallery_size: int, score: float) -> dict[str, Any]:
        """How many strangers one search of `gallery_size` references brings at `score`."""
        return asdict(self.calibration.expected_false_candidates(gallery_size, score))

    @property
    def snapshot_folder(self) -> Path:
        return self.home / SNAPSHOT_FOLDER

    def save_snapshot(self) -> bool:
        """Keeps the gallery for the next start; to be called with the writer's lease in hand.

        False where that failed, which is a warning: the snapshot before it stays.
        """
        return self._snapshots.save(self.restored.gallery)

    def remove_snapshot(self) -> None:
        """Removes the snapshot, if there is one; the next start rebuilds the gallery."""
        self._snapshots.remove()

    def erase(
        self,
        target: Document | str,
        actor: str,
        carrier: str | None = None,
        runner: Runner | None = None,
    ) -> ErasureCertificate:
        """Erases the holder of a document; afterwards no snapshot on disk has the template, and
        what sweeps have found does not name the document.

        For a tenant and a document by its id see `find_erasable`; `runner` makes the change where
        it is not the registrar. `NotFound` where nobody holds it; `RegistryError`, with nothing
        erased, where the snapshot, or a file that names the document, cannot be removed.
        """
        runner = runner or self.registrar
        # One at a time: the snapshot that ends one must not have the face of the next.
        with self._erasing:
            return self._erase(runner, target, actor, carrier)

    def _erase(
        self, runner: Runner, target: Document | str, actor: str, carrier: str | None
    ) -> ErasureCertificate:
        holder = find_erasable(self.store, target, utc_now().date(), carrier)
        self.sweeps.forget(holder.id, holder.reference_ids)
        # The snapshot goes first, but for the files that cannot have the face: a crash in between
        # costs a rebuild, and keeps no erased face.
        had_snapshot = self.snapshot_folder.exists()
        trusted = self._snapshots.withdraw(self.restored.gallery, holder.reference_ids)

        def end(_writer: Writer, _now: datetime) -> None:
            if had_snapshot:
                self._snapshots.renew(self.restored.gallery, trusted)
            else:
                # A process that lost the lease may have saved its own.
                self._snapshots.remove()
                self.restored.gallery.compact()

        def bring_back() -> None:
            # A shard that is lost keeps nothing, and whoever searches next hears of it.
            with suppress(RegistryError, ShardLost):
                self.registrar.run(end)

        try:
            certificate = erase_holder(runner, self.store, target, actor, carrier)
        except SosieError:
            # Nothing was erased, and the next start wants a snapshot all the same.
            bring_back()
            raise
        bring_back()
        # A sweep may have ended meanwhile. It looks for the erased itself as well, so the erasure,
        # which is done, does not fail for it.
        with suppress(RegistryError):
            self.sweeps.forget(holder.id, holder.reference_ids)
        return certificate

    def close(self) -> None:
        """Keeps a snapshot where much has changed, gives back the lease, closes the store."""
        built = self.__dict__
        with ExitStack() as closing:
            closing.callback(self.store.close)
            if "_snapshots" in built:
                closing.callback(self._snapshots.close)
            if "extractor" in built:
                closing.callback(self.extractor.close)
            if "writer" in built:
                closing.callback(self.writer.close)
            if self._upkeep is not None:
                self._upkeep.close()
            if "registrar" in built:
                closing.callback(self.registrar.close)
                # Under the lease, or an erasure in between would find no snapshot to remove. A
                # registrar that has failed keeps none, and its callers know why.
                with suppress(RegistryError, ShardLost):
                    self.registrar.run(lambda _writer, _now: self._save_grown())

    def _drop_outdated(self, sequence: int) -> None:
        """Forgets what was built before the lease was taken, and may miss another writer's last."""
        built = self.__dict__
        if "restored" in built and self.restored.gallery.sequence != sequence:
            del built["restored"]
        # A change of the watch-list moves no sequence.
        for part in ("watchlist", "judge"):
            built.pop(part, None)

    def _save_grown(self) -> None:
        gallery = self.restored.gallery
        grown = abs(len(gallery) - self.restored.loaded)
        if self._snapshots.may_hold_removed(gallery):
            self._snapshots.renew(gallery)
        elif grown + self.restored.replayed > SNAPSHOT_AFTER:
            self.save_snapshot()
