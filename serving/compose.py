"""Builds the working parts from settings: once for the command line and for every server."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from engine.errors import CalibrationError, KeyRingMissing, RegistryExists
from engine.faces.extractor import ExtractorConfig, digest_embedding, open_extractor
from engine.matching.documents import FormAuthority
from engine.matching.judge import Judge
from engine.matching.registrar import Registrar, RegistrarConfig
from engine.matching.restoration import Restored, restore_gallery, save_snapshot
from engine.matching.thresholds import Calibration, ThresholdRates, Thresholds
from engine.matching.watchlist import WatchList
from engine.models.catalog import ModelCard, builtin_card, load_card
from engine.models.session import SessionOptions
from engine.registry.keyring import KeyRing
from engine.registry.store import Store
from engine.registry.vault import Vault
from serving.settings import KEY_RING_FILE, Settings, write_settings

if TYPE_CHECKING:
    from engine.faces.extractor import Extractor

SNAPSHOT_FOLDER = "gallery"
SNAPSHOT_AFTER = 1_000
"""A closing deployment that replayed or added more references than this saves a snapshot."""


def embedder_card(settings: Settings) -> ModelCard:
    """The embedder's card: built-in by name, or a file of the operator's own."""
    return _card(settings.models.embedder)


def model_digest(settings: Settings) -> str:
    """What every reference of a deployment with these settings was made by."""
    return digest_embedding(embedder_card(settings), settings.models.flip)


def build_extractor(settings: Settings, cache: Path) -> Extractor:
    """The extractor that these settings ask for."""
    models = settings.models
    return open_extractor(
        cache,
        config=ExtractorConfig(threads=models.threads),
        session=SessionOptions(provider=models.provider, precision=models.precision),
        embedder=embedder_card(settings),
        detector=_card(models.detector),
        flip=models.flip,
    )


def load_calibration(settings: Settings) -> Calibration:
    """The calibration beside the embedder's card; `CalibrationError` where there is none."""
    card = embedder_card(settings)
    if card.calibration_path is None:
        raise CalibrationError(
            f"model {card.name} has no calibration: run `sosie calibrate` and name it in the card"
        )
    return Calibration.load(card.calibration_path, model_digest(settings))


def build_thresholds(settings: Settings, calibration: Calibration) -> Thresholds:
    """Scores for the false match rates of the settings."""
    rates = settings.thresholds
    return Thresholds.from_calibration(
        calibration,
        ThresholdRates(
            verify=rates.verify_fmr,
            same_document=rates.same_document_fmr,
            review=rates.review_fmr,
            certain_margin=rates.certain_margin,
        ),
    )


def create_home(home: Path, settings: Settings) -> None:
    """Makes a home folder: settings, key ring (0600), an empty registry."""
    if (home / KEY_RING_FILE).exists():
        raise RegistryExists(f"{home} is a Sosie home already: choose another folder")
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    ring = KeyRing.create(home / KEY_RING_FILE)
    try:
        vault = Vault(ring, embedder_card(settings).dimension)
        url = registry_url(home, settings)
        Store.create(url, vault, model_digest=model_digest(settings)).close()
    except BaseException:
        (home / KEY_RING_FILE).unlink()
        raise
    write_settings(home)


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
        return restore_gallery(self.store, self.home / SNAPSHOT_FOLDER)

    @cached_property
    def watchlist(self) -> WatchList:
        return WatchList(self.vault.dim, self.store.watchlist())

    @cached_property
    def registrar(self) -> Registrar:
        """Takes the writer's lease; `WriterBusy` where another process has it."""
        # The lease comes first: a gallery restored before it might miss another writer's last.
        writer = self.store.writer()
        try:
            judge = Judge(
                store=self.store,
                vault=self.vault,
                gallery=self.restored.gallery,
                watch=self.watchlist,
                thresholds=self.thresholds,
                authority=FormAuthority(),
                model_digest=self.store.model_digest,
                false_candidates=self.expect_false_candidates,
            )
        except BaseException:
            writer.close()
            raise
        sizes = self.settings.registrar
        return Registrar(writer, judge, RegistrarConfig(sizes.batch_size, sizes.queue_size))

    def expect_false_candidates(self, gallery_size: int, score: float) -> dict[str, Any]:
        """How many strangers one search of `gallery_size` references brings at `score`."""
        return asdict(self.calibration.expected_false_candidates(gallery_size, score))

    def close(self) -> None:
        """Gives back the lease, keeps a snapshot where much has changed, closes the store."""
        built = self.__dict__
        if "registrar" in built:
            grown = abs(len(self.restored.gallery) - self.restored.loaded)
            self.registrar.close()
            if grown + self.restored.replayed > SNAPSHOT_AFTER:
                save_snapshot(self.store, self.restored.gallery, self.home / SNAPSHOT_FOLDER)
        if "extractor" in built:
            self.extractor.close()
        self.store.close()


def _card(name: str) -> ModelCard:
    is_file = name.endswith(".toml") or "/" in name
    return load_card(Path(name)) if is_file else builtin_card(name)
