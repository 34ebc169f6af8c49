"""CUDA: what keeps it from starting, its options and its errors."""

import ctypes
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from engine.errors import DeviceFailed, ModelError
from engine.models import onnx_sessions
from engine.models.catalog import builtin_card
from engine.models.onnx_sessions import (
    CUDA_BATCH_SIZES,
    Session,
    SessionOptions,
    available_providers,
    find_cuda_fault,
    list_cuda_options,
    open_session,
)
from indexes.runtime import import_runtime

NO_DEVICE = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:154 CUDA failure 100: no "
    "CUDA-capable device is detected ; GPU=-1 ; hostname=vm ; file=/onnxruntime_src/onnxruntime/"
    "core/providers/cuda/cuda_execution_provider.cc ; line=355 ; expr=cudaSetDevice(0);"
)
"""As onnxruntime-gpu 1.31.1 says it."""


def runtime_whose_provider_needs(name: bytes, folder: Path) -> ModuleType:
    """A runtime whose CUDA provider is a real library that needs one of this name."""
    place = Path(str(import_runtime().__file__)).parent / "capi"
    (library,) = place.glob("onnxruntime_pybind11_state*.so")
    content = library.read_bytes()
    needed = b"\0libpthread.so.0\0"
    assert needed in content
    path = folder / "capi" / "libonnxruntime_providers_cuda.so"
    path.parent.mkdir()
    path.write_bytes(content.replace(needed, b"\0" + name.ljust(len(needed) - 1, b"\0")))
    runtime = ModuleType("onnxruntime")
    runtime.__file__ = str(folder / "__init__.py")
    return runtime


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        (b"libcuda.so.1", "install NVIDIA's driver, or give the container its GPU"),
        (b"libcublas.so.13", "run pip install -e '.[gpu]' in Sosie's folder"),
    ],
)
def test_a_missing_library_is_named_with_what_to_do(tmp_path, name: bytes, advice: str) -> None:
    fault = find_cuda_fault(runtime_whose_provider_needs(name, tmp_path))
    assert fault == f"{name.decode()} is missing: {advice}"


class Driver:
    """A CUDA driver with so many devices, or one that does not start."""

    def __init__(self, status: int, count: int) -> None:
        self._status, self._count = status, count

    def cuInit(self, _: int) -> int:  # noqa: N802 - CUDA's names
        return self._status

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        ctypes.cast(count, ctypes.POINTER(ctypes.c_int))[0] = self._count
        return 0


def test_a_machine_without_a_gpu_is_told_from_one_with_a_fault() -> None:
    assert onnx_sessions._find_device_fault(Driver(0, 1)) == ""
    assert onnx_sessions._find_device_fault(Driver(0, 0)).startswith(
        "no GPU is there: look at nvidia-smi"
    )
    assert "no GPU is there (CUDA error 100)" in onnx_sessions._find_device_fault(Driver(100, 0))


@pytest.mark.skipif("cuda" not in available_providers(), reason="this ONNX Runtime has no CUDA")
def test_cuda_that_cannot_start_is_named_and_the_cpu_takes_its_place_only_when_free_to_choose() -> (
    None
):
    session = open_session(builtin_card("sface"), SessionOptions())
    if session.provider == "cuda":
        pytest.skip("it can start")
    assert session.fault.startswith("CUDA is installed and not used: ")
    cause = session.fault.removeprefix("CUDA is installed and not used: ")
    for options in (SessionOptions(provider="cuda"), SessionOptions(precision="float16")):
        with pytest.raises(ModelError) as caught:
            open_session(builtin_card("sface"), options)
        assert cause in str(caught.value)


class FailingSession:
    """ONNX Runtime's session of a device that fails with this message."""

    def __init__(self, message: str) -> None:
        self._message = message

    def get_inputs(self) -> list[Any]:
        return [type("Node", (), {"name": "pixels", "shape": [16, 112, 112, 3]})]

    def get_outputs(self) -> list[Any]:
        return []

    def run(self, *_: object) -> list[Any]:
        raise RuntimeError(self._message)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (NO_DEVICE, "CUDA failure 100: no CUDA-capable device is detected"),
        ("CUDNN failure 4000: CUDNN_STATUS_INTERNAL_ERROR ; GPU=0 ; hostname=vm", "CUDNN failure"),
        (
            "bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 411041792",
            "it is out of memory",
        ),
    ],
)
def test_a_device_that_fails_is_an_error_of_its_own_that_names_no_host(
    message: str, said: str
) -> None:
    session = Session({16: FailingSession(message)}, builtin_card("sface"), "cuda")
    with pytest.raises(DeviceFailed) as caught:
        session.run(np.zeros((16, 112, 112, 3), np.uint8))
    assert said in str(caught.value)
    assert "hostname" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_input_that_does_not_fit_is_no_fault_of_the_device() -> None:
    session = Session({16: FailingSession("Got invalid dimensions")}, builtin_card("sface"), "cuda")
    with pytest.raises(ModelError) as caught:
        session.run(np.zeros((16, 112, 112, 3), np.uint8))
    assert not isinstance(caught.value, DeviceFailed)


def test_all_sessions_of_an_embedder_keep_within_its_memory_and_float32_is_no_tf32() -> None:
    limits = []
    for size in CUDA_BATCH_SIZES:
        options = list_cuda_options("float32", 6 << 30, size, CUDA_BATCH_SIZES)
        limits.append(int(options["gpu_mem_limit"]))
        assert options["cudnn_conv_algo_search"] == "HEURISTIC"
        assert options["use_tf32"] == "0"
    assert limits == sorted(limits)
    assert (6 << 30) - 3 <= sum(limits) <= 6 << 30
    assert "gpu_mem_limit" not in list_cuda_options("tf32", 0, 16, CUDA_BATCH_SIZES)
    assert list_cuda_options("tf32", 0, 16, CUDA_BATCH_SIZES)["use_tf32"] == "1"
