"""Sessions of ONNX Runtime."""

import subprocess
import sys

import numpy as np
import pytest
from msgspec import structs

from engine.errors import ModelDamaged, ModelError, RuntimeMissing
from engine.models.catalog import Step, builtin_card
from engine.models.onnx_sessions import SessionOptions, available_providers, open_session

CPU = SessionOptions(provider="cpu")

needs_openvino = pytest.mark.skipif(
    "openvino" not in available_providers(),
    reason="this ONNX Runtime has no OpenVINO: install the extra openvino",
)


def test_session_runs_a_batch_and_names_its_outputs(make_card) -> None:
    session = open_session(make_card(), CPU)
    (vectors,) = session.run(np.zeros((3, 3, 16, 16), dtype=np.float32))
    assert vectors.shape == (3, 8)
    assert session.output_names == ("vector",)
    assert session.provider == "cpu"
    assert session.fixed_batch is None
    assert not session.prefers_large_batches


def test_input_of_another_shape_is_an_error_of_the_card(make_card) -> None:
    session = open_session(make_card(), CPU)
    with pytest.raises(ModelError, match=r"shape \(1, 3, 20, 20\).*check its card") as caught:
        session.run(np.zeros((1, 3, 20, 20), dtype=np.float32))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif("cuda" in available_providers(), reason="this ONNX Runtime has CUDA")
def test_provider_that_is_not_built_in_is_refused_with_what_to_install() -> None:
    options = SessionOptions(provider="cuda")
    with pytest.raises(RuntimeMissing, match=r"no provider cuda: run pip install -e '\.\[gpu\]'"):
        open_session(builtin_card("sface"), options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SessionOptions(provider="abacus"), "unknown provider abacus: choose auto, cpu"),
        (SessionOptions(provider="cpu", precision="int4"), "unknown precision int4"),
        (SessionOptions(provider="cpu", precision="bfloat16"), "needs provider openvino"),
        (SessionOptions(provider="cpu", precision="float16"), "needs provider cuda, not cpu"),
    ],
)
def test_impossible_options_are_refused_before_a_model_is_read(
    options: SessionOptions, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        open_session(builtin_card("sface"), options)


def test_graph_that_the_runtime_cannot_load_is_refused_in_one_line(make_card, tiny_model) -> None:
    tiny_model.graph.node[0].op_type = "Convolve"
    with pytest.raises(ModelDamaged, match="refuses the graph") as caught:
        open_session(make_card(tiny_model), CPU)
    assert "\n" not in str(caught.value)


def test_without_onnx_runtime_the_error_says_what_to_install() -> None:
    code = (
        "import sys\nsys.modules['onnxruntime'] = None\n"
        "from engine.errors import RuntimeMissing\n"
        "from engine.models import onnx_sessions\nfrom engine.models.catalog import builtin_card\n"
        "assert onnx_sessions.available_providers() == ()\n"
        "assert onnx_sessions.runtime_version() is None\n"
        "try:\n"
        "    onnx_sessions.open_session(builtin_card('sface'), onnx_sessions.SessionOptions())\n"
        "except RuntimeMissing as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert "pip install -e '.[cpu]'" in done.stdout


def test_opening_and_running_the_built_in_models_prints_nothing() -> None:
    code = (
        "import numpy as np\n"
        "from engine.models.onnx_sessions import SessionOptions, open_session\n"
        "from engine.models.catalog import builtin_card\n"
        "for name, side in (('yunet', 96), ('sface', 112)):\n"
        "    session = open_session(builtin_card(name), SessionOptions(provider='cpu'))\n"
        "    session.run(np.zeros((2, 3, side, side), dtype=np.float32))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


@needs_openvino
@pytest.mark.parametrize(("precision", "least"), [("float32", 0.99999), ("bfloat16", 0.999)])
def test_openvino_points_in_the_same_direction(precision: str, least: float) -> None:
    card = builtin_card("sface")
    plain = structs.replace(card, rewriting=(Step.FOLD_WEIGHTS, Step.FREE_BATCH))
    faces = np.random.default_rng(0).uniform(0, 255, (4, 3, 112, 112)).astype(np.float32)
    options = SessionOptions(provider="openvino", precision=precision)
    (found,) = open_session(card, options).run(faces)
    (wanted,) = open_session(plain, CPU).run(faces)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    assert ((found * wanted).sum(axis=1) / lengths).min() > least
