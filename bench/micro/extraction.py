"""A photograph, step by step, by one thread: ours beside OpenCV's own way."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.data.photographs import open_pairs
from bench.micro.micro_runner import Action, Prepared, Sizes
from bench.suites.extract import DEQUANTISED, DEQUANTISED_STEPS, REWRITTEN
from engine.faces.detector import DetectedFace, DetectorConfig, FaceDetector
from engine.faces.embedder import Embedder, align, arcface_template
from engine.faces.images import ImageLimits, decode
from engine.faces.quality import measure_quality
from engine.models.catalog import builtin_card, locate
from engine.models.session import SessionOptions, open_session

OPENCV, OURS = "OpenCV", "Sosie"

_SIDE_PX = 112
_NEAR_PX = 6.0
_NEAR_LEVEL = 12.0
_NEAR = 1e-5

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A photograph and what the steps made of it."""

    data: bytes
    pixels: Pixels
    detector: FaceDetector
    face: DetectedFace
    crop: Pixels
    embedders: dict[str, Embedder]


def list_steps(sizes: Sizes) -> list[Action]:
    """Each step beside OpenCV where OpenCV has one, embedding beside the graph as it is."""
    steps: tuple[tuple[str, str, Callable[[Subject], Prepared]], ...] = (
        ("Decoding", f"{OPENCV}: imdecode", _decode_by_opencv),
        ("Decoding", OURS, _decode),
        ("Finding the face", f"{OPENCV}: FaceDetectorYN", _detect_by_opencv),
        ("Finding the face", OURS, _detect),
        ("Aligning", f"{OPENCV}: estimateAffinePartial2D", _align_by_opencv),
        ("Aligning", OURS, _align),
        ("Judging quality", OURS, _judge),
        ("Embedding", f"SFace {DEQUANTISED}", partial(_embed, DEQUANTISED)),
        ("Embedding", f"{OURS}: SFace {REWRITTEN}", partial(_embed, REWRITTEN)),
    )
    return [
        Action(
            result=f"{name}, one photograph, by pytest-benchmark",
            who=who,
            prepare=partial(_prepare, sizes, step),
            setup={"threads": 1, "seed": sizes.seed},
        )
        for name, who, step in steps
    ]


@cache
def _open(sizes: Sizes) -> Subject:
    given = Path(sizes.faces) if sizes.faces else None
    with open_pairs(given, 1, sizes.seed) as photographs:
        data = photographs.photographs[0].read_bytes()
    options = SessionOptions(provider="cpu", threads=1)
    with tempfile.TemporaryDirectory(prefix="sosie-bench-") as folder:
        cache_folder = Path(folder)
        detector = FaceDetector(open_session(builtin_card("yunet"), options, cache_folder))
        embedders = {}
        card = builtin_card("sface")
        for name, steps in ((DEQUANTISED, DEQUANTISED_STEPS), (REWRITTEN, card.rewriting)):
            own = replace(card, rewriting=steps)
            embedders[name] = Embedder(open_session(own, options, cache_folder), own)
    pixels = decode(data, ImageLimits()).pixels
    face = detector.detect(pixels)[0]
    crop = align(pixels, face.landmarks_px, _SIDE_PX)
    return Subject(data, pixels, detector, face, crop, embedders)


def _prepare(sizes: Sizes, step: Callable[[Subject], Prepared]) -> Prepared:
    return step(_open(sizes))


def _decode(subject: Subject) -> Prepared:
    limits = ImageLimits()
    return (
        lambda: decode(subject.data, limits).pixels,
        lambda pixels: np.array_equal(pixels, subject.pixels),
    )


def _decode_by_opencv(subject: Subject) -> Prepared:
    """Without a look at the header, an orientation or a limit."""
    data = np.frombuffer(subject.data, np.uint8)

    def read() -> Any:
        return cv2.imdecode(data, cv2.IMREAD_COLOR)

    def is_like(pixels: Any) -> bool:
        difference = np.abs(pixels[:, :, ::-1].astype(int) - subject.pixels)
        return float(difference.mean()) < _NEAR_LEVEL

    return read, is_like


def _detect(subject: Subject) -> Prepared:
    return (
        lambda: subject.detector.detect(subject.pixels),
        lambda faces: _is_near(faces[0].landmarks_px, subject),
    )


def _detect_by_opencv(subject: Subject) -> Prepared:
    config, (height, width) = DetectorConfig(), subject.pixels.shape[:2]
    path = str(locate(builtin_card("yunet")))
    peer = cv2.FaceDetectorYN.create(
        path, "", (width, height), config.min_score, config.max_overlap
    )
    picture = np.ascontiguousarray(subject.pixels[:, :, ::-1])
    return (
        lambda: peer.detect(picture)[1],
        lambda faces: _is_near(faces[0, 4:14].reshape(5, 2), subject),
    )


def _is_near(landmarks_px: Any, subject: Subject) -> bool:
    """Ours are a mean over boxes, OpenCV's those of the best one."""
    return float(np.abs(landmarks_px - subject.face.landmarks_px).max()) < _NEAR_PX


def _align(subject: Subject) -> Prepared:
    return (
        lambda: align(subject.pixels, subject.face.landmarks_px, _SIDE_PX),
        lambda crop: np.array_equal(crop, subject.crop),
    )


def _align_by_opencv(subject: Subject) -> Prepared:
    template = arcface_template(_SIDE_PX)

    def warp() -> Any:
        matrix = cv2.estimateAffinePartial2D(subject.face.landmarks_px, template)[0]
        return cv2.warpAffine(subject.pixels, matrix, (_SIDE_PX, _SIDE_PX))

    # It may leave a landmark out, so the crop is another one.
    return warp, lambda crop: bool(crop.shape == subject.crop.shape)


def _judge(subject: Subject) -> Prepared:
    face = subject.face
    return (
        lambda: measure_quality(subject.crop, face.landmarks_px, face.score),
        lambda quality: bool(quality.inter_eye_px > 0),
    )


def _embed(name: str, subject: Subject) -> Prepared:
    crops = subject.crop[None]
    right = subject.embedders[DEQUANTISED].embed(crops)
    return (
        lambda: subject.embedders[name].embed(crops),
        lambda vectors: bool(np.abs(vectors - right).max() < _NEAR),
    )
