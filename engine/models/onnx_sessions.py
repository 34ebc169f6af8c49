"""Sessions of ONNX Runtime, which run the graphs of model cards, on a processor or by CUDA."""

from __future__ import annotations

import ctypes
import io
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import field
from pathlib import Path
from threading import Lock
from time import monotonic
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import (
    DeviceFailed,
    ModelCardInvalid,
    ModelDamaged,
    ModelError,
    RuntimeMissing,
    advise_extra,
)
from engine.models.catalog import ModelCard, Role, Step, read_model
from indexes.runtime import import_runtime
from schema import frozen

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cuda": "CUDAExecutionProvider",
}
PRECISIONS = {
    "float32": tuple(PROVIDERS),
    "tf32": ("cuda",),
    "bfloat16": ("openvino",),
    "float16": ("cuda",),
}
"""Precisions, and the providers that have them."""
_log = logging.getLogger(__name__)
_EXTRAS = {"cpu": "cpu", "openvino": "openvino", "cuda": "gpu"}


@frozen
class SessionOptions:
    """Options of a model's run: `provider` is auto, cpu, openvino or cuda.

    `threads` work on one call, and spin while they wait if `spinning`. `precision` is float32,
    bfloat16 (OpenVINO alone), tf32 or float16 (CUDA alone). An embedder with `batch_sizes` takes
    pixels in batches of these sizes alone; on CUDA it always does. `memory_bytes` bounds what it
    takes of a GPU (0: all there is), and `device_options` go before ours.
    """

    provider: str = "auto"
    threads: int = 1
    spinning: bool = False
    precision: str = "float32"
    batch_sizes: tuple[int, ...] = ()
    memory_bytes: int = 0
    device_options: Mapping[str, str] = field(default_factory=dict)


def open_session(card: ModelCard, options: SessionOptions) -> Session:
    """Load a card's model, whose file has the card's SHA-256, and rewrite its graph.

    Raises RuntimeMissing, ModelMissing, ModelDamaged, ModelCardInvalid or ModelError.
    """
    runtime = _import_runtime()
    provider, fault = _choose_provider(runtime, options)
    if fault:
        # A command shows it on standard error; the service says it in its own ways too.
        _log.warning(fault)
    # onnx takes a while to import: only when a model is opened.
    from engine.models import rewriting  # noqa: PLC0415

    sizes = options.batch_sizes
    if card.role is not Role.EMBEDDER:
        sizes = ()
    elif provider == "cuda":
        sizes = sizes or CUDA_BATCH_SIZES
    contract = card.input if sizes else None
    steps = _choose_steps(card, provider, options)
    rewritten = rewriting.rewrite(read_model(card), steps, contract)
    if sizes:
        fixed = rewriting.read_batch(rewritten)
        sizes = (fixed,) if fixed else tuple(sorted(sizes))
    sessions = {
        size: _open_one(runtime, card, rewritten, provider, options, size, sizes)
        for size in sizes or (0,)
    }
    return Session(sessions, card, provider, options.precision, fault)


def _open_one(
    runtime: ModuleType,
    card: ModelCard,
    graph: bytes,
    provider: str,
    options: SessionOptions,
    size: int,
    sizes: Sequence[int],
) -> Any:
    """ONNX Runtime's session for batches of this size; 0: of any size."""
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    # Its warnings are advice about the graph; an error reaches us as an exception.
    settings.log_severity_level = 3
    settings.add_session_config_entry(
        "session.intra_op.allow_spinning", "1" if options.spinning else "0"
    )
    if size:
        settings.add_free_dimension_override_by_name("batch", size)
    chain = [(PROVIDERS[provider], _provider_options(provider, options, size, sizes))]
    if provider == "cuda":
        # Shapes and the like are reckoned there.
        chain.append((PROVIDERS["cpu"], {}))
    try:
        # With its fallback a session whose device fails would go on, on the CPU, and say nothing.
        session = runtime.InferenceSession(graph, settings, providers=chain, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        failure = read_cuda_failure(str(error)) if provider == "cuda" else ""
        if failure:
            raise DeviceFailed(f"model {card.name} cannot be put on the GPU: {failure}") from error
        raise ModelDamaged(
            f"model {card.name}: ONNX Runtime refuses the graph ({_first_line(error)}); "
            "check its card's `rewriting`"
        ) from error
    if session.get_providers()[0] != PROVIDERS[provider]:
        raise RuntimeMissing(
            f"ONNX Runtime has {provider} but could not start it; look at the driver, "
            "or choose provider cpu"
        )
    return session


def available_providers() -> tuple[str, ...]:
    """Providers that the installed ONNX Runtime was built with; empty without it."""
    try:
        built_in = _import_runtime().get_available_providers()
    except RuntimeMissing:
        return ()
    return tuple(name for name, full in PROVIDERS.items() if full in built_in)


def runtime_version() -> str | None:
    """The installed ONNX Runtime's version, None without it."""
    try:
        return str(_import_runtime().__version__)
    except RuntimeMissing:
        return None


class Session:
    """A loaded model; `run` may be called from several threads at once."""

    def __init__(
        self,
        sessions: Mapping[int, Any],
        card: ModelCard,
        provider: str,
        precision: str = "float32",
        fault: str = "",
    ) -> None:
        first = next(iter(sessions.values()))
        inputs = first.get_inputs()
        if len(inputs) != 1:
            raise ModelCardInvalid(f"model {card.name} must have one input, not {len(inputs)}")
        batch = inputs[0].shape[0] if inputs[0].shape else None
        self.provider = provider
        self.precision = precision
        self.fault = fault
        """Why the provider is not the one that is installed; empty where it is."""
        self.output_names = tuple(str(output.name) for output in first.get_outputs())
        """In the order in which `run` returns them."""
        self.batch_sizes = tuple(size for size in sessions if size)
        """The batches that it takes, as pixels uint8[n, side, side, 3] (RGB); empty: batches of any
        size, in the card's layout."""
        self.fixed_batch = batch if isinstance(batch, int) and not self.batch_sizes else None
        """The only batch that the graph takes, where it is not free."""
        self.prefers_large_batches = provider == "cuda"
        """Whether many faces in one call are quicker than many calls."""
        self.observe: Callable[[int, float], None] = lambda _size, _seconds: None
        """Called after each run, with the size of its batch and the seconds that it took."""
        self._sessions = sessions
        # A device does one batch at a time, in the memory of one; threads prepare others meanwhile.
        self._turn: AbstractContextManager[object] = Lock() if self.batch_sizes else nullcontext()
        self._card_name = card.name
        self._input = inputs[0].name

    @property
    def device_options(self) -> Mapping[str, str]:
        """The provider's options as the runtime has them, of the largest batch's session."""
        largest = self._sessions[max(self._sessions)]
        found: Mapping[str, str] = largest.get_provider_options()[PROVIDERS[self.provider]]
        return found

    def run(self, inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Every output for one input batch.

        Raises DeviceFailed where the accelerator fails, else ModelError.
        """
        session = self._sessions[len(inputs) if self.batch_sizes else 0]
        try:
            with self._turn:
                began = monotonic()
                outputs: Sequence[NDArray[np.float32]] = session.run(None, {self._input: inputs})
                took_s = monotonic() - began
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            failure = read_cuda_failure(str(error)) if self.provider == "cuda" else ""
            if failure:
                raise DeviceFailed(
                    f"the GPU failed under model {self._card_name}: {failure}; look at nvidia-smi"
                ) from error
            raise ModelError(
                f"model {self._card_name} failed on an input of shape {inputs.shape} "
                f"({_first_line(error)}); check its card's [input]"
            ) from error
        self.observe(len(inputs), took_s)
        return list(outputs)


def _import_runtime() -> ModuleType:
    try:
        return import_runtime()
    except ImportError as error:
        raise RuntimeMissing(f"ONNX Runtime is not installed: {advise_extra('cpu')}") from error


def _choose_provider(runtime: ModuleType, options: SessionOptions) -> tuple[str, str]:
    """The provider, and why it is not the accelerator that is installed."""
    built_in = runtime.get_available_providers()
    fault = ""
    provider = options.provider
    if provider in ("auto", "cuda") and PROVIDERS["cuda"] in built_in:
        # Libraries that came as packages are where the loader would not look. What cannot be loaded
        # is printed, and `find_cuda_fault` tells it in our words.
        with redirect_stdout(io.StringIO()):
            runtime.preload_dlls()
        fault = find_cuda_fault(runtime)
        if fault and provider == "cuda":
            raise RuntimeMissing(f"provider cuda cannot start: {fault}; or choose provider cpu")
    if provider == "auto":
        usable = [name for name in ("cuda", "openvino", "cpu") if PROVIDERS[name] in built_in]
        provider = usable[1] if fault else usable[0]
        if fault and provider not in PRECISIONS.get(options.precision, (provider,)):
            raise RuntimeMissing(f"precision {options.precision} needs CUDA: {fault}")
    if provider not in PROVIDERS:
        raise ModelError(f"unknown provider {provider}: choose auto, {', '.join(PROVIDERS)}")
    if PROVIDERS[provider] not in built_in:
        raise RuntimeMissing(
            f"this ONNX Runtime has no provider {provider}: "
            f"{advise_extra(_EXTRAS[provider])}, in place of the other extras"
        )
    _check_precision(provider, options.precision)
    return provider, fault and f"CUDA is installed and not used: {fault}"


def _check_precision(provider: str, precision: str) -> None:
    if precision not in PRECISIONS:
        raise ModelError(f"unknown precision {precision}: choose {', '.join(PRECISIONS)}")
    if provider not in PRECISIONS[precision]:
        raise ModelError(
            f"precision {precision} needs provider {' or '.join(PRECISIONS[precision])}, "
            f"not {provider}: choose float32"
        )


def _choose_steps(card: ModelCard, provider: str, options: SessionOptions) -> tuple[Step, ...]:
    """The card's steps without those that only help the CPU provider.

    The others have a kernel for PRelu and prefer whole batches.
    """
    for_cpu = (Step.EXPAND_PRELU, Step.SCAN_BATCH)
    steps = tuple(step for step in card.rewriting if step not in for_cpu or provider == "cpu")
    if options.precision == "float16" and Step.FLOAT16 not in steps:
        steps += (Step.FLOAT16,)
    return steps


def _provider_options(
    provider: str, options: SessionOptions, size: int, sizes: Sequence[int]
) -> dict[str, str]:
    if provider == "cuda":
        usual = list_cuda_options(options.precision, options.memory_bytes, size or 1, sizes or (1,))
        return usual | dict(options.device_options)
    if provider != "openvino":
        return {}
    precision = {"float32": "f32", "bfloat16": "bf16"}[options.precision]
    config = f'{{"CPU": {{"INFERENCE_PRECISION_HINT": "{precision}"}}}}'
    return {"device_type": "CPU", "num_of_threads": str(options.threads), "load_config": config}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__


DRIVER = "libcuda.so.1"
_PROVIDER = "capi/libonnxruntime_providers_cuda.so"
# The provider opens this one itself, when it meets a convolution.
_CONVOLUTIONS = "libcudnn.so.9"
_MISSING = re.compile(r"(\S+): cannot open shared object file")

CUDA_BATCH_SIZES = (16, 64, 256)
"""A convolution is planned anew whenever its batch has another size than before: so batches have
few sizes, and each has a session of its own."""

_FAILURE = re.compile(r"\b(CUDA|CUDNN|CUBLAS|CURAND|CUFFT)\w* failure (\d+): ([^;\n]{1,120})")
_OUT_OF_MEMORY = re.compile(r"Failed to allocate memory for requested buffer of size \d+")


def find_cuda_fault(runtime: ModuleType) -> str:
    """The fault that keeps a runtime built for CUDA from using it, by name; empty for none."""
    folder = Path(str(runtime.__file__)).parent
    for library in (str(folder / _PROVIDER), _CONVOLUTIONS, DRIVER):
        missing = _find_missing(library)
        if missing == DRIVER:
            return f"{DRIVER} is missing: install NVIDIA's driver, or give the container its GPU"
        if missing:
            return f"{missing} is missing: {advise_extra('gpu')}"
    return _find_device_fault(ctypes.CDLL(DRIVER))


def _find_missing(library: str) -> str:
    """The library that the loader does not find for this one, perhaps itself; else empty."""
    try:
        ctypes.CDLL(library)
    except OSError as error:
        found = _MISSING.search(str(error))
        # Anything else the runtime meets too, and says.
        return Path(found[1]).name if found else ""
    return ""


def _find_device_fault(driver: Any) -> str:
    status, count = driver.cuInit(0), ctypes.c_int(0)
    if status == 0:
        driver.cuDeviceGetCount(ctypes.byref(count))
        if count.value:
            return ""
    code = f" (CUDA error {status})" if status else ""
    return f"no GPU is there{code}: look at nvidia-smi and at CUDA_VISIBLE_DEVICES"


def list_cuda_options(
    precision: str, memory_bytes: int, size: int, sizes: Sequence[int]
) -> dict[str, str]:
    """Options of the CUDA provider for the session that takes batches of `size`.

    All sessions of an embedder together take `memory_bytes` (0: no limit).
    """
    options = {
        # The other search runs every algorithm for each convolution, for seconds of a start.
        "cudnn_conv_algo_search": "HEURISTIC",
        # As the runtime has them by default. Nobody has measured here what they change.
        "prefer_nhwc": "0",
        "fuse_conv_bias": "0",
        # Without, float32 is float32. It also keeps float16 off the tensor cores.
        "use_tf32": "0" if precision == "float32" else "1",
        # A session asks for the same buffers each time: an arena that doubles would waste memory.
        "arena_extend_strategy": "kSameAsRequested",
    }
    if memory_bytes:
        # Activations grow with the batch, weights do not.
        least = max(sizes) / 4
        share = max(size, least) / sum(max(one, least) for one in sizes)
        options["gpu_mem_limit"] = str(int(memory_bytes * share))
    return options


def read_cuda_failure(text: str) -> str:
    """The device's failure in the runtime's message; empty where it was not the device."""
    found = _FAILURE.search(text)
    if found:
        return f"{found[1]} failure {found[2]}: {found[3].strip()}"
    return "it is out of memory" if _OUT_OF_MEMORY.search(text) else ""


def describe_options(options: Mapping[str, str]) -> str:
    """The options that were asked for, for a log."""
    return ", ".join(f"{name}={value}" for name, value in options.items())
