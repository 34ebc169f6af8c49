"""Model cards: identity, file and input contract of each model, and the transform that one may add.

A card is a TOML file. Two are built in (`yunet`, `sface`); any other embedder is one more file.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import msgspec
import numpy as np
from msgspec import Meta, structs
from msgspec.structs import asdict, replace
from numpy.typing import NDArray

from engine.errors import ModelCardInvalid, ModelDamaged, ModelError, ModelMissing, file_errors
from indexes.atomic_files import replacing
from schema import frozen
from schema.decoding import StrictValue
from schema.reasons import About, PhotographKind, Reason

CARDS_FOLDER = Path(__file__).parent / "cards"


class Role(StrEnum):
    """The purpose of a model."""

    DETECTOR = "detector"
    EMBEDDER = "embedder"
    LIVENESS = "liveness"
    """Tells of a face how live it seems."""
    QUALITY = "quality"
    """Measures how good a photograph of a face is."""


class Step(StrEnum):
    """A rewriting of `engine.models.rewriting`, in the order in which they are applied."""

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


class InputContract(StrictValue):
    """Input of a model: `(pixel - mean) * scale`, pixels 0-255.

    Width and height are 0 where the model takes any size.
    """

    channels: Literal["rgb", "bgr"]
    width_px: _Count = 0
    height_px: _Count = 0
    layout: Literal["nchw", "nhwc"] = "nchw"
    mean: _Three = (0.0, 0.0, 0.0)
    scale: _Three = (1.0, 1.0, 1.0)


class FileSource(StrictValue):
    """A path inside an installed wheel, or (wheel empty) relative to the card's folder."""

    path: str
    wheel: str = ""


_CHOICES: dict[str, tuple[str, ...]] = {
    "role": tuple(Role),
    "rewriting": tuple(Step),
    "channels": ("rgb", "bgr"),
    "layout": ("nchw", "nhwc"),
    "alignment": ("arcface",),
    "activation": ("none", "softmax", "sigmoid"),
}


class CardThresholds(StrictValue):
    """Error rates of the thresholds, named as a deployment's settings are; None: the usual one."""

    verify_fmr: _Rate | None = None
    same_document_fmr: _Rate | None = None
    review_fmr: _Rate | None = None
    certain_margin: Annotated[float, Meta(ge=0, lt=1)] | None = None


class LivenessContract(StrictValue):
    """Input and output of a judge of liveness.

    It takes the square around a face of `crop_scale` times the longer side of its box. Number
    `index` of `output` (empty: the first) is the probability of a live face, after `activation`. A
    face with at least `live` counts as live, one below `spoof` as none; in between the judge is
    uncertain, and without `spoof` nothing is.
    """

    live: _Rate
    spoof: _Rate | None = None
    crop_scale: Annotated[float, Meta(ge=0.5, le=8)] = 1.0
    output: str = ""
    index: _Count = 0
    activation: Literal["none", "softmax", "sigmoid"] = "none"

    @property
    def least(self) -> float:
        """The score below which a face counts as not live."""
        return self.live if self.spoof is None else self.spoof


class QualityContract(StrictValue):
    """A measure by its name in ISO/IEC 29794-5, and how a quality from 0 to 100 is made of it.

    Of number `index` of `output` (empty: the first), x, the quality is `h * (a + s * f)`, rounded:
    f is 1 / (1 + exp((x0 - x) / w)), or x itself without `w`. A photograph `of` these kinds with
    less than `least` is sent back for `reason`; less than `warn` is a warning, of every kind.
    `eyes_px` are x and y of both eyes in the crop, the left one of the picture first; None: those
    of the alignment.
    """

    measure: Annotated[str, Meta(pattern="^[A-Z][A-Za-z]{0,63}$")]
    least: Annotated[float, Meta(ge=0, le=100)] = 0
    warn: Annotated[float, Meta(ge=0, le=100)] = 0
    of: tuple[PhotographKind, ...] = (PhotographKind.LIVE,)
    reason: Reason = Reason.UNCLEAR
    h: float = 100
    a: float = 0
    s: float = 1
    x0: float = 0
    w: float | None = None
    eyes_px: tuple[float, float, float, float] | None = None
    output: str = ""
    index: _Count = 0


class ModelCard(StrictValue):
    """One model; `dimension` is 0 for a detector, `calibration` names a file beside the card.

    `earlier_calibrations` name those that homes made with them still use. `usual_length` is that
    of an embedder's vector of a good photograph, before it gets unit length; 0: not known.
    `transform` names a file beside the card (`engine.models.catalog`) that is applied to what
    the model gives.
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
    usual_length: float = 0
    calibration: str = ""
    earlier_calibrations: tuple[str, ...] = ()
    transform: str = ""
    transform_sha256: str = ""
    rewriting: tuple[Step, ...] = DEFAULT_STEPS
    thresholds: CardThresholds | None = None
    liveness: LivenessContract | None = None
    quality: QualityContract | None = None
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


def builtin_card(name: str, folder: Path | None = None) -> ModelCard:
    """The built-in card `yunet` or `sface`; raises ModelMissing for any other name.

    Its model file is in `folder`, as `export_models` wrote it there, or (None) in a wheel. Its
    digest and calibration are Sosie's own in both cases: whoever writes to the folder changes none.
    """
    path = CARDS_FOLDER / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(card.stem for card in CARDS_FOLDER.glob("*.toml")))
        raise ModelMissing(f"no built-in model card of this name; choose one of {known}")
    card = load_card(path)
    if folder is None:
        return card
    return replace(card, file=FileSource(str(folder.absolute() / Path(card.file.path).name)))


def export_models(folder: Path) -> list[Path]:
    """Copies the built-in models with card, calibration and digests into a folder.

    The card names the file beside it, so each is also a card for `load_card`. Returns the files,
    SHA256SUMS last. Raises ModelMissing, ModelDamaged, and ModelError where nothing can be written.
    """
    contents: dict[str, bytes] = {}
    for source in sorted(CARDS_FOLDER.glob("*.toml")):
        card = load_card(source)
        model = locate(card)
        beside = replace(card, file=FileSource(model.name), folder=folder)
        text = copy_card(beside, source.read_text(encoding="utf-8"), folder, is_whole=True)
        contents |= {model.name: model.read_bytes(), source.name: text.encode()}
        beside_card = (card.calibration, *card.earlier_calibrations, card.transform)
        for name in filter(None, beside_card):
            contents[name] = (card.folder / name).read_bytes()
    # As `sha256sum --check SHA256SUMS` reads it.
    sums = (f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in contents.items())
    contents["SHA256SUMS"] = "".join(sums).encode()
    with file_errors(f"cannot write to {folder}", ModelError, then="; choose another"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in contents.items():
            with replacing(folder / name) as fresh:
                fresh.write_bytes(data)
                # They are public, and who serves with them may be another user.
                fresh.chmod(0o644)
    return [folder / name for name in contents]


_SHA256 = re.compile(r"[0-9a-f]{64}")
_EARLIER = re.compile(r"^[ \t]*earlier_calibrations[ \t]*=.*\n", re.MULTILINE)
_TRANSFORM = re.compile(r"^([ \t]*transform[ \t]*=[ \t]*).*$", re.MULTILINE)
_WHEEL = re.compile(r"^[ \t]*wheel[ \t]*=.*\n", re.MULTILINE)
_PATH = re.compile(r"^([ \t]*path[ \t]*=[ \t]*).*$", re.MULTILINE)


def copy_card(card: ModelCard, text: str, folder: Path, *, is_whole: bool = False) -> str:
    """The text of a card for another folder, with the place of the model file adapted.

    Earlier calibrations stay with the card that it is made of, unless the copy `is_whole`. The
    file of a transform is to be copied beside it.
    """
    if not is_whole:
        text = _EARLIER.sub("", text)
    text = _TRANSFORM.sub(lambda found: found[1] + json.dumps(Path(card.transform).name), text)
    if card.file.wheel:
        return text
    path = os.path.relpath(card.folder / card.file.path, folder)
    text = _WHEEL.sub("", text, count=1)
    return _PATH.sub(lambda found: found[1] + json.dumps(path), text, count=1)


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
    read_model(card)
    return _find(card)


def read_model(card: ModelCard) -> bytes:
    """The model's file as it was verified: nobody can replace it between check and use.

    Raises ModelMissing or ModelDamaged.
    """
    return _read_checked(card, _find(card), card.sha256)


def read_transform_file(card: ModelCard) -> bytes:
    """The file of a card's transform as it was verified; raises as `read_model` does."""
    return _read_checked(card, card.folder / card.transform, card.transform_sha256)


def _read_checked(card: ModelCard, path: Path, sha256: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelMissing(
            f"model {card.name}: no file {path}; install or copy it there"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise ModelDamaged(
            f"model {card.name}: {path} has SHA-256 {digest[:12]}…, its card says "
            f"{sha256[:12]}…; fetch the file again"
        )
    return content


def _find(card: ModelCard) -> Path:
    if not card.file.wheel:
        return card.folder / card.file.path
    # The distribution's metadata is enough: its code is never imported.
    try:
        return Path(str(distribution(card.file.wheel).locate_file(card.file.path)))
    except PackageNotFoundError as error:
        raise ModelMissing(
            f"model {card.name} comes with the package {card.file.wheel}, which is not installed: "
            "install it, or give the folder that `sosie model export` made where it was"
        ) from error


def _parse(table: Mapping[str, Any], path: Path) -> ModelCard:
    try:
        card = msgspec.convert(table, ModelCard)
    except msgspec.ValidationError as error:
        key = str(error).rstrip("`").rpartition(".")[2].partition("[")[0]
        choices = f"; choose from {', '.join(_CHOICES[key])}" if key in _CHOICES else ""
        raise ModelCardInvalid(f"{path}: {error}{choices}") from None
    card = replace(
        card,
        folder=path.parent,
        sha256=card.sha256.lower(),
        transform_sha256=card.transform_sha256.lower(),
    )
    for key, wanted in _find_faults(card):
        raise ModelCardInvalid(f"{path}: `{key}` must be {wanted}")
    if card.role in (Role.LIVENESS, Role.QUALITY) and "rewriting" not in table:
        # The usual steps are for embedders: of any other graph nobody has compared them.
        card = replace(card, rewriting=())
    return replace(card, rewriting=tuple(step for step in Step if step in card.rewriting))


def _find_faults(card: ModelCard) -> Iterator[tuple[str, str]]:
    """Keys at fault, each with what it must be."""
    if not _SHA256.fullmatch(card.sha256):
        yield "sha256", "64 hexadecimal digits"
    if card.transform and not _SHA256.fullmatch(card.transform_sha256):
        yield "transform_sha256", "64 hexadecimal digits, those of `transform`"
    yield from _find_faults_of_role(card)
    side = card.input.width_px
    if card.role is not Role.DETECTOR and (side != card.input.height_px or side == 0):
        yield "width_px", "the side of a square crop, equal to `height_px`"


def _find_faults_of_role(card: ModelCard) -> Iterator[tuple[str, str]]:
    """The same for what belongs to one role alone."""
    if card.role is Role.EMBEDDER:
        if card.dimension == 0:
            yield "dimension", "the length of an embedding"
    elif card.transform or card.thresholds is not None:
        yield "role", "embedder, of a card with a transform or thresholds"
    for role, table in ((Role.LIVENESS, card.liveness), (Role.QUALITY, card.quality)):
        if (card.role is role) != (table is not None):
            yield role, f"a table of a card of role {role}, and of no other"
        if table is not None and card.dimension:
            yield "dimension", "left out: a score is no vector"
    if card.liveness is not None and card.liveness.least > card.liveness.live:
        yield "spoof", "at most `live`"
    if card.quality is not None and card.quality.reason.row.about is not About.PHOTOGRAPH:
        yield "reason", "one of a photograph"


FORMAT = 1
"""Of the file; another is refused."""

Vectors = NDArray[np.float32]


@frozen(eq=False)
class Transform:
    """`vector - mean` at unit length, of unit vectors; `mean` float32[d] is shorter than 1."""

    mean: Vectors

    def apply(self, vectors: Vectors) -> Vectors:
        """Unit rows float32[n, d] of unit rows; a row has the same bits in any batch."""
        moved = vectors - self.mean
        lengths = np.linalg.norm(moved, axis=1, keepdims=True)
        unit: Vectors = (moved / np.maximum(lengths, 1e-12)).astype(np.float32)
        return unit

    def undo(self, vectors: Vectors) -> Vectors:
        """The unit rows float32[n, d] that `apply` made these of."""
        mean, rows = self.mean.astype(np.float64), vectors.astype(np.float64)
        # How long a row was before it was scaled to unit length: |mean + length * row| = 1.
        along = rows @ mean
        lengths = np.sqrt(along**2 + 1 - mean @ mean) - along
        before: Vectors = (mean + lengths[:, None] * rows).astype(np.float32)
        return before

    def turned(self, rotation: Vectors) -> Transform:
        """The same transform of rows multiplied by an orthogonal `rotation` float32[d, d]."""
        return Transform((self.mean @ rotation.astype(np.float64)).astype(np.float32))

    def to_bytes(self) -> bytes:
        """The file that `read_transform` reads; the same transform gives the same bytes."""
        file = io.BytesIO()
        np.savez(file, format=np.array(FORMAT), mean=self.mean)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, dimension: int) -> Self:
        """Raises ModelCardInvalid for what is no transform of vectors of this dimension."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as kept:
                version, mean = int(kept["format"]), kept["mean"]
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise ModelCardInvalid("the card's transform is no transform: fit it again") from error
        if version != FORMAT:
            raise ModelCardInvalid(
                f"the card's transform has format {version}, this version reads {FORMAT}: "
                "fit it again"
            )
        is_mean = mean.shape == (dimension,) and mean.dtype == np.float32
        if not is_mean or not np.linalg.norm(mean) < 1:
            raise ModelCardInvalid(
                f"the card's transform is not the mean of unit vectors float32[{dimension}]: "
                "fit it again"
            )
        return cls(mean)


def read_transform(card: ModelCard) -> Transform | None:
    """The transform of a card, its SHA-256 verified; None where it has none.

    Raises ModelMissing, ModelDamaged or ModelCardInvalid.
    """
    if not card.transform:
        return None
    return Transform.from_bytes(read_transform_file(card), card.dimension)


def name_transform(card: ModelCard, file: str, transform: Transform) -> ModelCard:
    """The card with this transform, which is in `file` beside it."""
    sha256 = hashlib.sha256(transform.to_bytes()).hexdigest()
    return structs.replace(card, transform=file, transform_sha256=sha256)


def without_transform(card: ModelCard) -> ModelCard:
    """The card of the model alone."""
    return structs.replace(card, transform="", transform_sha256="")


@frozen
class Conversion:
    """From the templates of the model `before` to those of `after`, by their digests.

    A fused template is converted as if it were of one photograph, which is nearly what fusing
    converted ones gives.
    """

    before: str
    after: str
    transform: Transform
