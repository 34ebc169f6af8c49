"""Builds the working parts from settings: once for the command line and for every server."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from datetime import datetime
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

from engine.errors import KeyRingMissing, RegistryError, RegistryExists, RequestError
from engine.matching.documents import Document, FormAuthority
from engine.matching.holders import ErasureCertificate, erase_holder, find_holder
from engine.matching.judge import Judge
from engine.matching.registrar import Registrar, RegistrarConfig
from engine.matching.restoration import Restored
from engine.matching.thresholds import Calibration, Thresholds
from engine.matching.watchlist import WatchList
from engine.registry.keyring import KeyRing
from engine.registry.records import utc_now
from engine.registry.store import Store
from engine.registry.vault import Vault
from engine.registry.writer import Writer
from indexes.upkeep import Upkeep
from serving.models import (
    build_extractor,
    build_thresholds,
    embedder_card,
    load_calibration,
    model_digest,
)
from serving.settings import KEY_RING_FILE, SETTINGS_FILE, Chosen, Settings, write_settings
from serving.snapshots import SnapshotKeeper, gallery_config

if TYPE_CHECKING:
    from engine.faces.extractor import Extractor

SNAPSHOT_FOLDER = "gallery"
SNAPSHOT_AFTER = 1_000
"""A closing deployment that replayed or added more references than this saves a snapshot."""


def create_home(home: Path, settings: Settings, chosen: Chosen | None = None) -> None:
    """Makes a home folder: settings, key ring (0600), an empty registry.

    `chosen` settings are written down; the others stay at their defaults, as comments. Whatever
    fails leaves the folder as it was: nothing that was there before is overwritten or removed.
    """
    _require_free(home)
    dimension, digest = embedder_card(settings).dimension, model_digest(settings)
    with ExitStack() as undo:
        if not home.exists():
            # Only if it is empty: another process may be making a home here too.
            undo.callback(_ignoring_errors(home.rmdir))
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(f"{home} cannot be a folder: {error.strerror}") from None
        vault = Vault(KeyRing.create(home / KEY_RING_FILE), dimension)
        undo.callback((home / KEY_RING_FILE).unlink)
        write_settings(home, chosen or {})
        undo.callback((home / SETTINGS_FILE).unlink)
        Store.create(registry_url(home, settings), vault, model_digest=digest).close()
        undo.pop_all()


def _require_free(home: Path) -> None:
    if not any((home / name).exists() for name in (SETTINGS_FILE, KEY_RING_FILE)):
        return
    if not (home / KEY_RING_FILE).exists():
        raise RegistryExists(
            f"{home} is a Sosie home that has lost its key ring: restore {KEY_RING_FILE} from your "
            "backup, or choose another folder"
        )
    raise RegistryExists(f"{home} is a Sosie home already: choose another folder")


def _ignoring_errors(undo: Callable[[], None]) -> Callable[[], None]:
    def attempt() -> None:
        with suppress(OSError):
            undo()

    return attempt


def registry_url(home: Path, settings: Settings) -> str:
    """The database URL; a relative SQLite file lies in the home folder."""
    url = settings.registry.url.get_secret_value()
    prefix = "sqlite:///"
    if url.startswith(prefix) and not url.startswith(prefix + "/"):
        return f"{prefix}{(home / url.removeprefix(prefix)).resolve()}"
    return url


def warn_on_stderr(message: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"sosie: warning: {message}\n")


class Deployment:
    """An opened home; each part is built when it is first asked for. Close it after use.

    `warn` is told, in one line, what went wrong beside a command that did what it was asked.
    """

    def __init__(
        self,
        home: Path,
        settings: Settings,
        cache: Path,
        warn: Callable[[str], None] = warn_on_stderr,
    ) -> None:
        self.home = home
        self.settings = settings
        self._cache = cache
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
        return SnapshotKeeper(self.store, self.snapshot_folder, config, self._warn)

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
        )

    @cached_property
    def registrar(self) -> Registrar:
        """Takes the writer's lease; `WriterBusy` where another process has it."""
        writer = self.store.writer()
        try:
            self._drop_outdated(writer.sequence)
            self._snapshots.sweep()
            if self.restored.fault is not None:
                # A later store might believe what this one refuses.
                self.remove_snapshot()
            sizes = self.settings.registrar
            registrar = Registrar(
                writer, self.judge, RegistrarConfig(sizes.batch_size, sizes.queue_size)
            )
        except BaseException:
            writer.close()
            raise
        # Where nothing is written there is nothing to keep up with.
        self._upkeep = Upkeep(self.restored.gallery).start()
        return registrar

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

    def erase(self, document: Document, actor: str) -> ErasureCertificate:
        """Erases the holder of a document; afterwards no snapshot on disk has the template.

        `NotFound` where nobody holds it; `RegistryError`, with nothing erased, where the snapshot
        cannot be removed.
        """
        registrar = self.registrar
        # One at a time: the snapshot that ends one must not have the face of the next.
        with self._erasing:
            return self._erase(registrar, document, actor)

    def _erase(self, registrar: Registrar, document: Document, actor: str) -> ErasureCertificate:
        holder = find_holder(self.store, document, utc_now().date())
        # The snapshot goes first, but for the files that cannot have the face: a crash in between
        # costs a rebuild, and keeps no erased face.
        had_snapshot = self.snapshot_folder.exists()
        trusted = self._snapshots.withdraw(self.restored.gallery, holder.reference_ids)
        certificate = erase_holder(registrar, self.store, document, actor)

        def end(_writer: Writer, _now: datetime) -> None:
            if had_snapshot:
                self._snapshots.renew(self.restored.gallery, trusted)
            else:
                # A process that lost the lease may have saved its own.
                self._snapshots.remove()
                self.restored.gallery.compact()

        with suppress(RegistryError):
            registrar.run(end)
        return certificate

    def close(self) -> None:
        """Keeps a snapshot where much has changed, gives back the lease, closes the store."""
        built = self.__dict__
        if self._upkeep is not None:
            self._upkeep.close()
        if "registrar" in built:
            # Under the lease, or an erasure in between would find no snapshot to remove. A
            # registrar that has failed keeps none, and its callers know why.
            with suppress(RegistryError):
                self.registrar.run(lambda _writer, _now: self._save_grown())
            self.registrar.close()
        if "extractor" in built:
            self.extractor.close()
        self.store.close()

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
