"""Alignment of faces to crops, and what models make of crops: unit vectors, or a score."""

from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np

from engine.errors import ModelCardInvalid
from engine.models.catalog import (
    InputContract,
    LivenessContract,
    ModelCard,
    QualityContract,
    Role,
    read_transform,
)
from engine.models.onnx_sessions import Session, SessionOptions, open_session
from indexes.base import Doubles, Flags, Floats, Octets

Pixels = Octets
Points = Floats

# Deng et al., "ArcFace" (2019), on 112x112: the eyes (left in the picture first), the tip of the
# nose, the corners of the mouth.
_ARCFACE_112 = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ],
    dtype=np.float64,
)


def arcface_template(side_px: int) -> Points:
    """The ArcFace landmarks float32[5, 2] in a square crop of this side."""
    return (_ARCFACE_112 * (side_px / 112)).astype(np.float32)


def estimate_similarity(source: Points, target: Points) -> Doubles:
    """Matrix float64[2, 3] of the least-squares rotation, uniform scale and shift.

    Umeyama (1991), in its closed form for the plane, with points as complex numbers.
    """
    z = source.astype(np.float64) @ [1, 1j]
    w = target.astype(np.float64) @ [1, 1j]
    centred = z - z.mean()
    # Points that all coincide have no direction: they get the smallest scale, not a NaN.
    rotation = np.vdot(centred, w - w.mean()) / max(np.vdot(centred, centred).real, 1e-12)
    shift = w.mean() - rotation * z.mean()
    return np.array(
        [[rotation.real, -rotation.imag, shift.real], [rotation.imag, rotation.real, shift.imag]]
    )


def measure_scale(landmarks_px: Points, side_px: int) -> float:
    """Pixels of its crop for a pixel of the picture."""
    matrix = estimate_similarity(landmarks_px, arcface_template(side_px))
    return float(np.hypot(matrix[0, 0], matrix[1, 0]))


def align(
    pixels: Pixels, landmarks_px: Points, side_px: int, template: Points | None = None
) -> Pixels:
    """Crop uint8[side, side, 3] with `landmarks_px` float32[5, 2] on the template, or ArcFace's.

    What lies outside the picture is black.
    """
    template = arcface_template(side_px) if template is None else template
    matrix = estimate_similarity(landmarks_px, template)
    shrinking = int(1 / max(np.hypot(matrix[0, 0], matrix[1, 0]), 1e-6))
    if shrinking >= 2:
        # Linear interpolation would read only 4 of the many pixels that make one, and keep their
        # noise: on enlarged LFW photographs with noise of 25 the mated score would fall from
        # 0.69 to 0.60.
        # The visible part, block x block pixels averaged to one, and its corner (x, y).
        height, width = pixels.shape[:2]
        inverse = cv2.invertAffineTransform(matrix)
        corners = np.array([[0, 0, 1], [side_px, 0, 1], [0, side_px, 1], [side_px, side_px, 1]])
        visible = corners @ inverse.T
        left, top = np.clip(
            np.floor(visible.min(axis=0)).astype(int) - shrinking, 0, (width - 1, height - 1)
        )
        right, bottom = np.clip(
            np.ceil(visible.max(axis=0)).astype(int) + shrinking, 0, (width, height)
        )
        columns, rows = max(1, (right - left) // shrinking), max(1, (bottom - top) // shrinking)
        part = pixels[top : top + rows * shrinking, left : left + columns * shrinking]
        averaged = cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA)
        pixels, corner = np.asarray(averaged, np.uint8), np.array([left, top], np.float32)
        landmarks_px = (landmarks_px - corner + 0.5) / np.float32(shrinking) - np.float32(0.5)
        matrix = estimate_similarity(landmarks_px, template)
    crop = cv2.warpAffine(pixels, matrix, (side_px, side_px), flags=cv2.INTER_LINEAR)
    return np.asarray(crop, dtype=np.uint8)


# Enough to amortise one reading of the dense layer's weights.
_CPU_BATCH = 16
_CALL_COST = 20
"""What a call of an accelerator costs besides its rows, in rows: supposed, 0.2 ms and 10 µs."""


def plan_batches(count: int, sizes: Sequence[int]) -> list[int]:
    """Batches of these sizes, largest first, that hold `count` crops and are soonest done."""
    largest = max(sizes)
    whole, left = divmod(count, largest)
    batches = [largest] * whole
    while left > 0:
        # The smallest that holds what is left, unless a smaller one first makes it cheaper.
        around = min(size for size in sizes if size >= left)
        below = [size for size in sizes if size <= left]
        inside = max(below) if below else around
        calls = -(-left // inside)
        if calls * (inside + _CALL_COST) < around + _CALL_COST:
            batches.append(inside)
            left -= inside
        else:
            batches.append(around)
            left = 0
    return batches


class CropEmbedder(Protocol):
    """Maps aligned crops to vectors float32[dim], locally or remotely; thread-safe.

    With `flip`, each vector is averaged with that of the mirrored crop. `side_px`: of the square
    crop that the model expects. `prefers_large_batches`: one call with many crops is quicker than
    calls by several threads.
    """

    @property
    def card(self) -> ModelCard: ...

    @property
    def flip(self) -> bool: ...

    @property
    def dim(self) -> int: ...

    @property
    def side_px(self) -> int: ...

    @property
    def prefers_large_batches(self) -> bool: ...

    def embed(self, crops: Octets) -> Floats:
        """Crops uint8[n, side, side, 3] (RGB) to float32[n, d], as the model gives them.

        Their directions are the faces'; their lengths tell how clear these are.
        """
        ...


def _require_free_batch(session: Session, card: ModelCard) -> None:
    if session.fixed_batch not in (None, 1):
        raise ModelCardInvalid(
            f"model {card.name} takes batches of {session.fixed_batch} only; "
            "export it with a free batch dimension"
        )


def _run(session: Session, card: ModelCard, crops: Octets, output: int = 0) -> list[Floats]:
    """One output for crops uint8[n, side, side, 3] (RGB), batch by batch."""
    step = session.fixed_batch or _CPU_BATCH
    return [
        session.run(prepare(card.input, crops[start : start + step]))[output]
        for start in range(0, len(crops), step)
    ]


class Embedder:
    """Runs an embedding model by its card; thread-safe."""

    def __init__(self, session: Session, card: ModelCard, flip: bool = False) -> None:
        if card.role is not Role.EMBEDDER:
            raise ModelCardInvalid(f"model {card.name} is a {card.role}; choose an embedder")
        _require_free_batch(session, card)
        self.card = card
        self.flip = flip
        self.dim = card.dimension
        self.side_px = card.input.width_px
        self.prefers_large_batches = session.prefers_large_batches
        self.session = session
        self._transform = read_transform(card)
        for size in session.batch_sizes:
            # The first call of a session plans it, and may find that the device is unfit.
            session.run(np.zeros((size, self.side_px, self.side_px, 3), np.uint8))

    def embed(self, crops: Octets) -> Floats:
        """Crops uint8[n, side, side, 3] (RGB) to float32[n, d], as the model gives them.

        With `flip`, a row has the direction of the sum over the crop and its mirror image, each of
        unit length, and the mean of their lengths. The card's transform comes last, and keeps the
        lengths.
        """
        if len(crops) == 0:
            return np.zeros((0, self.dim), dtype=np.float32)
        vectors = self._embed_plain(crops)
        if self.flip:
            mirrored = self._embed_plain(crops[:, :, ::-1])
            lengths = (measure_lengths(vectors) + measure_lengths(mirrored)) / np.float32(2)
            unit = normalise(normalise(vectors) + normalise(mirrored))
            vectors = np.asarray(unit * lengths[:, None], dtype=np.float32)
        if self._transform is None:
            return vectors
        lengths = measure_lengths(vectors)
        moved = self._transform.apply(normalise(vectors))
        return np.asarray(moved * lengths[:, None], dtype=np.float32)

    def _embed_plain(self, crops: Octets) -> Floats:
        sizes = self.session.batch_sizes
        if sizes:
            parts = self._embed_padded(crops, plan_batches(len(crops), sizes))
        else:
            parts = _run(self.session, self.card, crops)
        vectors = np.concatenate(parts).reshape(len(crops), -1)
        if vectors.shape[1] != self.dim:
            raise ModelCardInvalid(
                f"model {self.card.name} gives {vectors.shape[1]} numbers, "
                f"its card says dimension {self.dim}; correct the card"
            )
        return vectors.astype(np.float32, copy=False)

    def _embed_padded(self, crops: Octets, batches: Sequence[int]) -> list[Floats]:
        """Vectors of the crops, batch by batch; the last one is filled up with black."""
        parts, start = [], 0
        for size in batches:
            part = crops[start : start + size]
            filled = np.zeros((size, *crops.shape[1:]), np.uint8)
            filled[: len(part)] = part
            parts.append(self.session.run(filled)[0][: len(part)])
            start += size
        return parts


class CropScorer:
    """Runs a model that gives a few numbers for a crop, by its card, on the CPU; thread-safe."""

    def __init__(self, card: ModelCard, contract: LivenessContract | QualityContract) -> None:
        """Raises what opening a session does, and `ModelCardInvalid` where, for black crops, the
        card does not fit its graph."""
        session = open_session(card, SessionOptions(provider="cpu"))
        self.card = card
        self.side_px = card.input.width_px
        self._index, self._session = contract.index, session
        names = session.output_names
        if contract.output and contract.output not in names:
            raise ModelCardInvalid(
                f"model {card.name} has no output `output` of its card: use {', '.join(names)}"
            )
        _require_free_batch(session, card)
        self._output = names.index(contract.output) if contract.output else 0
        # Two: with one a graph that takes its batch for one face would go unseen.
        self._read(np.zeros((2, self.side_px, self.side_px, 3), np.uint8))

    def _read(self, crops: Octets) -> Doubles:
        """Crops uint8[n, side, side, 3] (RGB) to the numbers float64[n, k] of the output."""
        parts = _run(self._session, self.card, crops, self._output)
        found = np.concatenate([np.atleast_1d(part) for part in parts])
        if len(found) != len(crops):
            raise ModelCardInvalid(
                f"model {self.card.name} gives an output of shape {list(found.shape)} for "
                f"{len(crops)} faces; export it with a row for each"
            )
        values = found.astype(np.float64).reshape(len(crops), -1)
        if self._index >= (count := values.shape[1]):
            raise ModelCardInvalid(
                f"model {self.card.name} gives {count} numbers for a face, its card takes number "
                f"{self._index}; correct `index`"
            )
        return values


def prepare(contract: InputContract, crops: Octets) -> Floats:
    """Prepares crops uint8[n, side, side, 3] (RGB) as a model of this contract takes them."""
    values = (crops if contract.channels == "rgb" else crops[..., ::-1]).astype(np.float32)
    if any(contract.mean) or contract.scale != (1.0, 1.0, 1.0):
        values -= np.array(contract.mean, dtype=np.float32)
        values *= np.array(contract.scale, dtype=np.float32)
    if contract.layout == "nchw":
        values = values.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(values)


def measure_lengths(vectors: Floats) -> Floats:
    """The lengths float32[n] of rows float32[n, d]."""
    lengths: Floats = np.linalg.norm(vectors, axis=1)
    return lengths


def normalise(vectors: Floats) -> Floats:
    """Rows float32[n, d] of unit length; zero stays zero, and what is infinite becomes NaN."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        unit: Floats = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return unit


_UNIT_TOLERANCE = 1e-3


def are_unit(vectors: Floats) -> Flags:
    """For each row whether it is finite and of unit length, as far as float32 can be."""
    lengths = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    close: Flags = np.abs(lengths - 1) < _UNIT_TOLERANCE  # False for NaN
    return close
