"""Faces embedded a second by batch size, on the CPU and on a CUDA device where one is."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.report import Figure, Result
from bench.timing import interleave, timed
from engine.errors import RuntimeMissing
from engine.models.catalog import builtin_card
from engine.models.session import Session, SessionOptions, open_session

CPU_BATCHES = (1, 4, 16)
CUDA_BATCHES = (1, 16, 64, 256)
UNIT = "faces/s"


def measure_batches(crops: NDArray[np.uint8], rounds: int, cache: Path) -> Result:
    """SFace alone, float32, on crops uint8[n, side, side, 3] repeated to fill each batch."""
    figures = [
        *_measure_provider("cpu", CPU_BATCHES, crops, rounds, cache),
        *_measure_provider("cuda", CUDA_BATCHES, crops, rounds, cache),
    ]
    return Result(
        "Embedding by batch size", {"rounds": rounds, "threads_of_cpu": 1}, tuple(figures)
    )


def _measure_provider(
    provider: str, batches: tuple[int, ...], crops: NDArray[np.uint8], rounds: int, cache: Path
) -> list[Figure]:
    try:
        session = open_session(builtin_card("sface"), SessionOptions(provider=provider), cache)
    except RuntimeMissing as error:
        return [Figure.skip(provider, UNIT, str(error))]
    faces = crops.transpose(0, 3, 1, 2).astype(np.float32)
    actions = {f"{provider}, {size}": timed(_embed(session, faces, size)) for size in batches}
    seconds = interleave(actions, rounds)
    rates = {
        name: size / values for (name, values), size in zip(seconds.items(), batches, strict=True)
    }
    first = float(np.median(next(iter(rates.values()))))
    return [
        Figure.of(name, UNIT, values, float(np.median(values)) / first)
        for name, values in rates.items()
    ]


def _embed(
    session: Session, faces: NDArray[np.float32], size: int
) -> partial[list[NDArray[np.float32]]]:
    batch = np.ascontiguousarray(faces[np.arange(size) % len(faces)])
    return partial(session.run, batch)
