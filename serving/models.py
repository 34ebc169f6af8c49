"""Models named by the settings: cards, extractor, calibration, thresholds. Needs no registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import CalibrationError
from engine.faces import extractor as faces
from engine.faces.image_files import ImageLimits
from engine.matching.calibration import Calibration, ThresholdRates, Thresholds
from engine.models.catalog import ModelCard, builtin_card, load_card
from engine.models.session import SessionOptions
from serving.settings import Settings, is_card_file

if TYPE_CHECKING:
    from engine.faces.detector import FaceDetector
    from engine.faces.embedder import Embedder
    from engine.faces.extractor import Extractor


def embedder_card(settings: Settings) -> ModelCard:
    """The embedder's card: a built-in one by name, or the operator's file."""
    return _card(settings.models.embedder)


def detector_card(settings: Settings) -> ModelCard:
    """The detector's card: a built-in one by name, or the operator's file."""
    return _card(settings.models.detector)


def model_digest(settings: Settings) -> str:
    """The digest of the model that makes the references of these settings."""
    return faces.digest_embedding(embedder_card(settings), settings.models.flip)


def build_extractor(settings: Settings, cache: Path, threads: int | None = None) -> Extractor:
    """The extractor of these settings; `threads` overrides theirs."""
    return faces.open_extractor(
        cache,
        config=extractor_config(settings, threads),
        session=_session_options(settings),
        embedder=embedder_card(settings),
        detector=detector_card(settings),
        flip=settings.models.flip,
    )


def open_detector(settings: Settings, cache: Path) -> FaceDetector:
    """The detector alone, for a process that embeds no faces itself."""
    return faces.open_detector(
        cache, session=_session_options(settings), card=detector_card(settings)
    )


def open_embedder(settings: Settings, cache: Path) -> Embedder:
    """The embedder alone, for a process that embeds the crops of others."""
    return faces.open_embedder(
        cache,
        session=_session_options(settings),
        card=embedder_card(settings),
        flip=settings.models.flip,
    )


def extractor_config(settings: Settings, threads: int | None = None) -> faces.ExtractorConfig:
    """The configuration of an extractor; `threads` overrides the settings."""
    return faces.ExtractorConfig(
        threads=settings.models.threads if threads is None else threads,
        images=ImageLimits(cpu_s=settings.models.decode_cpu_s),
        competing_share=settings.models.competing_share,
    )


def load_calibration(settings: Settings) -> Calibration:
    """The calibration beside the embedder's card; `CalibrationError` where there is none."""
    card = embedder_card(settings)
    if card.calibration_path is None:
        raise CalibrationError(
            f"model {card.name} has no calibration: run `sosie calibrate` and name it in the card"
        )
    return Calibration.load(card.calibration_path, model_digest(settings))


def threshold_rates(settings: Settings) -> ThresholdRates:
    """False match rates: those set in the settings, else the card's, else the defaults."""
    given = settings.thresholds.model_dump(exclude_unset=True)
    chosen = {**embedder_card(settings).rates, **given}
    # `verify_fmr` of cards and settings is `verify` among rates.
    return ThresholdRates(**{key.removesuffix("_fmr"): rate for key, rate in chosen.items()})


def build_thresholds(settings: Settings, calibration: Calibration) -> Thresholds:
    """Thresholds at the false match rates of this deployment."""
    return Thresholds.from_calibration(calibration, threshold_rates(settings))


def _card(name: str) -> ModelCard:
    return load_card(Path(name)) if is_card_file(name) else builtin_card(name)


def _session_options(settings: Settings) -> SessionOptions:
    return SessionOptions(provider=settings.models.provider, precision=settings.models.precision)
