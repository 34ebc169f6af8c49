"""Sessions of ONNX Runtime, which run the graphs of model cards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ModelCardInvalid, ModelDamaged, ModelError, RuntimeMissing, advise_extra
from engine.models.catalog import ModelCard, Step, read_model

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_ACCELERATORS = ("cuda", "tensorrt")
PRECISIONS = {"float32": tuple(PROVIDERS), "bfloat16": ("openvino",), "float16": _ACCELERATORS}
"""Precisions, and the providers that have them."""
_EXTRAS = {"cpu": "cpu", "openvino": "openvino", "cuda": "gpu", "tensorrt": "gpu"}


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How to run a model: `provider` is auto, cpu, openvino, cuda or tensorrt.

    `threads` work on one call, and spin while they wait if `spinning`. `precision` is float32,
    bfloat16 (OpenVINO alone) or float16 (CUDA and TensorRT).
    """

    provider: str = "auto"
    threads: int = 1
    spinning: bool = False
    precision: str = "float32"


def open_session(card: ModelCard, options: SessionOptions) -> Session:
    """Load a card's model, whose file has the card's SHA-256, and rewrite its graph.

    Raises RuntimeMissing, ModelMissing, ModelDamaged, ModelCardInvalid or ModelError.
    """
    runtime = _import_runtime()
    provider = _choose_provider(runtime, options)
    # onnx takes a while to import: only when a model is opened.
    from engine.models.graph import rewrite  # noqa: PLC0415

    graph = rewrite(read_model(card), _choose_steps(card, provider, options))
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    # Its warnings are advice about the graph; an error reaches us as an exception.
    settings.log_severity_level = 3
    settings.add_session_config_entry(
        "session.intra_op.allow_spinning", "1" if options.spinning else "0"
    )
    chain = [(PROVIDERS[provider], _provider_options(provider, options))]
    if provider in _ACCELERATORS:
        chain.append((PROVIDERS["cpu"], {}))
    try:
        session = runtime.InferenceSession(graph, settings, providers=chain)
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise ModelDamaged(
            f"model {card.name}: ONNX Runtime refuses the graph ({_first_line(error)}); "
            "check its card's `rewriting`"
        ) from error
    if session.get_providers()[0] != PROVIDERS[provider]:
        if options.provider == "auto":
            return open_session(card, replace(options, provider="cpu"))
        raise RuntimeMissing(
            f"ONNX Runtime has {provider} but could not start it; look at the driver, "
            "or choose provider cpu"
        )
    return Session(session, card, provider)


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

    def __init__(self, session: Any, card: ModelCard, provider: str) -> None:
        inputs = session.get_inputs()
        if len(inputs) != 1:
            raise ModelCardInvalid(f"model {card.name} must have one input, not {len(inputs)}")
        batch = inputs[0].shape[0] if inputs[0].shape else None
        self.provider = provider
        self.output_names = tuple(str(output.name) for output in session.get_outputs())
        """In the order in which `run` returns them."""
        self.fixed_batch = batch if isinstance(batch, int) else None
        """The only batch that the graph takes, where it is not free."""
        self.prefers_large_batches = provider in _ACCELERATORS
        """Whether many faces in one call are quicker than many calls."""
        self._session = session
        self._card_name = card.name
        self._input = inputs[0].name

    def run(self, inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Every output for one input batch, in the card's layout."""
        try:
            outputs: Sequence[NDArray[np.float32]] = self._session.run(None, {self._input: inputs})
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ModelError(
                f"model {self._card_name} failed on an input of shape {inputs.shape} "
                f"({_first_line(error)}); check its card's [input]"
            ) from error
        return list(outputs)


def _import_runtime() -> ModuleType:
    try:
        import onnxruntime  # noqa: PLC0415 (only when a model is opened)
    except ImportError as error:
        raise RuntimeMissing(f"ONNX Runtime is not installed: {advise_extra('cpu')}") from error
    return onnxruntime  # type: ignore[no-any-return]


def _choose_provider(runtime: ModuleType, options: SessionOptions) -> str:
    built_in = runtime.get_available_providers()
    provider = options.provider
    if provider == "auto":
        # TensorRT builds an engine for minutes at first use: only when asked for by name.
        for name in ("cuda", "openvino", "cpu"):
            if PROVIDERS[name] in built_in:
                provider = name
                break
    if provider not in PROVIDERS:
        raise ModelError(f"unknown provider {provider}: choose auto, {', '.join(PROVIDERS)}")
    if PROVIDERS[provider] not in built_in:
        raise RuntimeMissing(
            f"this ONNX Runtime has no provider {provider}: "
            f"{advise_extra(_EXTRAS[provider])}, in place of the other extras"
        )
    _check_precision(provider, options.precision)
    return provider


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


def _provider_options(provider: str, options: SessionOptions) -> dict[str, str]:
    if provider != "openvino":
        return {}
    precision = {"float32": "f32", "bfloat16": "bf16"}[options.precision]
    config = f'{{"CPU": {{"INFERENCE_PRECISION_HINT": "{precision}"}}}}'
    return {"device_type": "CPU", "num_of_threads": str(options.threads), "load_config": config}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
