"""Suite `extract`: from bytes to vectors, and how soon a command answers."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import execnet
import numpy as np

from bench.core.machine import Timed, interleave, speedup, timed
from bench.core.reports import Figure, Measured, Result, Setup, Skipped, SuiteOutput
from bench.datasets import PhotographPairs, open_pairs
from bench.peers import worker
from engine.errors import RequestError
from engine.faces.extractor import Extraction, open_extractor
from engine.faces.quality import measure_quality
from engine.models.catalog import Step, builtin_card, locate, read_model
from engine.models.rewriting import rewrite
from schema import frozen

SILENCE_TIMEOUT_S = 600.0
"""A worker that says nothing for so long is ended."""
QUICK = {"pairs": 10, "rounds": 2}
MEASURED = 40
"""Photographs of which the measures of quality are taken twice."""
PEER_SHARE, THREADS = 10, 2
"""The other gets a tenth of the pairs: it is slower by about as much."""
DEQUANTISED_STEPS = (Step.FOLD_WEIGHTS, Step.FREE_BATCH)
SOSIE, DEEPFACE = "Sosie, cpu", "deepface"
STARTS = {"help_seconds": "sosie --help", "verify_seconds": "sosie verify A B"}


@frozen(kw_only=True)
class ExtractConfig:
    """`pairs` of photographs a round. `deepface_python`: an interpreter that has deepface."""

    pairs: int = 200
    faces: Path | None = None
    rounds: int = 7
    seed: int = 0
    deepface_python: Path | None = None

    def count_pairs(self, peer: str) -> int:
        """Pairs a round, fewer of the slower peer."""
        return self.pairs if peer == SOSIE else max(1, self.pairs // PEER_SHARE)


class PeerMissing(Exception):
    """A peer cannot run here; the message says why and goes into the report."""


class Peer:
    """A worker that has loaded its models and waits; close it."""

    def __init__(self, python: Path, peer: str, photographs: PhotographPairs, **setup: Any) -> None:
        """Raises `PeerMissing` where the interpreter lacks a package or a model won't load."""
        try:
            tried = subprocess.run([str(python), "-c", ""], check=False)
        except OSError as error:
            raise RequestError(f"{python} does not start as a Python: {error.strerror}") from error
        if tried.returncode:
            raise PeerMissing(f"its process ended with status {tried.returncode}")
        self._group = execnet.Group()
        gateway = self._group.makegateway(f"popen//python={shlex.quote(str(python))}")
        self._channel = gateway.remote_exec(worker)
        pairs = [[str(one), str(two)] for one, two in photographs.pairs]
        try:
            self.runtime = str(self._ask({"peer": peer, "pairs": pairs, **setup}))
        except BaseException:
            self.close()
            raise

    def match(self, pairs: int) -> tuple[float, Sequence[float | None]]:
        """Matches the first so many pairs: the seconds, and the scores, None where a photograph
        showed no face; `PeerMissing` where it fails, and has ended."""
        seconds, scores = self._ask(pairs)
        return seconds, scores

    def close(self) -> None:
        self._group.terminate(timeout=1)

    def _ask(self, order: Any) -> Any:
        try:
            self._channel.send(order)
            return self._channel.receive(SILENCE_TIMEOUT_S)
        except execnet.RemoteError as error:
            raise PeerMissing(error.formatted.strip().splitlines()[-1][:200]) from error
        except (OSError, EOFError, execnet.TimeoutError) as error:
            raise PeerMissing("its process has ended, or says nothing") from error


def run(config: ExtractConfig) -> SuiteOutput:
    with (
        TemporaryDirectory(prefix="sosie-bench-") as folder,
        open_pairs(config.faces, config.pairs, config.seed) as photographs,
    ):
        pairs, found = compare_pairs(photographs, config, Path(folder))
        cost = measure_cost(photographs, config.rounds)
        start, starts = measure_startup(photographs, config.rounds)
    source: Setup = {"photographs": photographs.source}
    told = [replace(one, setup=source | one.setup) for one in (pairs, start)]
    return told, {**found, **starts, "quality_cost": cost}


def compare_pairs(
    photographs: PhotographPairs, config: ExtractConfig, folder: Path
) -> tuple[Result, dict[str, Measured]]:
    """Sosie and deepface, interleaved; where deepface cannot run it is skipped and says why."""
    setup: Setup = {"pairs": config.pairs, "peer_pairs": config.count_pairs(DEEPFACE)}
    setup |= {"threads": THREADS, "rounds": config.rounds}
    running, absent, here = dict[str, Timed](), "", Path(sys.executable)
    with ExitStack() as stack:

        def start(python: Path, name: str, **more: Any) -> None:
            """Seconds a pair; a peer that fails on a photograph does so before the clocks run."""
            peer, count = Peer(python, name, photographs, **more), config.count_pairs(name)
            stack.callback(peer.close)
            peer.match(count)
            running[name], setup[name] = lambda: peer.match(count)[0] / count, peer.runtime

        try:
            start(here, SOSIE, threads=THREADS)
        except PeerMissing as error:
            raise RequestError(f"Sosie itself does not run: {error}") from error
        try:
            python = config.deepface_python or (here if find_spec(DEEPFACE) else None)
            if python is None:
                raise PeerMissing("no deepface here: name a Python with it: --deepface-python")
            start(python, DEEPFACE, home=str(_lay_out_weights(folder / "deepface")))
        except PeerMissing as error:
            absent = str(error)
        seconds = interleave(running, config.rounds)
    rates = [
        Figure.of(name, "pairs/s", 1 / values, speedup(seconds[SOSIE], values))
        for name, values in seconds.items()
    ]
    measured: dict[str, Measured] = {"pairs_per_second": float(np.median(1 / seconds[SOSIE]))}
    if absent:
        rates.append(Figure.skip(DEEPFACE, "pairs/s", absent))
        measured["deepface_speedup"] = Skipped(absent)
    else:
        measured["deepface_speedup"] = speedup(seconds[DEEPFACE], seconds[SOSIE])
    return Result("Pairs of photographs", setup, tuple(rates)), measured


def measure_cost(photographs: PhotographPairs, rounds: int) -> float:
    """The cost of the measures of quality: extraction with them taken once more, over extraction as
    it is, by turns, in processor time, which other work on the machine hardly changes."""
    files = [path.read_bytes() for path in photographs.photographs[:MEASURED]]
    with open_extractor() as extractor:

        def extract(*, is_twice: bool = False) -> float:
            start = process_time()
            for data, one in zip(files, extractor.extract(files), strict=True):
                if is_twice and isinstance(one, Extraction) and one.crop is not None:
                    assert one.landmarks_px is not None
                    measure_quality(one.crop, one.landmarks_px, 1.0, len(data), one.size_px)
            return process_time() - start

        turns: dict[str, Timed] = {"once": extract, "twice": partial(extract, is_twice=True)}
        seconds = interleave(turns, rounds)
    return speedup(seconds["twice"], seconds["once"])


def _lay_out_weights(home: Path) -> Path:
    """The folder where deepface keeps its downloads, with our two models under its names, SFace's
    weights dequantised, since its ONNX Runtime refuses our file."""
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
