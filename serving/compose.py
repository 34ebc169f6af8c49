"""Builds the working parts from settings: once for the command line and for every server."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from engine.errors import KeyRingMissing, RegistryError, RegistryExists, RequestError
from engine.matching.documents import Document, FormAuthority
from engine.matching.holders import ErasureCertificate, erase_holder, find_holder
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
from indexes.gallery import Gallery
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
        self._warn = warn
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
            self._drop_outdated(writer.sequence)
            # A crash may have left a replaced snapshot's data, with people erased since.
            if self.snapshot_folder.is_dir():
                snapshot.sweep(self.snapshot_folder)
            if self.restored.fault is not None:
                # A later store might believe what this one refuses.
                self._warn(f"the gallery was rebuilt from the store: {self.restored.fault}")
                self.remove_snapshot()
            sizes = self.settings.registrar
            return Registrar(
                writer, self.judge, RegistrarConfig(sizes.batch_size, sizes.queue_size)
            )
        except BaseException:
            writer.close()
            raise

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
        gallery = self.restored.gallery
        try:
            save_snapshot(self.store, gallery, self.snapshot_folder)
        except (OSError, RegistryError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self._warn(f"the gallery's snapshot was not saved: {reason}")
            return False
        # A lease can be lost unnoticed: what another writer has erased since must not stay here.
        if not self._is_current(gallery):
            self.remove_snapshot()
            return False
        return True

    def remove_snapshot(self) -> None:
        """Removes the snapshot, if there is one; the next start rebuilds the gallery."""
        try:
            self._remove_snapshot()
        except OSError as error:
            self._warn(f"remove {self.snapshot_folder} by hand: {error.strerror}")

    def erase(self, document: Document, actor: str) -> ErasureCertificate:
        """Erases the holder of a document; afterwards no snapshot on disk has the template.

        `NotFound` where nobody holds it; `RegistryError`, with nothing erased, where the snapshot
        cannot be removed.
        """
        registrar = self.registrar
        find_holder(self.store, document, utc_now().date())
        # The snapshot goes first: a crash in between costs a rebuild, and keeps no erased face.
        had_snapshot = self.snapshot_folder.exists()
        try:
            self._remove_snapshot()
        except OSError as error:
            raise RegistryError(
                f"{self.snapshot_folder} cannot be removed ({error.strerror}), so nothing was "
                "erased: mend its permissions"
            ) from None
        certificate = erase_holder(registrar, self.store, document, actor)
        # Replaced or removed a second time: a process that lost the lease may have saved its own.
        with suppress(RegistryError):
            registrar.run(lambda _writer, _now: self._replace_snapshot(had_snapshot))
        return certificate

    def close(self) -> None:
        """Keeps a snapshot where much has changed, gives back the lease, closes the store."""
        built = self.__dict__
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
        grown = abs(len(self.restored.gallery) - self.restored.loaded)
        if grown + self.restored.replayed > SNAPSHOT_AFTER:
            self.save_snapshot()

    def _remove_snapshot(self) -> None:
        if self.snapshot_folder.exists():
            shutil.rmtree(self.snapshot_folder)

    def _replace_snapshot(self, by_another: bool) -> None:
        if not (by_another and self.save_snapshot()):
            self.remove_snapshot()

    def _is_current(self, gallery: Gallery) -> bool:
        try:
            return self.store.sequence() == gallery.sequence
        except RegistryError:
            return False
