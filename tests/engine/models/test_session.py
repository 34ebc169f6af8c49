"""Sessions of ONNX Runtime, and the cache of rewritten graphs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec import structs

from engine.errors import ModelDamaged, ModelError, RuntimeMissing
from engine.models.catalog import DEFAULT_STEPS, ModelCard, Step, builtin_card
from engine.models.session import (
    PROVIDERS,
    SessionOptions,
    available_providers,
    load_rewritten,
    open_session,
    runtime_version,
)

MakeCard = Callable[..., ModelCard]
CPU = SessionOptions(provider="cpu")

needs_openvino = pytest.mark.skipif(
    "openvino" not in available_providers(),
    reason="this ONNX Runtime has no OpenVINO: install the extra openvino",
)


def test_runtime_names_its_version_and_providers() -> None:
    assert runtime_version()
    assert set(available_providers()) <= set(PROVIDERS)
    assert "cpu" in available_providers()


def test_session_runs_a_batch_and_names_its_outputs(make_card: MakeCard, tmp_path: Path) -> None:
    session = open_session(make_card(), CPU, tmp_path / "cache")
    (vectors,) = session.run(np.zeros((3, 3, 16, 16), dtype=np.float32))
    assert vectors.shape == (3, 8)
    assert session.output_names == ("vector",)
    assert session.provider == "cpu"
    assert session.fixed_batch is None
    assert not session.prefers_large_batches


def test_graph_whose_batch_was_not_freed_says_so(
    make_card: MakeCard, make_tiny: Callable[..., onnx.ModelProto], tmp_path: Path
) -> None:
    card = make_card(make_tiny(batch=1), extra='rewriting = ["fold-weights"]\n')
    assert open_session(card, CPU, tmp_path / "cache").fixed_batch == 1


def test_threads_share_a_session(make_card: MakeCard, tmp_path: Path) -> None:
    session = open_session(make_card(), CPU, tmp_path / "cache")
    images = np.random.default_rng(0).normal(size=(32, 1, 3, 16, 16)).astype(np.float32)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: session.run(image)[0], images))
    np.testing.assert_array_equal(together, [session.run(image)[0] for image in images])


def test_input_of_another_shape_is_an_error_of_the_card(
    make_card: MakeCard, tmp_path: Path
) -> None:
    session = open_session(make_card(), CPU, tmp_path / "cache")
    with pytest.raises(ModelError, match=r"shape \(1, 3, 20, 20\).*check its card") as caught:
        session.run(np.zeros((1, 3, 20, 20), dtype=np.float32))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif("cuda" in available_providers(), reason="this ONNX Runtime has CUDA")
def test_provider_that_is_not_built_in_is_refused_with_what_to_install(tmp_path: Path) -> None:
    options = SessionOptions(provider="cuda")
    with pytest.raises(RuntimeMissing, match=r"no provider cuda: run pip install -e '\.\[gpu\]'"):
        open_session(builtin_card("sface"), options, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SessionOptions(provider="abacus"), "unknown provider abacus: choose auto, cpu"),
        (SessionOptions(provider="cpu", precision="int4"), "unknown precision int4"),
        (SessionOptions(provider="cpu", precision="bfloat16"), "needs provider openvino"),
        (SessionOptions(provider="cpu", precision="float16"), "needs provider cuda or tensorrt"),
    ],
)
def test_impossible_options_are_refused_before_a_model_is_read(
    tmp_path: Path, options: SessionOptions, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        open_session(builtin_card("sface"), options, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_graph_that_the_runtime_cannot_load_is_refused_in_one_line(
    make_card: MakeCard, tiny_model: onnx.ModelProto, tmp_path: Path
) -> None:
    tiny_model.graph.node[0].op_type = "Convolve"
    with pytest.raises(ModelDamaged, match="refuses the graph") as caught:
        open_session(make_card(tiny_model), CPU, tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_without_onnx_runtime_the_error_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys\nsys.modules['onnxruntime'] = None\nfrom pathlib import Path\n"
        "from engine.errors import RuntimeMissing\n"
        "from engine.models import session\nfrom engine.models.catalog import builtin_card\n"
        "assert session.available_providers() == ()\nassert session.runtime_version() is None\n"
        "try:\n"
        "    session.open_session(builtin_card('sface'), session.SessionOptions(), Path('x'))\n"
        "except RuntimeMissing as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert "pip install -e '.[cpu]'" in done.stdout


def test_opening_and_running_the_built_in_models_prints_nothing(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nimport numpy as np\n"
        "from engine.models.session import SessionOptions, open_session\n"
        "from engine.models.catalog import builtin_card\n"
        "for name, side in (('yunet', 96), ('sface', 112)):\n"
        f"    folder = Path({str(tmp_path)!r})\n"
        "    session = open_session(builtin_card(name), SessionOptions(), folder)\n"
        "    session.run(np.zeros((2, 3, side, side), dtype=np.float32))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


@needs_openvino
@pytest.mark.parametrize(("precision", "least"), [("float32", 0.99999), ("bfloat16", 0.999)])
def test_openvino_points_in_the_same_direction(
    tmp_path: Path, precision: str, least: float
) -> None:
    card = builtin_card("sface")
    plain = structs.replace(card, rewriting=(Step.FOLD_WEIGHTS, Step.FREE_BATCH))
    faces = np.random.default_rng(0).uniform(0, 255, (4, 3, 112, 112)).astype(np.float32)
    options = SessionOptions(provider="openvino", precision=precision)
    (found,) = open_session(card, options, tmp_path).run(faces)
    (wanted,) = open_session(plain, CPU, tmp_path).run(faces)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    assert ((found * wanted).sum(axis=1) / lengths).min() > least


def test_a_graph_is_rewritten_once_and_read_from_the_cache_then(
    make_card: MakeCard, tmp_path: Path
) -> None:
    card, folder = make_card(), tmp_path / "new" / "cache"
    first = load_rewritten(card, DEFAULT_STEPS, folder)
    (cached,) = folder.iterdir()
    written = cached.stat().st_mtime_ns
    assert load_rewritten(card, DEFAULT_STEPS, folder) == first
    assert [path.stat().st_mtime_ns for path in folder.iterdir()] == [written]


def test_other_steps_and_other_models_are_cached_separately(
    make_card: MakeCard, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    graphs = {
        load_rewritten(make_card(dimension=dimension), steps, folder)
        for dimension in (8, 9)
        for steps in (DEFAULT_STEPS, (Step.FOLD_WEIGHTS,))
    }
    assert len(graphs) == len(list(folder.iterdir())) == 4


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped"])
def test_damaged_cache_file_is_made_anew(make_card: MakeCard, tmp_path: Path, damage: str) -> None:
    card, folder = make_card(), tmp_path / "cache"
    graph = load_rewritten(card, DEFAULT_STEPS, folder)
    (cached,) = folder.iterdir()
    whole = cached.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x10
    cached.write_bytes({"cut": whole[:-5], "empty": b"", "flipped": bytes(flipped)}[damage])
    assert load_rewritten(card, DEFAULT_STEPS, folder) == graph
    assert cached.read_bytes() == whole


def test_damaged_model_is_refused_even_when_its_graph_is_cached(
    make_card: MakeCard, tmp_path: Path
) -> None:
    card, folder = make_card(), tmp_path / "cache"
    load_rewritten(card, DEFAULT_STEPS, folder)
    (card.folder / "tiny.onnx").write_bytes(b"something else")
    with pytest.raises(ModelDamaged):
        load_rewritten(card, DEFAULT_STEPS, folder)


def test_threads_that_fill_the_cache_together_agree(make_card: MakeCard, tmp_path: Path) -> None:
    card, folder = make_card(), tmp_path / "cache"
    with ThreadPoolExecutor(8) as pool:
        graphs = list(pool.map(lambda _: load_rewritten(card, DEFAULT_STEPS, folder), range(16)))
    assert len(set(graphs)) == 1
    assert len(list(folder.iterdir())) == 1


def test_folder_that_cannot_be_made_is_reported(make_card: MakeCard, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match="choose another cache folder"):
        load_rewritten(make_card(), DEFAULT_STEPS, tmp_path / "file" / "cache")


def test_a_warm_cache_needs_no_onnx(make_card: MakeCard, tmp_path: Path) -> None:
    card, folder = make_card(), tmp_path / "cache"
    load_rewritten(card, DEFAULT_STEPS, folder)
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from engine.models.catalog import DEFAULT_STEPS, load_card\n"
        "from engine.models.session import load_rewritten\n"
        f"card = load_card(Path({str(card.folder / 'tiny.toml')!r}))\n"
        f"load_rewritten(card, DEFAULT_STEPS, Path({str(folder)!r}))\n"
        "print('onnx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "False"
