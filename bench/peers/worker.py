"""Matches pairs of photographs on command, in a process and an interpreter of its own.

Run by execnet in any Python that has the peer's packages; it imports nothing of `bench`. Receives
the setup and then for each round how many pairs; sends the version, and then seconds and scores.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

Pairs = Sequence[tuple[str, str]]
Setup = dict[str, Any]
Match = Callable[[Pairs], list[float | None]]
"""Matches the pairs and gives their scores."""

NOISELESS = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}


def open_sosie(setup: Setup) -> tuple[Match, str]:
    """Sosie's own extractor on this processor, with the threads that the setup names."""
    from engine.faces.extractor import ExtractorConfig, open_extractor
    from engine.models.onnx_sessions import SessionOptions, runtime_version

    extractor = open_extractor(
        config=ExtractorConfig(threads=setup["threads"]), session=SessionOptions(provider="cpu")
    )

    def match(pairs: Pairs) -> list[float | None]:
        found = extractor.extract([Path(path).read_bytes() for pair in pairs for path in pair])
        vectors = [getattr(one, "vector", None) for one in found]
        return [
            None if a is None or b is None else float(a @ b)
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]

    return match, f"onnxruntime {runtime_version()}"


def open_deepface(setup: Setup) -> tuple[Match, str]:
    """`DeepFace.verify` with SFace and YuNet, as its documentation calls it."""
    # It downloads its weights to this folder, unless they lie there: they do.
    os.environ["DEEPFACE_HOME"] = setup["home"]
    from deepface import DeepFace

    def match(pairs: Pairs) -> list[float | None]:
        scores: list[float | None] = []
        for left, right in pairs:
            found = DeepFace.verify(
                left, right, model_name="SFace", detector_backend="yunet", enforce_detection=False
            )
            scores.append(1 - float(found["distance"]))
        return scores

    return match, f"deepface {version('deepface')}"


PEERS = {"Sosie, cpu": open_sosie, "deepface": open_deepface}


def serve(channel: Any) -> None:
    """Answers rounds until the channel is closed."""
    # What libraries print is nobody's.
    silence = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(silence, descriptor)
    os.environ.update(NOISELESS)
    setup = channel.receive()
    match, runtime = PEERS[setup["peer"]](setup)
    match(setup["pairs"][:1])
    channel.send(runtime)
    for count in channel:
        start = time.perf_counter()
        scores = match(setup["pairs"][:count])
        channel.send((time.perf_counter() - start, scores))


if __name__ == "__channelexec__":
    serve(globals()["channel"])
