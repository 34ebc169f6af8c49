"""Models named by the settings: cards, extractor, calibration, thresholds. Needs no registry."""

from __future__ import annotations

from dataclasses import asdict
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
    return _card(settings.models.embedder, settings)


def detector_card(settings: Settings) -> ModelCard:
    """The detector's card: a built-in one by name, or the operator's file."""
    return _card(settings.models.detector, settings)


def model_digest(settings: Settings) -> str:
    """The digest of the model that makes the references of these settings."""
    return faces.digest_embedding(embedder_card(settings), settings.models.flip)


def build_extractor(settings: Settings, threads: int | None = None) -> Extractor:
    """The extractor of these settings; `threads` overrides theirs."""
    return faces.open_extractor(
        config=extractor_config(settings, threads),
        session=_session_options(settings),
        embedder=embedder_card(settings),
        detector=detector_card(settings),
        flip=settings.models.flip,
    )


def open_detector(settings: Settings) -> FaceDetector:
    """The detector alone, for a process that embeds no faces itself."""
    return faces.open_detector(session=_session_options(settings), card=detector_card(settings))


def open_embedder(settings: Settings) -> Embedder:
    """The embedder alone, for a process that embeds the crops of others."""
    return faces.open_embedder(
        session=_session_options(settings), card=embedder_card(settings), flip=settings.models.flip
    )


def extractor_config(settings: Settings, threads: int | None = None) -> faces.ExtractorConfig:
    """The configuration of an extractor; `threads` overrides the settings."""
    return faces.ExtractorConfig(
        threads=settings.models.threads if threads is None else threads,
        images=ImageLimits(cpu_s=settings.models.decode_cpu_s),
        quality=settings.quality.limits(),
        competing_share=settings.models.competing_share,
    )


def load_calibration(settings: Settings) -> Calibration:
    """The calibration beside the embedder's card, of the version in the settings.

    `CalibrationError` where there is none.
    """
    newest = load_newest_calibration(settings)
    wanted = settings.models.calibration
    if wanted in (0, newest.version):
        return newest
    card, versions = embedder_card(settings), [newest.version]
    for name in card.earlier_calibrations:
        earlier = Calibration.load(card.folder / name, newest.model_digest)
        if earlier.version == wanted:
            return earlier
        versions.append(earlier.version)
    raise CalibrationError(
        f"model {card.name} has no calibration of version {wanted}: set `calibration` under "
        f"[models] to {' or '.join(map(str, sorted(versions)))}"
    )


def load_newest_calibration(settings: Settings) -> Calibration:
    """The calibration that the embedder's card names; `CalibrationError` where there is none."""
    card = embedder_card(settings)
    if card.calibration_path is None:
        raise CalibrationError(
            f"model {card.name} has no calibration: run `sosie calibrate` and name it in the card"
        )
    return Calibration.load(card.calibration_path, model_digest(settings))


def describe_calibration(settings: Settings) -> tuple[str, str]:
    """Which calibration sets the thresholds, and what to do where another one should, else ""."""
    used, newest = load_calibration(settings), load_newest_calibration(settings)
    told = f"version {used.version}; {_list_scores(settings, used)}"
    if used.version != newest.version:
        return told, (
            f"version {newest.version} weighs people and not photographs, and has "
            f"{_list_scores(settings, newest)}: to take it, set calibration = {newest.version} "
            "under [models] in sosie.toml and restart"
        )
    if not used.most_photographs:
        return told, (
            "whoever had the most photographs may decide these thresholds: run sosie calibrate "
            "again, which weighs people"
        )
    return told, ""


def _list_scores(settings: Settings, calibration: Calibration) -> str:
    scores = asdict(build_thresholds(settings, calibration))
    return ", ".join(f"{name} {score:.3f}" for name, score in scores.items())


def threshold_rates(settings: Settings) -> ThresholdRates:
    """False match rates: those set in the settings, else the card's, else the defaults."""
    given = settings.thresholds.model_dump(exclude_unset=True)
    chosen = {**embedder_card(settings).rates, **given}
    # `verify_fmr` of cards and settings is `verify` among rates.
    return ThresholdRates(**{key.removesuffix("_fmr"): rate for key, rate in chosen.items()})


def build_thresholds(settings: Settings, calibration: Calibration) -> Thresholds:
    """Thresholds at the false match rates of this deployment."""
    return Thresholds.from_calibration(calibration, threshold_rates(settings))


def _card(name: str, settings: Settings) -> ModelCard:
    if is_card_file(name):
        return load_card(Path(name))
    folder = settings.models.folder
    return builtin_card(name, Path(folder) if folder else None)


def _session_options(settings: Settings) -> SessionOptions:
    return SessionOptions(provider=settings.models.provider, precision=settings.models.precision)
