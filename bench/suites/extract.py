"""Suite `extract`: from bytes to vectors, and how soon a command answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from bench.core.machine import Timed, interleave, speedup, timed
from bench.core.reports import Figure, Measured, Result, Setup, Skipped, SuiteOutput
from bench.data.photographs import PhotographPairs, open_pairs
from engine.errors import RequestError
from engine.faces.extractor import Extraction, open_extractor
from engine.models.catalog import Step, builtin_card, locate, read_model
from engine.models.graph import rewrite
from engine.models.session import SessionOptions, available_providers, open_session
from serving.measure import read_cpu

WORKER = Path(__file__).parents[1] / "peers" / "worker.py"
CHECKOUT = Path(__file__).parents[2]
SILENCE_TIMEOUT_S = 600.0
"""A worker that says nothing for so long is ended."""
QUICK = {"pairs": 10, "rounds": 2, "graph_rounds": 3}
PEER_SHARE, THREADS = 10, 2
"""The others get a tenth of the pairs: they are slower by about as much."""
DEQUANTISED, REWRITTEN = "dequantised", "rewritten"
DEQUANTISED_STEPS = (Step.FOLD_WEIGHTS, Step.FREE_BATCH)
BATCHES = (1, 16)
"""A face a call; the extractor's own batch on a CPU."""
SOSIE, OPENVINO = "Sosie, cpu", "Sosie, OpenVINO bfloat16"
BFLOAT16 = "amx_bf16"
"""What a processor multiplies bfloat16 with faster than float32."""
DEEPFACE, FACE_RECOGNITION = "deepface", "face_recognition"
STARTS = {"help_seconds": "sosie --help", "verify_seconds": "sosie verify A B"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractConfig:
    """`pairs` of photographs a round. `_python`: interpreters that have what this one lacks, each
    with packages of its own."""

    pairs: int = 200
    faces: Path | None = None
    rounds: int = 7
    crops: int = 16
    graph_rounds: int = 15
    seed: int = 0
    openvino_python: Path | None = None
    deepface_python: Path | None = None
    face_recognition_python: Path | None = None

    def count_pairs(self, peer: str, *, singly: bool = False) -> int:
        """Pairs a round, fewer of the slower peers and of those that are matched one by one."""
        is_slow = singly or peer in (DEEPFACE, FACE_RECOGNITION)
        return max(1, self.pairs // PEER_SHARE) if is_slow else self.pairs


class PeerMissing(Exception):
    """A peer cannot run here; the message says why and goes into the report."""


class Peer:
    """A worker that has loaded its models and waits; close it."""

    def __init__(self, python: Path, peer: str, photographs: PhotographPairs, **setup: Any) -> None:
        """Raises `PeerMissing` where the interpreter lacks a package or a model won't load."""
        self._process = _start(python)
        pairs = [[str(one), str(two)] for one, two in photographs.pairs]
        try:
            ready = self._ask({"peer": peer, "pairs": pairs, **setup})
        except BaseException:
            self.close()
            raise
        self.runtime = str(ready["ready"])

    def match(self, pairs: int, *, singly: bool = False) -> tuple[float, Sequence[float | None]]:
        """Match the first so many pairs, all at hand at once, or each when the last is done: the
        seconds, and the scores, None where a photograph showed no face.

        Raises `PeerMissing` where it fails; it has ended then.
        """
        answer = self._ask({"pairs": pairs, "singly": singly})
        return answer["seconds"], answer["scores"]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        watchdog = threading.Timer(SILENCE_TIMEOUT_S, self._process.kill)
        watchdog.start()
        line = ""
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        watchdog.cancel()
        if not line:
            raise PeerMissing(f"its process ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerMissing(" ".join(str(answer["error"]).split())[:200])
        return answer


def _start(python: Path) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if (CHECKOUT / "pyproject.toml").is_file():
        # The same code in every interpreter; an installed Sosie must be in each of them instead,
        # for its folder would bring the packages of this interpreter along.
        environment["PYTHONPATH"] = str(CHECKOUT)
    pipe, command = subprocess.PIPE, [str(python), str(WORKER)]
    try:
        return subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment, text=True
        )
    except OSError as error:
        raise RequestError(f"{python} does not start as a Python: {error.strerror}") from error


def run(config: ExtractConfig) -> SuiteOutput:
    with (
        TemporaryDirectory(prefix="sosie-bench-") as folder,
        open_pairs(config.faces, config.pairs, config.seed) as photographs,
    ):
        crops = _cut_crops(photographs, config.crops)
        graphs, measured = compare_graphs(crops, config.graph_rounds)
        pairs, found = compare_pairs(photographs, config, Path(folder))
        start, starts = measure_startup(photographs, config.rounds)
    source: Setup = {"photographs": photographs.source}
    told = [replace(one, setup=source | one.setup) for one in (graphs, *pairs, start)]
    return told, {**measured, **found, **starts}


def _cut_crops(photographs: PhotographPairs, count: int) -> NDArray[np.uint8]:
    """uint8[count, side, side, 3]: aligned faces; fewer photographs are taken several times."""
    files = [path.read_bytes() for path in photographs.photographs[:count]]
    with open_extractor(session=SessionOptions(provider="cpu")) as extractor:
        found = extractor.extract(files)
    crops = [one.crop for one in found if isinstance(one, Extraction) and one.crop is not None]
    if not crops:
        raise RequestError("no face in the first photographs: give others as --faces")
    return np.stack([crops[place % len(crops)] for place in range(count)])


def compare_graphs(crops: NDArray[np.uint8], rounds: int) -> tuple[Result, dict[str, Measured]]:
    """Times crops uint8[n, side, side, 3] in each form of SFace's graph: one thread, interleaved.

    The speedup is of the rewritten graph in the extractor's batch over the dequantised one in the
    batch that suits it best; the difference is of their unit vectors.
    """
    card = builtin_card("sface")
    cards = {DEQUANTISED: structs.replace(card, rewriting=DEQUANTISED_STEPS), REWRITTEN: card}
    options = SessionOptions(provider="cpu", threads=1)
    sessions = {name: open_session(one, options) for name, one in cards.items()}
    faces = np.ascontiguousarray(crops.transpose(0, 3, 1, 2), dtype=np.float32)
    outputs = {name: session.run(faces)[0] for name, session in sessions.items()}
    one, other = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in outputs.values())

    def embed(name: str, batch: int) -> None:
        for start in range(0, len(faces), batch):
            sessions[name].run(faces[start : start + batch])

    best_s = float("inf")
    for batch in BATCHES:
        actions = {name: timed(partial(embed, name, batch)) for name in sessions}
        seconds = interleave(actions, rounds)
        best_s = min(best_s, float(np.median(seconds[DEQUANTISED])))
    figures = tuple(
        Figure.of(name, "ms/face", values / len(faces) * 1e3, speedup(seconds[DEQUANTISED], values))
        for name, values in seconds.items()
    )
    setup: Setup = {"faces": len(faces), "rounds": rounds, "threads": 1, "provider": "cpu"}
    return Result(f"SFace graphs, {batch} a call", setup, figures), {
        "rewritten_speedup": best_s / float(np.median(seconds[REWRITTEN])),
        "rewritten_difference": float(np.abs(one - other).max()),
    }


def compare_pairs(photographs: PhotographPairs, config: ExtractConfig, folder: Path) -> SuiteOutput:
    """Every peer that can run here, interleaved; the others are skipped and say why."""
    with ExitStack() as stack:
        running, absent = _start_all(photographs, config, folder, stack)
        seconds, alone = (
            interleave(
                {
                    name: _match(peer, config.count_pairs(name, singly=singly), singly=singly)
                    for name, peer in running.items()
                },
                config.rounds,
            )
            for singly in (False, True)
        )
        setup: Setup = {"pairs": config.pairs, "threads": THREADS}
        setup |= {"peer_pairs": config.count_pairs(DEEPFACE), "rounds": config.rounds}
        setup |= {name: peer.runtime for name, peer in running.items()}
    rates = [
        Figure.of(name, "pairs/s", 1 / values, speedup(seconds[SOSIE], values))
        for name, values in seconds.items()
    ]
    rates += [Figure.skip(name, "pairs/s", reason) for name, reason in absent.items()]
    latencies = (
        Figure.of(name, "ms/pair", values * 1e3, speedup(alone[SOSIE], values))
        for name, values in alone.items()
    )
    singly = setup | {"pairs": config.count_pairs(SOSIE, singly=True)}
    measured: dict[str, Measured] = {"pairs_per_second": float(np.median(1 / seconds[SOSIE]))}
    for goal, slow, fast in (
        ("openvino_speedup", SOSIE, OPENVINO),
        ("deepface_speedup", DEEPFACE, SOSIE),
        ("face_recognition_speedup", FACE_RECOGNITION, SOSIE),
    ):
        reason = absent.get(slow) or absent.get(fast)
        if fast == OPENVINO and reason is None and BFLOAT16 not in read_cpu()[1]:
            reason = f"this processor has no {BFLOAT16}"
        is_there = reason is None
        measured[goal] = speedup(seconds[slow], seconds[fast]) if is_there else Skipped(str(reason))
    return (
        Result("Pairs of photographs", setup, tuple(rates)),
        Result("One pair at a time", singly, tuple(latencies)),
    ), measured


def _match(peer: Peer, count: int, *, singly: bool) -> Timed:
    """Seconds a pair, of a whole round or of each before the next one is at hand."""
    return lambda: peer.match(count, singly=singly)[0] / count


def _start_all(
    photographs: PhotographPairs, config: ExtractConfig, folder: Path, stack: ExitStack
) -> tuple[dict[str, Peer], dict[str, str]]:
    """Those that can run, until the stack is closed, and why others cannot."""
    running, absent = dict[str, Peer](), dict[str, str]()
    for name, python, kind, setup, package in _list_peers(config, folder):
        option = f"--{kind.replace('_', '-')}-python" if kind == name else "--openvino-python"
        try:
            if python is None:
                raise PeerMissing(f"no {package} here: name a Python with it: {option}")
            peer = Peer(python, kind, photographs, **setup)
            stack.callback(peer.close)
            # One that fails on a photograph shall do so before the clocks run.
            peer.match(config.count_pairs(name))
            running[name] = peer
        except PeerMissing as error:
            absent[name] = str(error)
    if SOSIE in absent:
        raise RequestError(f"Sosie itself does not run: {absent[SOSIE]}")
    return running, absent


def _list_peers(
    config: ExtractConfig, folder: Path
) -> Iterator[tuple[str, Path | None, str, Mapping[str, Any], str]]:
    """Name, Python (None: it is absent), kind and setup of each peer, and the package it needs."""
    here = Path(sys.executable)
    common = {"threads": THREADS, "provider": "cpu", "precision": "float32"}
    yield SOSIE, here, "sosie", common, ""
    openvino = config.openvino_python or (here if "openvino" in available_providers() else None)
    setup = common | {"provider": "openvino", "precision": "bfloat16"}
    yield OPENVINO, openvino, "sosie", setup, "onnxruntime-openvino"
    for name in (DEEPFACE, FACE_RECOGNITION):
        python = getattr(config, f"{name}_python") or (here if find_spec(name) else None)
        is_deepface = name == DEEPFACE and python is not None
        home = _lay_out_weights(folder / "deepface") if is_deepface else folder
        yield name, python, name, {"home": str(home)}, name


def _lay_out_weights(home: Path) -> Path:
    """The folder where deepface keeps its downloads, with our two models under its names.

    Its ONNX Runtime refuses our SFace file as it is, so it gets the same weights dequantised.
    """
    weights = home / ".deepface" / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    sface = rewrite(read_model(builtin_card("sface")), DEQUANTISED_STEPS)
    (weights / "face_recognition_sface_2021dec.onnx").write_bytes(sface)
    shutil.copyfile(locate(builtin_card("yunet")), weights / "face_detection_yunet_2023mar.onnx")
    return home


def measure_startup(
    photographs: PhotographPairs, rounds: int
) -> tuple[Result, dict[str, Measured]]:
    """Times new processes from start to end, interleaved, after an uncounted round."""
    command = Path(sys.executable).with_name("sosie")
    setup: Setup = {"rounds": rounds}
    if not command.is_file():
        reason = f"no command sosie beside {sys.executable}: install Sosie there"
        skipped = tuple(Figure.skip(name, "s", reason) for name in STARTS.values())
        return Result("Start", setup, skipped), dict.fromkeys(STARTS, Skipped(reason))
    pair = [str(path) for path in photographs.pairs[0]]
    actions = {
        "help_seconds": _start_command([str(command), "--help"], "Usage"),
        "verify_seconds": _start_command([str(command), "verify", *pair, "--json"], '"score"'),
    }
    seconds = interleave(actions, rounds)
    figures = tuple(Figure.of(STARTS[name], "s", values) for name, values in seconds.items())
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    return Result("Start", setup, figures), dict(medians)


def _start_command(command: Sequence[str], saying: str) -> Timed:
    # The status alone would not do: `verify` ends with 1 for a mismatch, Python for a crash.

    def perform() -> None:
        ended = subprocess.run(command, capture_output=True, check=False)
        if ended.returncode not in (0, 1) or saying.encode() not in ended.stdout:
            name = Path(command[0]).name
            raise RequestError(
                f"`{name} {command[1]}` ended with status {ended.returncode}: run it by hand"
            )

    return timed(perform)
