"""Pairs of photographs a second: Sosie, Sosie on OpenVINO, and the usual alternatives."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bench.checks import Measured, Skipped
from bench.contenders import Contender, Round, Unavailable
from bench.graphs import DEQUANTISED_STEPS
from bench.photographs import PhotographPairs
from bench.report import Figure, Result, Setup
from bench.timing import Seconds, Timed, interleave, speedup
from engine.errors import RequestError
from engine.models.catalog import builtin_card, locate
from engine.models.rewritten import load_rewritten
from engine.models.session import available_providers

SOSIE = "Sosie, cpu"
OPENVINO = "Sosie, OpenVINO bfloat16"
OPENVINO_WIDE = "Sosie, OpenVINO float32"
DEEPFACE, FACE_RECOGNITION = "deepface", "face_recognition"


@dataclass(frozen=True, slots=True)
class Interpreters:
    """Pythons that have what this one lacks, or None; each keeps its packages to itself."""

    openvino: Path | None = None
    deepface: Path | None = None
    face_recognition: Path | None = None


@dataclass(frozen=True, slots=True)
class PairSizes:
    """`pairs` a round of Sosie's, `peer_pairs` a round of the slower ones, `single_pairs` alone."""

    pairs: int
    peer_pairs: int
    single_pairs: int
    rounds: int
    threads: int


@dataclass(frozen=True, slots=True)
class _Entrant:
    """A contender before it runs: where, and with what."""

    name: str
    python: Path
    kind: str
    setup: Mapping[str, Any]


def compare_pairs(
    photographs: PhotographPairs, sizes: PairSizes, interpreters: Interpreters, cache: Path
) -> tuple[tuple[Result, ...], dict[str, Measured]]:
    """Every contender that can run here, interleaved; the others are skipped and say why."""
    entrants, absent = _list_entrants(sizes, interpreters, cache)
    with ExitStack() as stack:
        running = _start_all(entrants, photographs, sizes, stack, absent)
        last: dict[str, Round] = {}
        actions = {name: _match_all(name, one, sizes, last) for name, one in running.items()}
        seconds = interleave(actions, sizes.rounds)
        alone = interleave(
            {name: _match_singly(one, sizes) for name, one in running.items()}, sizes.rounds
        )
        setup: Setup = {
            "photographs": photographs.source,
            "pairs": sizes.pairs,
            "peer_pairs": sizes.peer_pairs,
            "rounds": sizes.rounds,
            "threads": sizes.threads,
        }
        setup |= {name: contender.runtime for name, contender in running.items()}
    singly = setup | {"pairs": sizes.single_pairs, "peer_pairs": sizes.single_pairs}
    results = (
        Result("Pairs of photographs", setup, tuple(_list_rates(seconds, absent))),
        Result("One pair at a time", singly, tuple(_list_latencies(alone))),
        *_list_stages(last, sizes, photographs.source),
        _list_agreement(last, sizes, photographs.source),
    )
    return results, _measure(seconds, absent)


def _start_all(
    entrants: Sequence[_Entrant],
    photographs: PhotographPairs,
    sizes: PairSizes,
    stack: ExitStack,
    absent: dict[str, str],
) -> dict[str, Contender]:
    """Those that can run, until the stack is closed; `absent` is told why others cannot."""
    running: dict[str, Contender] = {}
    for entrant in entrants:
        try:
            contender = stack.enter_context(
                Contender(entrant.python, entrant.kind, photographs, **entrant.setup)
            )
            # Whoever fails on one of the photographs shall do so before the clocks run.
            contender.match(_count_pairs(entrant.name, sizes))
            running[entrant.name] = contender
        except Unavailable as error:
            absent[entrant.name] = str(error)
    if SOSIE in absent:
        raise RequestError(f"Sosie itself does not run: {absent[SOSIE]}")
    return running


def _measure(seconds: Mapping[str, Seconds], absent: Mapping[str, str]) -> dict[str, Measured]:
    """The figures that `targets.toml` names."""
    measured: dict[str, Measured] = {"pairs_per_second": float(np.median(1 / seconds[SOSIE]))}
    for figure, slow, fast, wanted in (
        ("openvino_speedup", SOSIE, OPENVINO, OPENVINO),
        ("deepface_speedup", DEEPFACE, SOSIE, DEEPFACE),
        ("face_recognition_speedup", FACE_RECOGNITION, SOSIE, FACE_RECOGNITION),
    ):
        measured[figure] = (
            Skipped(absent[wanted]) if wanted in absent else speedup(seconds[slow], seconds[fast])
        )
    return measured


def _list_entrants(
    sizes: PairSizes, interpreters: Interpreters, cache: Path
) -> tuple[list[_Entrant], dict[str, str]]:
    """Who shall run, and why the others can't."""
    here = Path(sys.executable)
    common = {"cache": str(cache), "threads": sizes.threads}
    cpu = common | {"provider": "cpu", "precision": "float32"}
    entrants = [_Entrant(SOSIE, here, "sosie", cpu)]
    absent: dict[str, str] = {}
    openvino = interpreters.openvino or (here if "openvino" in available_providers() else None)
    for name, precision in ((OPENVINO_WIDE, "float32"), (OPENVINO, "bfloat16")):
        if openvino is None:
            absent[name] = "no onnxruntime-openvino here: name a Python with it: --openvino-python"
        else:
            setup = common | {"provider": "openvino", "precision": precision}
            entrants.append(_Entrant(name, openvino, "sosie", setup))
    for name, given, option in (
        (DEEPFACE, interpreters.deepface, "--deepface-python"),
        (FACE_RECOGNITION, interpreters.face_recognition, "--face-recognition-python"),
    ):
        python = given or (here if find_spec(name) else None)
        if python is None:
            absent[name] = f"no {name} here: name a Python with it: {option}"
        else:
            home = _lay_out_weights(cache / "deepface") if name == DEEPFACE else cache
            entrants.append(_Entrant(name, python, name, {"home": str(home)}))
    return entrants, absent


def _lay_out_weights(home: Path) -> Path:
    """The folder where deepface keeps its downloads, with our two models under its names.

    Its ONNX Runtime refuses our SFace file as it is, so it gets the same weights dequantised.
    """
    weights = home / ".deepface" / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    sface = load_rewritten(builtin_card("sface"), DEQUANTISED_STEPS, home)
    (weights / "face_recognition_sface_2021dec.onnx").write_bytes(sface)
    shutil.copyfile(locate(builtin_card("yunet")), weights / "face_detection_yunet_2023mar.onnx")
    return home


def _match_all(name: str, contender: Contender, sizes: PairSizes, last: dict[str, Round]) -> Timed:
    """Seconds a pair of a whole round, which is kept in `last`."""
    count = _count_pairs(name, sizes)

    def perform() -> float:
        last[name] = contender.match(count)
        return last[name].seconds / count

    return perform


def _count_pairs(name: str, sizes: PairSizes) -> int:
    """Pairs a round."""
    return sizes.peer_pairs if name in (DEEPFACE, FACE_RECOGNITION) else sizes.pairs


def _match_singly(contender: Contender, sizes: PairSizes) -> Timed:
    """Mean seconds of a pair that is matched before the next one is at hand."""
    count = sizes.single_pairs
    return lambda: contender.match(count, singly=True).seconds / count


def _list_rates(seconds: Mapping[str, Seconds], absent: Mapping[str, str]) -> Iterator[Figure]:
    for name, values in seconds.items():
        yield Figure.of(name, "pairs/s", 1 / values, speedup(seconds[SOSIE], values))
    for name, reason in absent.items():
        yield Figure.skip(name, "pairs/s", reason)


def _list_latencies(seconds: Mapping[str, Seconds]) -> Iterator[Figure]:
    for name, values in seconds.items():
        yield Figure.of(name, "ms/pair", values * 1e3, speedup(seconds[SOSIE], values))


def _list_stages(last: Mapping[str, Round], sizes: PairSizes, source: str) -> Iterator[Result]:
    for name, one in last.items():
        if one.stages:
            figures = tuple(
                Figure(stage.removesuffix("_ms"), "ms/photograph", value)
                for stage, value in one.stages.items()
            )
            setup: Setup = {
                "photographs": source,
                "pairs": sizes.pairs,
                "threads": sizes.threads,
            }
            yield Result(f"Stages of {name}", setup, figures)


def _list_agreement(last: Mapping[str, Round], sizes: PairSizes, source: str) -> Result:
    """Who found faces, and how far the same model's scores lie from ours: speed must not lie."""
    ours = last[SOSIE].scores
    figures = []
    for name, one in last.items():
        compared = [
            (mine, theirs)
            for mine, theirs in zip(ours, one.scores, strict=False)
            if mine is not None and theirs is not None
        ]
        found = sum(score is not None for score in one.scores) / len(one.scores)
        figures.append(Figure(f"{name}: both faces found", "share of pairs", found))
        if name in (OPENVINO, OPENVINO_WIDE) and compared:
            difference = max(abs(mine - theirs) for mine, theirs in compared)
            figures.append(Figure(f"{name}: scores", "largest difference from cpu", difference))
    setup: Setup = {"photographs": source, "pairs": sizes.pairs, "threads": sizes.threads}
    return Result("What they found", setup, tuple(figures))
