"""Models named by the settings: cards, extractor, calibration, thresholds. Needs no registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from engine.errors import CalibrationError, ModelCardInvalid, RequestError
from engine.faces import extractor as faces
from engine.faces.image_files import ImageLimits
from engine.faces.liveness_judge import LivenessJudge, digest_judge
from engine.faces.quality import QualityMeasure
from engine.matching.calibration import UNSET, Calibration, ThresholdRates, Thresholds
from engine.models.catalog import (
    CARDS_FOLDER,
    Conversion,
    ModelCard,
    builtin_card,
    copy_card,
    load_card,
    read_transform,
    read_transform_file,
    without_transform,
)
from engine.models.onnx_sessions import SessionOptions, available_providers
from schema.decisions import Comparison
from serving.settings.sections import ThresholdSettings
from serving.settings.settings import Settings, is_card_file

if TYPE_CHECKING:
    from engine.faces.detector import FaceDetector
    from engine.faces.embedder import Embedder
    from engine.faces.extractor import Extractor
    from engine.faces.liveness_judge import JudgeTerms
    from engine.matching.checks.second_model import SecondModel
    from engine.matching.samples import SecondEmbedder
    from engine.registry.vault import Vault


def embedder_card(settings: Settings) -> ModelCard:
    """The embedder's card: a built-in one by name, or the operator's file."""
    return _card(settings.models.embedder, settings)


def detector_card(settings: Settings) -> ModelCard:
    """The detector's card: a built-in one by name, or the operator's file."""
    return _card(settings.models.detector, settings)


def model_digest(settings: Settings) -> str:
    """The digest of the model that makes the references of these settings."""
    return faces.digest_embedding(embedder_card(settings), settings.models.flip)


def find_conversion(settings: Settings) -> Conversion | None:
    """From templates made before the embedder's card had its transform; None without one."""
    card, flip = embedder_card(settings), settings.models.flip
    transform = read_transform(card)
    if transform is None:
        return None
    before, after = (faces.digest_embedding(one, flip) for one in (without_transform(card), card))
    return Conversion(before, after, transform)


def second_settings(settings: Settings) -> Settings | None:
    """The same settings with the second embedder in place of the first, at its card's thresholds;
    None where none is named."""
    if not settings.models.second:
        return None
    chosen: dict[str, Any] = {"embedder": settings.models.second, "second": "", "calibration": 0}
    return _with_models(settings, chosen).model_copy(update={"thresholds": ThresholdSettings()})


def _with_models(settings: Settings, chosen: Mapping[str, object]) -> Settings:
    return settings.model_copy(update={"models": settings.models.model_copy(update=chosen)})


def find_less_support(settings: Settings) -> list[str]:
    """What the second model's calibration supports less of than the present one, in words."""
    chosen = second_settings(settings)
    try:
        first = load_calibration(settings)
    except CalibrationError:
        return []
    assert chosen is not None
    second = load_newest_calibration(chosen)
    found = [
        f"{kind.value.replace('_', ' ')}: no false match rate below {after:.2g}, now {before:.2g}"
        for kind in Comparison
        if (after := second.curve(kind).lowest_fmr) > (before := first.curve(kind).lowest_fmr)
    ]
    holds = [one.curve(Comparison.FUSED).certain_margin_holds for one in (first, second)]
    return found + ["nothing is rejected by 1:N alone"] * (holds == [True, False])


def switch_settings(settings: Settings) -> dict[str, str | int]:
    """The section [models] under which the second model decides."""
    chosen: dict[str, str | int] = {
        "embedder": settings.models.second,
        "second": settings.models.embedder,
    }
    if not is_card_file(settings.models.second):
        # Without it a home keeps the first calibration that the built-in card had.
        other = second_settings(settings) or settings
        chosen["calibration"] = load_newest_calibration(other).version
    return chosen


def second_model(settings: Settings) -> SecondModel | None:
    """The second embedder as decisions are compared with it; None where none is named."""
    from engine.matching.checks.second_model import SecondModel  # noqa: PLC0415 - few name one

    chosen = second_settings(settings)
    if chosen is None:
        return None
    card, digest = embedder_card(chosen), model_digest(chosen)
    if digest == model_digest(settings):
        raise ModelCardInvalid(
            "the second embedder is the first: name another as `second` under [models], or none"
        )
    if card.input.width_px != embedder_card(settings).input.width_px:
        raise ModelCardInvalid(
            f"model {card.name} takes crops of {card.input.width_px} px, the first embedder's are "
            f"{embedder_card(settings).input.width_px}: a second one must take the same"
        )
    try:
        thresholds = build_thresholds(chosen, load_calibration(chosen))
    except CalibrationError:
        # Its templates are kept all the same; doctor says that it is not calibrated.
        thresholds = None
    return SecondModel(digest, card.dimension, thresholds)


def open_second_embedder(settings: Settings, vault: Vault) -> SecondEmbedder | None:
    """Opens the second model's embedder on this process's CPU: nobody waits for it. None where none
    is named."""
    from engine.matching.samples import SecondEmbedder  # noqa: PLC0415 - few name one

    chosen, model = second_settings(settings), second_model(settings)
    if chosen is None or model is None:
        return None
    return SecondEmbedder(
        open_embedder(without_accelerator(chosen)), model.digest, vault.of_dimension(model.dim)
    )


def judge_terms(settings: Settings) -> JudgeTerms | None:
    """The liveness judge's limits of scores, by its card; None where none is named."""
    from engine.faces.liveness_judge import JudgeTerms  # noqa: PLC0415 - few name one

    card = _judge_card(settings)
    if card is None or card.liveness is None:
        return None
    limits, enforces = card.liveness, settings.liveness.judge_mode == "enforce"
    return JudgeTerms(digest_judge(card), limits.live, limits.least, enforces)


def open_liveness_judge(settings: Settings) -> LivenessJudge | None:
    """The judge of the picture itself, in this process and on the CPU; None where none is named."""
    card = _judge_card(settings)
    return None if card is None else LivenessJudge(card)


def _judge_card(settings: Settings) -> ModelCard | None:
    if not settings.liveness.judge:
        return None
    card = load_card(Path(settings.liveness.judge))
    if card.liveness is None:
        raise ModelCardInvalid(
            f"model {card.name} is of role {card.role}: `judge` under [liveness] takes one of role "
            "liveness"
        )
    return card


def without_accelerator(settings: Settings) -> Settings:
    """The same settings with every model on the CPU."""
    return _with_models(settings, {"provider": "cpu", "precision": "float32"})


INGRESS_UNUSED = (
    "CUDA is installed and not used: ingresses have no GPU; "
    'set embedder = "deployment" and embedder_gpus under [serve]'
)


def settle_ingress(settings: Settings) -> tuple[Settings, str]:
    """The settings of an ingress that embeds itself, and what it leaves unused. On the CPU: each
    would open a CUDA context on the first GPU, in memory that Ray does not know to be taken."""
    if settings.models.provider == "auto" and "cuda" in available_providers():
        return without_accelerator(settings), INGRESS_UNUSED
    return settings, ""


def require_agreement(settings: Settings) -> None:
    """`RequestError` where `provider = "cuda"` and what the service runs do not fit together."""
    serve = settings.serve
    if settings.models.provider != "cuda":
        return
    if serve.embedder == "ingress":
        raise RequestError(
            "provider cuda is not for ingresses, which would each take a GPU's memory: "
            'set embedder = "deployment" and embedder_gpus under [serve]'
        )
    if not serve.embedder_gpus:
        raise RequestError(
            "provider cuda takes GPUs that Ray does not know to be taken: "
            "set embedder_gpus under [serve]"
        )


def build_extractor(
    settings: Settings, threads: int | None = None, *, is_plain: bool = False
) -> Extractor:
    """The extractor of these settings; `threads` overrides theirs, and where it `is_plain` the
    card's transform is left out."""
    card = embedder_card(settings)
    return faces.open_extractor(
        config=extractor_config(settings, threads),
        session=_session_options(settings),
        embedder=without_transform(card) if is_plain else card,
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
    measures = [QualityMeasure(load_card(Path(one))) for one in settings.quality.models]
    if len({one.name for one in measures}) < len(measures):
        raise ModelCardInvalid("two cards of `models` under [quality] are of one measure: name one")
    return faces.ExtractorConfig(
        threads=settings.models.threads if threads is None else threads,
        images=ImageLimits(cpu_s=settings.models.decode_cpu_s),
        quality=settings.quality.limits(),
        competing_share=settings.models.competing_share,
        measures=measures,
    )


def load_calibration(settings: Settings) -> Calibration:
    """The calibration beside the embedder's card, of the version in the settings, or the oldest of
    its model where that is of the model before a transform.

    `CalibrationError` where there is none.
    """
    newest = load_newest_calibration(settings)
    wanted = settings.models.calibration
    if wanted in (0, newest.version):
        return newest
    card, known = embedder_card(settings), {newest.version: newest}
    for name in card.earlier_calibrations:
        earlier = Calibration.load(card.folder / name, newest.model_digest)
        known[earlier.version] = earlier
    oldest = min(known)
    if card.transform and wanted < oldest:
        # It was of the vectors before the transform, which compare with none of today's.
        return known[oldest]
    if wanted in known:
        return known[wanted]
    raise CalibrationError(
        f"model {card.name} has no calibration of version {wanted}: set `calibration` under "
        f"[models] to {' or '.join(map(str, sorted(known)))}"
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
            f"version {newest.version} has "
            f"{_list_scores(settings, newest)}: to take it, set calibration = {newest.version} "
            "under [models] in sosie.toml and restart"
        )
    if not used.most_photographs:
        return told, (
            "whoever had the most photographs may decide these thresholds: run sosie calibrate "
            "again, which weighs people"
        )
    return told, ""


def warn_calibration(settings: Settings) -> list[str]:
    """The warnings about the model's calibration for every answer: that there is none, or that its
    photographs support less than the usual rates."""
    card = embedder_card(settings)
    if card.calibration_path is None:
        return [
            f"model {card.name} is not calibrated: its scores decide nothing; run "
            f"sosie calibrate DIR --card {settings.models.embedder}"
        ]
    usual, given = asdict(ThresholdRates()), settings.thresholds.model_fields_set
    return [
        f"{name} stands at FMR {rate:g}, not {usual[name]:g}: the photographs that model "
        f"{card.name} was calibrated on support no less; calibrate it on more people"
        for key, rate in card.rates.items()
        for name in (key.removesuffix("_fmr"),)
        if key not in given and key.endswith("_fmr") and rate > usual[name]
    ]


def _list_scores(settings: Settings, calibration: Calibration) -> str:
    scores = structs.asdict(build_thresholds(settings, calibration))
    if settings.thresholds.review_false_candidates:
        del scores["review"]  # it follows the gallery
    told = {name: "not set" if one == UNSET else f"{one:.3f}" for name, one in scores.items()}
    return ", ".join(f"{name} {score}" for name, score in told.items())


def threshold_rates(settings: Settings) -> ThresholdRates:
    """False match rates: those set in the settings, else the card's, else the defaults."""
    given = settings.thresholds.model_dump(exclude_unset=True, exclude={"match_word"})
    chosen = {**embedder_card(settings).rates, **given}
    # `verify_fmr` of cards and settings is `verify` among rates.
    return ThresholdRates(**{key.removesuffix("_fmr"): rate for key, rate in chosen.items()})


def build_thresholds(
    settings: Settings, calibration: Calibration, references: int = 0
) -> Thresholds:
    """Thresholds at the false match rates of this deployment, for a gallery of this size."""
    return Thresholds.from_calibration(calibration, threshold_rates(settings), references)


def use_card(settings: Settings, card: Path | None) -> Settings:
    """The settings with this embedder."""
    if card is None:
        return settings
    return _with_models(settings, {"embedder": str(card.absolute()), "calibration": 0})


def choose_version(fitted: Calibration, settings: Settings, card: Path | None) -> int:
    """One above that of the model's calibration, or the same where nothing changed; 1 for a new
    card, or without any."""
    path = embedder_card(settings).calibration_path
    if path is None or (card is not None and not card.exists()):
        return 1
    try:
        # Of any model: the versions of a card are counted on where its transform changes.
        before = Calibration.load(path, None)
    except CalibrationError:
        return 1
    return before.version + (structs.replace(fitted, version=before.version) != before)


def read_card(card: Path, settings: Settings) -> str:
    """The text of the card, where there is none yet of a copy of the deployment's own."""
    if card.exists():
        return card.read_text("utf-8")
    name, own = settings.models.embedder, embedder_card(settings)
    path = Path(name) if is_card_file(name) else CARDS_FOLDER / f"{name}.toml"
    folder = card.absolute().parent
    if own.transform:
        (folder / Path(own.transform).name).write_bytes(read_transform_file(own))
    return copy_card(own, path.read_text("utf-8"), folder)


def _card(name: str, settings: Settings) -> ModelCard:
    if is_card_file(name):
        return load_card(Path(name))
    folder = settings.models.folder
    return builtin_card(name, Path(folder) if folder else None)


def _session_options(settings: Settings) -> SessionOptions:
    models = settings.models
    return SessionOptions(
        provider=models.provider,
        precision=models.precision,
        memory_bytes=int(models.gpu_memory_gib * 2**30),
    )
