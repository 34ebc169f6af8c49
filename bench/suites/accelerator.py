"""Suite `accelerator`: what a GPU does for faces and for search, beside this processor's answers.

No Ray and no network. Without a GPU the parts that need one say why they were not measured.
"""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.core.machine import repeat
from bench.core.reports import Figure, Result, Setup, SuiteOutput
from engine.models.catalog import Step, builtin_card, read_model
from engine.models.graph import rewrite
from indexes.errors import DeviceMissing
from indexes.exact.codes import CodedQueries, Codes
from indexes.exact.device import DeviceScanner, open_scanner
from indexes.exact.kernels import Found
from indexes.exact.scanner import Scanner
from indexes.runtime import import_runtime

QUICK = {"rows": 4096, "batch": 4, "most_s": 0.05}
LEVEL = 0.6

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """`rows` are searched; `batch` crops are embedded together; `most_s` for a figure."""

    rows: int = 10_000_000
    dim: int = 512
    batch: int = 256
    most_s: float = 1.0
    seed: int = 0


def run(config: Config) -> SuiteOutput:
    setup: Setup = {"seed": config.seed, "dim": config.dim, "gpu": _name_gpu()}
    return (
        Result("Equality with the CPU", setup, tuple(_embed(config))),
        Result(f"Search of {config.rows:,}", setup, tuple(_search(config))),
    ), {}


def _name_gpu() -> str:
    query = "--query-gpu=name,driver_version,memory.total"
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return "none"
    return told.stdout.strip().splitlines()[0]


def _tell(
    name: str, unit: str, why_not: str, measure: Callable[[], float | Sequence[float] | Any]
) -> Figure:
    """The figure, or why there is none; one that fails costs no other."""
    if why_not:
        return Figure.skip(name, unit, f"not measured: {why_not}")
    try:
        value = measure()
    except Exception as error:  # noqa: BLE001 - what fails is a finding, and others follow
        told = (str(error).strip().splitlines() or [""])[0]
        return Figure.skip(name, unit, f"failed: {type(error).__name__} {told[:160]}")
    return Figure(name, unit, value) if isinstance(value, float) else Figure.of(name, unit, value)


@functools.cache
def _sface(steps: tuple[Step, ...]) -> bytes:
    card = builtin_card("sface")
    kept = [step for step in card.rewriting if step not in (Step.EXPAND_PRELU, Step.SCAN_BATCH)]
    return rewrite(read_model(card), (*kept, *steps))


def open_graph(graph: bytes, provider: str, **options: str) -> Callable[[Vectors], Vectors]:
    """A function that runs a graph of one input and one output on `cuda` or `cpu`."""
    onnxruntime = import_runtime()
    if provider == "cuda" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    chain: list[Any] = [("CUDAExecutionProvider", options)] if provider == "cuda" else []
    chain.append("CPUExecutionProvider")
    session = onnxruntime.InferenceSession(graph, settings, providers=chain)
    if provider == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise RuntimeError("the session fell back to the CPU")
    name = session.get_inputs()[0].name

    def perform(pixels: Vectors) -> Vectors:
        vectors: Vectors = session.run(None, {name: pixels})[0]
        return vectors

    return perform


PRECISIONS: tuple[tuple[str, tuple[Step, ...], dict[str, str]], ...] = (
    ("float32", (), {"use_tf32": "0"}),
    ("tf32", (), {"use_tf32": "1"}),
    ("float16", (Step.FLOAT16,), {}),
)


def _embed(config: Config) -> Iterator[Figure]:
    """The largest distance of two unit vectors of one crop, which no score moves by more than; and
    crops a second."""
    has_cuda = "CUDAExecutionProvider" in import_runtime().get_available_providers()
    why_not = "" if has_cuda else "this ONNX Runtime was built without CUDA"
    random = np.random.default_rng(config.seed)
    pixels = random.integers(0, 256, (config.batch, 3, 112, 112)).astype(np.float32)
    here = open_graph(_sface(()), "cpu")
    right = _unit(here(pixels))

    def differ(perform: Callable[[Vectors], Vectors]) -> float:
        return float(np.linalg.norm(right - _unit(perform(pixels)), axis=1).max())

    def rate(perform: Callable[[Vectors], Vectors]) -> NDArray[np.float64]:
        perform(pixels)
        return len(pixels) / repeat(lambda: perform(pixels), config.most_s)

    alone = float(np.linalg.norm(right[:1] - _unit(here(pixels[:1]))))
    yield Figure("padded, on this processor", "distance", alone)
    yield _tell("this processor", "1/s", "", lambda: rate(here))
    for name, steps, options in PRECISIONS:
        open_it = functools.partial(open_graph, _sface(steps), "cuda", **options)
        yield _tell(name, "distance", why_not, lambda open_it=open_it: differ(open_it()))  # type: ignore[misc]
        yield _tell(name, "1/s", why_not, lambda open_it=open_it: rate(open_it()))  # type: ignore[misc]


def _search(config: Config) -> Iterator[Figure]:
    random = np.random.default_rng(config.seed)
    codes = _random_codes(random, config.rows, config.dim)
    why_not, device = "", None
    try:
        device = open_scanner("cuda")
        device.prepare(codes)
    except DeviceMissing as error:
        why_not = str(error)
    alive = np.arange(len(codes.bytes)) < config.rows

    def find(scanner: Scanner, queries: int) -> Found:
        coded = CodedQueries.of_rows(codes, slice(0, queries))
        parts = scanner.gather(codes, alive, coded.wanted(codes, LEVEL), np.copy)
        found = np.concatenate(parts)
        return found[np.lexsort((found[:, 1], found[:, 0]))]

    def time_find(scanner: Scanner, queries: int) -> NDArray[np.float64]:
        return repeat(lambda: find(scanner, queries), config.most_s) * 1e3

    with closing(Scanner()) as here:

        def differ(scanner: Scanner, queries: int) -> float:
            return float(not np.array_equal(find(here, queries), find(scanner, queries)))

        for queries in (1, 64, 1024):
            name, there = f"{queries} queries", device or here
            of_both = functools.partial(time_find, queries=queries)
            yield _tell(f"{name}, this processor", "ms", "", functools.partial(of_both, here))
            yield _tell(f"{name}, the GPU", "ms", why_not, functools.partial(of_both, there))
            unlike = functools.partial(differ, there, queries)
            yield _tell(f"{name}, pairs differ", "runs", why_not, unlike)
        # The same code by numpy, so that a run without a GPU says something of it too.
        with closing(DeviceScanner(np)) as by_numpy:
            yield _tell("pairs differ, by numpy", "runs", "", lambda: differ(by_numpy, 1))


def _random_codes(random: np.random.Generator, rows: int, dim: int) -> Codes:
    """Codes of unit-like rows; each tenth is near the one before it."""
    padded = -(-rows // 32) * 32
    codes = np.empty((padded, dim), np.uint8)
    for start in range(0, padded, 1 << 18):
        part = codes[start : start + (1 << 18)]
        part[:] = random.integers(100, 157, part.shape, np.uint8)
        part[1::10] = part[: len(part[1::10]) * 10 : 10]
    codes[rows:] = 128
    limit = 127 / (np.sqrt(dim) * 16.45)
    return Codes.restore(codes, np.full(rows, 1e-3, np.float32), dim, float(limit))


def _unit(vectors: Vectors) -> NDArray[np.float64]:
    doubles = vectors.astype(np.float64)
    unit: NDArray[np.float64] = doubles / np.linalg.norm(doubles, axis=1, keepdims=True)
    return unit
