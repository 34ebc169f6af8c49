"""CUDA below ONNX Runtime: whether it can start, its options, and what its errors mean."""

from __future__ import annotations

import ctypes
import io
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from engine.errors import advise_extra

DRIVER = "libcuda.so.1"
_PROVIDER = "capi/libonnxruntime_providers_cuda.so"
# The provider opens this one itself, when it meets a convolution.
_CONVOLUTIONS = "libcudnn.so.9"
_MISSING = re.compile(r"(\S+): cannot open shared object file")

BATCH_SIZES = (16, 64, 256)
"""A convolution is planned anew whenever its batch has another size than before: so batches have
few sizes, and each has a session of its own."""

_FAILURE = re.compile(r"\b(CUDA|CUDNN|CUBLAS|CURAND|CUFFT)\w* failure (\d+): ([^;\n]{1,120})")
_OUT_OF_MEMORY = re.compile(r"Failed to allocate memory for requested buffer of size \d+")


def preload(runtime: ModuleType) -> None:
    """Loads the CUDA libraries that came as packages, where the loader would not look for them."""
    # It prints what it cannot load, and `find_fault` tells it in our words.
    with redirect_stdout(io.StringIO()):
        runtime.preload_dlls()


def find_fault(runtime: ModuleType) -> str:
    """What keeps a runtime that was built for CUDA from using it, by name; empty for nothing."""
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


def provider_options(
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


def read_failure(text: str) -> str:
    """What failed of the device, in the runtime's message; empty where it was not the device."""
    found = _FAILURE.search(text)
    if found:
        return f"{found[1]} failure {found[2]}: {found[3].strip()}"
    return "it is out of memory" if _OUT_OF_MEMORY.search(text) else ""


def describe_options(options: Mapping[str, str]) -> str:
    """The options that were asked for, for a log."""
    return ", ".join(f"{name}={value}" for name, value in options.items())
