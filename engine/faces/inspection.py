"""Examination of an embedder before its card is written: its graph, its outputs, its speed."""

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from statistics import median
from typing import Literal

import msgspec
import numpy as np
from msgspec import structs

from engine.errors import ModelCardInvalid, ModelDamaged, ModelError, ModelMissing, file_errors
from engine.faces.embedder import Embedder, measure_lengths, normalise, prepare
from engine.models.catalog import (
    CARDS_FOLDER,
    DEFAULT_STEPS,
    FileSource,
    InputContract,
    ModelCard,
    Role,
    Step,
)
from engine.models.onnx_sessions import Session, SessionOptions, open_session
from indexes.base import Floats, Ints, Octets
from schema import frozen
from schema.decoding import StrictValue

Crops = Octets


class KnownContract(StrictValue):
    """The input contract of a family of public embedders, and whose it is; no weights. `sha256` are
    those of files that are known to be its own, under whatever name."""

    title: str
    source: str
    licence: str
    dimension: int
    input: InputContract
    files: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()


@cache
def known_contracts() -> Mapping[str, KnownContract]:
    """The families in `contracts.toml`, by name."""
    text = (CARDS_FOLDER.parent / "contracts.toml").read_bytes()
    return msgspec.toml.decode(text, type=dict[str, KnownContract])


def guess_contract(file: str, dimension: int, sha256: str = "") -> str | None:
    """The family that a file of this digest is of, or one of this name usually; None where neither
    says anything.

    `dimension` 0: not known yet.
    """
    contracts = known_contracts()
    for name, one in contracts.items():
        if sha256 in one.sha256:
            return name
    for name, one in contracts.items():
        is_named = any(fnmatch(file.lower(), pattern) for pattern in one.files)
        if is_named and dimension in (0, one.dimension):
            return name
    return None


@frozen
class GraphShape:
    """Shape of a graph's input and output: 0 for a side or a dimension that it leaves open."""

    side_px: int
    layout: Literal["nchw", "nhwc"]
    dimension: int
    outputs: tuple[str, ...]


def read_graph(path: Path) -> tuple[GraphShape, str]:
    """Shapes of an ONNX file's input and outputs, and the file's SHA-256.

    Raises ModelMissing, ModelDamaged, and ModelCardInvalid for what is no embedder of square
    pictures of three channels.
    """
    import onnx  # noqa: PLC0415 - takes a while to import

    from engine.models.rewriting import apply  # noqa: PLC0415 - it imports onnx

    with file_errors(f"cannot read {path}", ModelMissing):
        content = path.read_bytes()
    try:
        model = onnx.load_from_string(content)
        if any(one.data_location == onnx.TensorProto.EXTERNAL for one in model.graph.initializer):
            raise ModelCardInvalid(
                f"{path.name} keeps its weights in another file, which no digest would cover: save "
                "it as one file"
            )
        # Weights that are computed look like inputs.
        graph = apply(model, [Step.FOLD_WEIGHTS]).graph
    except ModelCardInvalid:
        raise
    except Exception as error:  # protobuf's DecodeError has no common base with ours
        raise ModelDamaged(f"{path} is no ONNX file: fetch it again") from error
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [one for one in graph.input if one.name not in constants]
    if len(inputs) != 1 or not graph.output:
        raise ModelCardInvalid(
            f"{path.name} has {len(inputs)} inputs and {len(graph.output)} outputs: "
            "an embedder takes one and gives its vector first"
        )
    side_px, layout = _read_side(path, _lengths(inputs[0]))
    lengths = _lengths(graph.output[0])
    dimension = int(np.prod(lengths[1:])) if len(lengths) > 1 and all(lengths[1:]) else 0
    names = tuple(one.name for one in graph.output)
    return GraphShape(side_px, layout, dimension, names), hashlib.sha256(content).hexdigest()


def _lengths(value: object) -> list[int]:
    """The lengths of a tensor's dimensions, 0 where one is open."""
    shape = value.type.tensor_type.shape  # type: ignore[attr-defined]
    return [int(one.dim_value) for one in shape.dim]


def _read_side(path: Path, lengths: Sequence[int]) -> tuple[int, Literal["nchw", "nhwc"]]:
    layouts: tuple[Literal["nchw", "nhwc"], ...] = ("nchw", "nhwc")
    for layout, channel, sides in zip(layouts, (1, 3), (lengths[2:4], lengths[1:3]), strict=True):
        if len(lengths) == 4 and lengths[channel] == 3 and len(set(sides)) == 1:
            return sides[0], layout
    raise ModelCardInvalid(
        f"{path.name} takes {' x '.join(map(str, lengths)) or 'nothing'}: an embedder takes square "
        "pictures of three channels, [n, 3, side, side] or [n, side, side, 3]"
    )


CHECK_CROPS = 16
SAME, BATCHED = 0.9999, 0.99999
"""Least cosine of a vector to that of the graph as it came, and to that of its crop alone."""
_LADDER: tuple[tuple[Step, ...], ...] = (
    DEFAULT_STEPS,
    tuple(step for step in DEFAULT_STEPS if step is not Step.SCAN_BATCH),
    (Step.FOLD_WEIGHTS, Step.FREE_BATCH),
    (Step.FOLD_WEIGHTS,),
)
"""From the quickest rewriting to hardly any: an export may have its batch in its nodes."""


def make_crops(side_px: int) -> Crops:
    """Pictures uint8[CHECK_CROPS, side, side, 3] of soft noise, where no faces are given."""
    import cv2  # noqa: PLC0415 - only where no faces are given

    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (CHECK_CROPS, 8, 8, 3), dtype=np.uint8)
    size = (side_px, side_px)
    return np.stack([cv2.resize(one, size, interpolation=cv2.INTER_CUBIC) for one in small])


@frozen
class Examined:
    """A card that was tried: its model's outputs are finite, differ, and need no company.

    `alone_ms` and `batch_ms`: of one face, alone and in a batch of CHECK_CROPS, on one thread.
    """

    card: ModelCard
    session: Session
    alone_ms: float
    batch_ms: float


def describe_file(
    path: Path, sha256: str, contract: InputContract, dimension: int, name: str
) -> ModelCard:
    """The card, in memory, of a model file that has none yet."""
    return ModelCard(
        name=name,
        role=Role.EMBEDDER,
        source="",
        licence="",
        sha256=sha256,
        file=FileSource(path.name),
        input=contract,
        dimension=dimension,
        folder=path.parent,
    )


def examine(card: ModelCard, crops: Crops, options: SessionOptions | None = None) -> Examined:
    """Tries an embedder on crops uint8[n, side, side, 3], two at least, and chooses its rewriting.

    A `dimension` of 0 becomes what the model gives. Raises ModelCardInvalid, with what is wrong:
    numbers that are not finite, one vector for all faces, or one that depends on the batch.
    """
    options = options or SessionOptions(provider="cpu")
    expected = _embed_plain(card, crops, options)
    card = structs.replace(card, dimension=expected.shape[1])
    lengths = np.linalg.norm(expected.astype(np.float64), axis=1)
    name = card.file.path
    if expected.shape[1] < 2:
        raise ModelCardInvalid(f"{name} gives one number for a face: that is no embedder")
    if not np.isfinite(expected).all():
        raise ModelCardInvalid(
            f"{name} gives numbers that are not finite: check its [input], or export it again"
        )
    if not (np.abs(lengths - 1) < 1e-3).all():
        raise ModelCardInvalid(f"{name} gives zeros, which have no direction: export it again")
    if float((expected @ expected.T).min()) > SAME:
        raise ModelCardInvalid(
            f"{name} gives one vector for all faces: its [input] is wrong, or it is no embedder"
        )
    reasons: list[str] = []
    for steps in _LADDER:
        tried = structs.replace(card, rewriting=steps)
        try:
            session = open_session(tried, options)
            embedder = Embedder(session, tried)
            fault = _find_difference(embedder, crops, expected)
        except ModelError as error:
            fault = str(error)
        if not fault:
            return Examined(tried, session, *_measure_speed(embedder, crops))
        reasons.append(fault)
    raise ModelCardInvalid(f"{card.file.path}: {reasons[-1]}")


def _embed_plain(card: ModelCard, crops: Crops, options: SessionOptions) -> Floats:
    """The vectors of the graph as it came, each crop by itself."""
    card = structs.replace(card, rewriting=_LADDER[-1])
    session = open_session(card, options)
    if session.fixed_batch not in (None, 1):
        # Else it takes no single crop.
        card = structs.replace(card, rewriting=_LADDER[-2])
        session = open_session(card, options)
    # How long a vector is the graph may leave open.
    first = session.run(prepare(card.input, crops[:1]))[0]
    card = structs.replace(card, dimension=int(np.asarray(first).size))
    embedder = Embedder(session, card)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.concatenate([_embed(embedder, one[None]) for one in crops])


def _embed(embedder: Embedder, crops: Crops) -> Floats:
    return normalise(embedder.embed(crops))


def _find_difference(embedder: Embedder, crops: Crops, expected: Floats) -> str:
    """The fault of a rewritten graph's vectors, or ""."""
    together = _embed(embedder, crops)
    if not float((together * expected).sum(axis=1).min()) >= SAME:
        return (
            "a face's vector changes with the faces beside it: export the model with a free batch "
            "dimension, and without layers that look across it"
        )
    alone = np.concatenate([_embed(embedder, one[None]) for one in crops[:4]])
    if not float((together[:4] * alone).sum(axis=1).min()) >= BATCHED:
        return "a face's vector changes with the number of faces beside it: export the model again"
    return ""


def _measure_speed(embedder: Embedder, crops: Crops) -> tuple[float, float]:
    def measure(part: Crops, times: int) -> float:
        spent = []
        for _ in range(times):
            start = time.perf_counter()
            embedder.embed(part)
            spent.append((time.perf_counter() - start) * 1e3 / len(part))
        return median(spent)

    return measure(crops[:1], 5), measure(crops[:CHECK_CROPS], 3)


PLAINLY = 1.1
"""So many times better another contract separates people before it is told."""


def find_better_contract(examined: Examined, crops: Crops, people: Ints) -> str | None:
    """Tells of a contract under which these faces separate people plainly better; None where there
    is none.

    A wrong order of the channels or a wrong scale fails nowhere: it only makes a model worse. The
    measure is how many standard deviations lie between mated and non-mated scores.
    """
    own = examined.card.input
    measured = {}
    known = [
        structs.replace(one.input, channels=channels)
        for one in known_contracts().values()
        for channels in ("rgb", "bgr")
    ]
    for form, contract in {_form(one): one for one in (*known, own)}.items():
        wanted = structs.replace(
            contract, layout=own.layout, width_px=own.width_px, height_px=own.height_px
        )
        model = Embedder(examined.session, structs.replace(examined.card, input=wanted))
        vectors = _embed(model, crops)
        scores = vectors @ vectors.T
        above = np.triu(np.ones_like(scores, dtype=bool), 1)
        is_mated = people[:, None] == people[None, :]
        mated, other = scores[above & is_mated], scores[above & ~is_mated]
        spread = float(np.sqrt((mated.var() + other.var()) / 2))
        measured[form] = float(mated.mean() - other.mean()) / max(spread, 1e-9)
    best, given = max(measured, key=lambda form: measured[form]), measured[_form(own)]
    if measured[best] <= given * PLAINLY:
        return None
    return (
        f"the input contract looks wrong: with {best} these photographs of a person lie "
        f"{measured[best]:.1f} standard deviations above strangers, with the one given {given:.1f}"
    )


def _form(contract: InputContract) -> str:
    return f"channels {contract.channels}, mean {contract.mean[0]:g}, scale {contract.scale[0]:.6g}"


def measure_usual_length(found: Examined, crops: Crops) -> float:
    """The median length of the model's vectors of these faces; 0 of a model that gives them all one
    length, which tells nothing."""
    lengths = measure_lengths(Embedder(found.session, found.card).embed(crops))
    return round(float(np.median(lengths)), 3) if float(np.ptp(lengths)) > UNIT_SPREAD else 0.0


UNIT_SPREAD = 1e-3


def write_card(
    target: Path,
    file: Path,
    found: Examined,
    family: str | None,
    source: str | None,
    licence: str | None,
) -> str:
    """The text of a card at `target`, of a file that was examined under a family's contract."""
    card, contract = found.card, found.card.input
    usual_length = f"usual_length = {card.usual_length}\n" if card.usual_length else ""
    return f"""\
# Checked by `sosie model add`; every field is in docs/embedders.md.
name = {json.dumps(card.name)}
role = "embedder"
source = {json.dumps(source or "not told")}
licence = {json.dumps(licence or "not told")}
sha256 = "{card.sha256}"
dimension = {card.dimension}
{usual_length}alignment = "{card.alignment}"
rewriting = {json.dumps([step.value for step in card.rewriting])}

[file]
path = {json.dumps(os.path.relpath(file.absolute(), target.absolute().parent))}

# The input contract: {f"that of {family}" if family else "as it was told"}.
[input]
width_px = {contract.width_px}
height_px = {contract.height_px}
channels = "{contract.channels}"
layout = "{contract.layout}"
mean = {list(contract.mean)!r}
scale = {list(contract.scale)!r}
"""


_BAD = re.compile(r"[^a-z0-9]+")


def name_model(path: Path) -> str:
    """A card's name for a model file."""
    return _BAD.sub("-", path.stem.lower()).strip("-") or "embedder"
