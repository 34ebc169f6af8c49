"""Suite `accelerator`: what a GPU does for faces and for search, beside this processor's answers.

One command of at most ten minutes, for a day on which a GPU is lent: no Ray and no network. The
name of a figure has what is expected of it: an estimate for an H100, made before one was seen, and
no promise. Without a GPU the parts that need one say why they were not measured.
"""

from __future__ import annotations

import functools
import importlib
import io
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.core.reports import Figure, Result, Setup, SuiteOutput
from bench.core.timing import clock, repeat
from bench.decode_costs import read_cpu_s
from engine.batching import Batch, Batcher, Lane, Pending, Refusals, share_out
from engine.faces.extractor import open_detector
from engine.faces.images import Decoder
from engine.models.catalog import Step, builtin_card, read_model
from indexes.errors import DeviceMissing
from indexes.exact.codes import CodedQueries, Codes
from indexes.exact.device import DeviceScanner, open_scanner
from indexes.exact.kernels import Found
from indexes.exact.scanner import Scanner
from indexes.runtime import import_runtime

QUICK = {"rows": 4096, "tile": 2048, "batches": (2, 4), "side_px": 320, "most_s": 0.05}

Crops = NDArray[np.uint8]
Vectors = NDArray[np.float32]
_CALLERS, _STUB_S, _STUB_CROP_S = 64, 0.2e-3, 10e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorConfig:
    """`rows` are searched, `tile` is the side of a sweep's tile; `batches` of crops; a photograph
    of 12 megapixels, and smaller ones, is enlarged to `side_px`. `limit_s` for all, `most_s` for a
    figure."""

    rows: int = 10_000_000
    dim: int = 512
    tile: int = 1 << 17
    batches: tuple[int, ...] = (16, 64, 256)
    side_px: int = 3464
    most_s: float = 1.0
    limit_s: float = 570.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Run:
    """The run so far: `no_runtime` and `no_arrays` say why ONNX Runtime and CuPy have no GPU."""

    config: AcceleratorConfig
    ends_at: float
    no_runtime: str
    no_arrays: str

    def measure(
        self,
        name: str,
        unit: str,
        expected: str,
        action: Callable[[], float | Sequence[float] | NDArray[np.float64]],
        *,
        without: str = "",
    ) -> Figure:
        """The figure that `action` gives, or why there is none: `without` a GPU, time, or luck."""
        name = f"{name} (expected {expected})" if expected else name
        if without:
            return Figure.skip(name, unit, f"not measured: {without}")
        if time.monotonic() > self.ends_at:
            return Figure.skip(name, unit, "not measured: no time was left")
        try:
            value = action()
        except Exception as error:  # noqa: BLE001 - what fails is a finding, and others follow
            told = (str(error).strip().splitlines() or [""])[0]
            return Figure.skip(name, unit, f"failed: {type(error).__name__} {told[:160]}")
        if isinstance(value, float):
            return Figure(name, unit, value)
        return Figure.of(name, unit, value)

    def rate(self, items: float, action: Callable[[], object]) -> NDArray[np.float64]:
        """Items a second, of repeats after a first call."""
        action()
        return items / repeat(action, self.config.most_s)


def run(config: AcceleratorConfig) -> SuiteOutput:
    """All parts; one that fails costs no other."""
    made = _Run(config, time.monotonic() + config.limit_s, _runtime_fault(), _arrays_fault())
    setup: Setup = {"seed": config.seed, "dim": config.dim, "gpu": _name_gpu()}
    parts: tuple[tuple[str, Callable[[_Run], Iterator[Figure]]], ...] = (
        ("Equality with the CPU", _equality),
        ("Preparation and gathering", _gathering),
        ("Photographs", _photographs),
        (f"Search of {config.rows:,}", _search),
    )
    return [Result(name, setup, tuple(part(made))) for name, part in parts], {}


def _name_gpu() -> str:
    command = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,memory.total",
        "--format=csv,noheader",
    ]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return "none"
    return told.stdout.strip().splitlines()[0]


def _runtime_fault() -> str:
    """Why ONNX Runtime computes on no GPU here."""
    onnxruntime = import_runtime()
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this ONNX Runtime was built without CUDA"
    try:
        open_graph(_sface(()), "cuda")
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's exceptions share no base class
        return f"no session on CUDA: {str(error).strip().splitlines()[0][:160]}"
    return ""


def _arrays_fault() -> str:
    try:
        open_scanner("cuda").close()
    except DeviceMissing as error:
        return str(error)
    return ""


@functools.cache
def _sface(steps: tuple[Step, ...]) -> bytes:
    from engine.models.graph import rewrite

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


@functools.cache
def _here() -> Callable[[Vectors], Vectors]:
    return open_graph(_sface(()), "cpu")


def _pixels(config: AcceleratorConfig, count: int) -> Vectors:
    random = np.random.default_rng(config.seed)
    return random.integers(0, 256, (count, 3, 112, 112)).astype(np.float32)


PRECISIONS = {
    "float32": ((), {"use_tf32": "0"}),
    "tf32": ((), {"use_tf32": "1"}),
    "float16": ((Step.FLOAT16,), {}),
}


def _equality(made: _Run) -> Iterator[Figure]:
    """The largest distance of two unit vectors of one crop: no score moves by more."""
    pixels = _pixels(made.config, made.config.batches[0])
    here = _unit(_here()(pixels))

    def padded(perform: Callable[[Vectors], Vectors]) -> float:
        alone = _unit(perform(pixels[:1]))
        return _farthest(alone, _unit(perform(pixels))[:1])

    def against(name: str) -> float:
        steps, options = PRECISIONS[name]
        return _farthest(here, _unit(open_graph(_sface(steps), "cuda", **options)(pixels)))

    for name, expected in (("float32", "1e-5"), ("tf32", "2e-3"), ("float16", "4e-3")):
        yield made.measure(
            name, "distance", expected, functools.partial(against, name), without=made.no_runtime
        )
    yield made.measure(
        "padded, on the GPU",
        "distance",
        "1e-6",
        lambda: padded(open_graph(_sface(()), "cuda")),
        without=made.no_runtime,
    )
    yield made.measure("padded, on this processor", "distance", "1e-6", lambda: padded(_here()))


def _gathering(made: _Run) -> Iterator[Figure]:
    """64 callers of pairs before one model, as an embedder of the service has them."""
    largest = max(made.config.batches)
    crops = np.random.default_rng(0).integers(0, 256, (largest, 112, 112, 3), np.uint8)

    def prepare(crops: Crops) -> Vectors:
        return np.ascontiguousarray(crops.astype(np.float32).transpose(0, 3, 1, 2))

    yield made.measure(
        f"{largest} crops to float32 planes",
        "1/s",
        "30,000 a core",
        lambda: made.rate(largest, lambda: prepare(crops)),
    )

    def simulate(crops: Crops) -> Vectors:
        time.sleep(_STUB_S + _STUB_CROP_S * len(crops))
        return np.zeros((len(crops), 128), np.float32)

    def gather(embed: Callable[[Crops], Vectors]) -> tuple[float, float]:
        sizes: list[int] = []

        def perform(batch: Batch[Crops, Vectors]) -> list[Vectors]:
            together = np.concatenate([call.payload for call in batch])
            sizes.append(len(together))
            return share_out(batch, embed(together))

        lost = RuntimeError("closed")
        queue: Batcher[Crops, Vectors] = Batcher(
            perform, [Lane(largest)], Refusals(lost, lost, lost, lost), name="gathering"
        )
        pair, ends_at = crops[:2], time.monotonic() + 2 * made.config.most_s

        def call() -> int:
            done = 0
            while time.monotonic() < ends_at:
                done += len(queue.submit(Pending(pair, 2)).result(60))
            return done

        with ThreadPoolExecutor(_CALLERS) as pool:
            calls, seconds = clock(lambda: list(pool.map(lambda _: call(), range(_CALLERS))))
        queue.close(10)
        return sum(calls) / seconds, float(np.mean(sizes))

    stub = [0.0, 0.0]

    def simulated() -> float:
        stub[:] = gather(simulate)
        return stub[0]

    yield made.measure(
        "64 callers of pairs, a simulated device of 0.2 ms + 10 us a crop",
        "1/s",
        "8,000",
        simulated,
    )
    yield made.measure("crops of a batch there", "crops", "100 or so", lambda: stub[1])

    def on_gpu() -> float:
        perform = open_graph(_sface(()), "cuda", cudnn_conv_algo_search="HEURISTIC")
        return gather(lambda crops: perform(prepare(crops)))[0]

    yield made.measure(
        "64 callers of pairs, the GPU", "1/s", "5,000", on_gpu, without=made.no_runtime
    )


def list_photographs(side_px: int) -> dict[str, bytes]:
    """JPEGs of one face: 250 pixels wide, a sixth of `side_px` squared, and all of it."""
    import skimage.data
    from PIL import Image

    portrait, files = Image.fromarray(skimage.data.astronaut()), {}
    random = np.random.default_rng(0)
    for side in (250, side_px * 1414 // 3464, side_px):
        name = f"{side**2 / 1e6:.2g} megapixels"
        pixels = np.asarray(portrait.resize((side, side)))
        noisy = (pixels + random.normal(0, 5, (side, side, 1))).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(noisy).save(file, "JPEG", quality=90)
        files[name] = file.getvalue()
    return files


def _photographs(made: _Run) -> Iterator[Figure]:
    cores = len(os.sched_getaffinity(0))
    detector = open_detector()

    def feed(data: bytes, threads: int) -> float:
        """Photographs decoded and detected a second."""
        with closing(Decoder()) as decoder, ThreadPoolExecutor(threads) as pool:

            def one(_: int) -> None:
                with decoder.decode(data, detector.first_side_px) as image:
                    detector.detect(image.pixels, slice(1))

            wait([pool.submit(one, 0) for _ in range(threads)])
            count = max(threads, round(made.config.most_s / clock(lambda: one(0))[1]) * threads)
            return count / clock(lambda: list(pool.map(one, range(count))))[1]

    def spend(data: bytes) -> NDArray[np.float64]:
        """Processor time in ms of one photograph, here and in the process that decodes."""
        with closing(Decoder()) as decoder:
            spent = []
            for _ in range(max(3, round(20 * made.config.most_s))):
                before = read_cpu_s(*decoder.processes)
                with decoder.decode(data, detector.first_side_px) as image:
                    detector.detect(image.pixels, slice(1))
                spent.append((read_cpu_s(*decoder.processes) - before) * 1e3)
        # The first one started the process.
        return np.array(spent[1:])

    def decode_on_device(data: bytes) -> NDArray[np.float64]:
        decoder = importlib.import_module("nvidia.nvimgcodec").Decoder()
        files = [data] * 32
        return made.rate(len(files), lambda: _finish(decoder.decode(files)))

    expected = iter(("10,000", "1,500", "300"))
    for name, data in list_photographs(made.config.side_px).items():
        yield made.measure(
            f"{name}: decoded and detected", "core ms", "", functools.partial(spend, data)
        )
        yield made.measure(
            f"{name}: decoded and detected by {cores} cores",
            "1/s",
            "",
            functools.partial(feed, data, cores),
        )
        yield made.measure(
            f"{name}: decoded on the GPU",
            "1/s",
            next(expected),
            functools.partial(decode_on_device, data),
            without=made.no_arrays,
        )


def _search(made: _Run) -> Iterator[Figure]:
    config = made.config
    random = np.random.default_rng(config.seed)
    codes = _random_codes(random, config.rows, config.dim)
    alive = np.arange(len(codes.bytes)) < config.rows
    gpu = "" if not made.no_arrays else made.no_arrays
    with closing(Scanner()) as here:
        device = None if gpu else open_scanner("cuda")
        if device is not None:
            yield made.measure(
                "sent to the GPU",
                "s",
                "5 for 5 GB",
                lambda: clock(lambda: device.prepare(codes))[1],
            )
        for queries in (1, 64, 1024):
            coded = CodedQueries.of_rows(codes, slice(0, queries))
            level = 0.6

            def find(scanner: Scanner, coded: CodedQueries = coded, level: float = level) -> Found:
                parts = scanner.gather(codes, alive, coded.wanted(codes, level), np.copy)
                return _in_order(np.concatenate(parts))

            def differ(find: Callable[[Scanner], Found] = find) -> float:
                assert device is not None
                return float(not np.array_equal(find(here), find(device)))

            def time_find(
                scanner: Scanner | None, find: Callable[[Scanner], Found] = find
            ) -> NDArray[np.float64]:
                return repeat(lambda: find(scanner or here), config.most_s) * 1e3

            yield made.measure(
                f"{queries} queries, this processor", "ms", "", functools.partial(time_find, here)
            )
            yield made.measure(
                f"{queries} queries, the GPU",
                "ms",
                {1: "3", 64: "5", 1024: "30"}[queries],
                functools.partial(time_find, device),
                without=gpu,
            )
            yield made.measure(f"{queries} queries, pairs differ", "runs", "0", differ, without=gpu)
        yield from _tile(made, codes, here, device)


def _tile(made: _Run, codes: Codes, here: Scanner, device: Scanner | None) -> Iterator[Figure]:
    """A tile of a sweep: rows against rows, by their codes."""
    rows = min(made.config.tile, made.config.rows)
    block = Codes.restore(
        codes.bytes[: -(-rows // 32) * 32].copy(), codes.residuals[:rows], codes.dim, codes.limit
    )
    alive = np.arange(len(block.bytes)) < rows

    def find(scanner: Scanner, most: int) -> Found:
        found = []
        for start in range(0, most, 4096):
            coded = CodedQueries.of_rows(block, slice(start, min(start + 4096, most)))
            parts = scanner.gather(block, alive, coded.wanted(block, 0.6), np.copy)
            found.append(_in_order(np.concatenate(parts)))
        return np.concatenate(found)

    some = min(rows, 8192)
    yield made.measure(
        f"a tile of {rows:,}, this processor, {some:,} of its queries",
        "1e9 comparisons/s",
        "",
        lambda: some * rows / 1e9 / clock(lambda: find(here, some))[1],
    )
    yield made.measure(
        f"a tile of {rows:,}, the GPU",
        "1e9 comparisons/s",
        "100",
        lambda: rows * rows / 1e9 / clock(lambda: find(device or here, rows))[1],
        without=made.no_arrays,
    )
    yield made.measure(
        "its pairs differ",
        "runs",
        "0",
        lambda: float(not np.array_equal(find(here, some), find(device or here, some))),
        without=made.no_arrays,
    )
    # The same code by numpy, so that a run without a GPU says something of it too.
    with closing(DeviceScanner(np)) as by_numpy:
        few = min(some, 512)
        yield made.measure(
            "its pairs differ, by numpy",
            "runs",
            "0",
            lambda: float(not np.array_equal(find(here, few), find(by_numpy, few))),
        )


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


def _in_order(found: Found) -> Found:
    return found[np.lexsort((found[:, 1], found[:, 0]))]


def _cupy() -> Any:
    return importlib.import_module("cupy")


def _finish(array: Any) -> Any:
    """Waits for the device."""
    _cupy().cuda.get_current_stream().synchronize()
    return array


def _unit(vectors: Vectors) -> NDArray[np.float64]:
    doubles = vectors.astype(np.float64)
    unit: NDArray[np.float64] = doubles / np.linalg.norm(doubles, axis=1, keepdims=True)
    return unit


def _farthest(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(one - other, axis=1).max())
