"""Builds the working parts from settings: once for the command line and for every server."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from engine.errors import KeyRingMissing, RegistryExists, RequestError
from engine.matching.documents import Document, FormAuthority
from engine.matching.holders import ErasureCertificate, erase_holder, find_document
from engine.matching.judge import Judge
from engine.matching.registrar import Registrar, RegistrarConfig
from engine.matching.restoration import Restored, restore_gallery, save_snapshot
from engine.matching.thresholds import Calibration, Thresholds
from engine.matching.watchlist import WatchList
from engine.registry.keyring import KeyRing
from engine.registry.records import utc_now
from engine.registry.store import Store
from engine.registry.vault import Vault
from indexes import snapshot
from serving.models import (
    build_extractor,
    build_thresholds,
    embedder_card,
    load_calibration,
    model_digest,
)
from serving.settings import KEY_RING_FILE, SETTINGS_FILE, Chosen, Settings, write_settings

if TYPE_CHECKING:
    from engine.faces.extractor import Extractor

SNAPSHOT_FOLDER = "gallery"
SNAPSHOT_AFTER = 1_000
"""A closing deployment that replayed or added more references than this saves a snapshot."""


def create_home(home: Path, settings: Settings, chosen: Chosen | None = None) -> None:
    """Makes a home folder: settings, key ring (0600), an empty registry.

    `chosen` settings are written down; the others stay at their defaults, as comments. Whatever
    fails leaves the folder as it was.
    """
    if (home / KEY_RING_FILE).exists():
        raise RegistryExists(f"{home} is a Sosie home already: choose another folder")
    dimension, digest = embedder_card(settings).dimension, model_digest(settings)
    is_new = not home.exists()
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{home} cannot be a folder: {error.strerror}") from None
    try:
        vault = Vault(KeyRing.create(home / KEY_RING_FILE), dimension)
        write_settings(home, chosen or {})
        Store.create(registry_url(home, settings), vault, model_digest=digest).close()
    except BaseException:
        (home / SETTINGS_FILE).unlink(missing_ok=True)
        (home / KEY_RING_FILE).unlink(missing_ok=True)
        if is_new:
            home.rmdir()
        raise


def registry_url(home: Path, settings: Settings) -> str:
    """The database URL; a relative SQLite file lies in the home folder."""
    url = settings.registry.url.get_secret_value()
    prefix = "sqlite:///"
    if url.startswith(prefix) and not url.startswith(prefix + "/"):
        return f"{prefix}{(home / url.removeprefix(prefix)).resolve()}"
    return url


class Deployment:
    """An opened home; each part is built when it is first asked for. Close it after use."""

    def __init__(self, home: Path, settings: Settings, cache: Path) -> None:
        self.home = home
        self.settings = settings
        self._cache = cache
        path = home / KEY_RING_FILE
        if not path.exists():
            raise KeyRingMissing(f"no key ring at {path}: put back the one of this deployment")
        self.vault = Vault(KeyRing.load(path), embedder_card(settings).dimension)
        self.store = Store.open(
            registry_url(home, settings), self.vault, model_digest=model_digest(settings)
        )

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
    def restored(self) -> Restored:
        """The gallery, brought to the state of the store when it is first asked for."""
        return restore_gallery(self.store, self.snapshot_folder)

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
            # A gallery restored before the lease was taken might miss another writer's last.
            if "restored" in self.__dict__ and self.restored.gallery.sequence != writer.sequence:
                for part in ("restored", "watchlist", "judge"):
                    self.__dict__.pop(part, None)
            # A crash may have left a replaced snapshot's data, with people erased since.
            if self.snapshot_folder.is_dir():
                snapshot.sweep(self.snapshot_folder)
            judge = self.judge
        except BaseException:
            writer.close()
            raise
        sizes = self.settings.registrar
        return Registrar(writer, judge, RegistrarConfig(sizes.batch_size, sizes.queue_size))

    def expect_false_candidates(self, gallery_size: int, score: float) -> dict[str, Any]:
        """How many strangers one search of `gallery_size` references brings at `score`."""
        return asdict(self.calibration.expected_false_candidates(gallery_size, score))

    @property
    def snapshot_folder(self) -> Path:
        return self.home / SNAPSHOT_FOLDER

    def save_snapshot(self) -> None:
        """Keeps the gallery for the next start."""
        save_snapshot(self.store, self.restored.gallery, self.snapshot_folder)

    def erase(self, document: Document, actor: str) -> ErasureCertificate:
        """Erases the holder of a document; afterwards no snapshot on disk has the template.

        `NotFound` where nobody holds it.
        """
        registrar = self.registrar
        find_document(self.store, document, utc_now().date())
        # The snapshot goes first: a crash in between costs a rebuild, and keeps no erased face.
        had_snapshot = self.snapshot_folder.exists()
        if had_snapshot:
            shutil.rmtree(self.snapshot_folder)
        certificate = erase_holder(registrar, self.store, document, actor)
        if had_snapshot:
            self.save_snapshot()
        return certificate

    def close(self) -> None:
        """Gives back the lease, keeps a snapshot where much has changed, closes the store."""
        built = self.__dict__
        if "registrar" in built:
            grown = abs(len(self.restored.gallery) - self.restored.loaded)
            self.registrar.close()
            if grown + self.restored.replayed > SNAPSHOT_AFTER:
                self.save_snapshot()
        if "extractor" in built:
            self.extractor.close()
        self.store.close()
