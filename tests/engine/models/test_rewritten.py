"""The folder of rewritten graphs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.errors import ModelDamaged, ModelError
from engine.models.catalog import DEFAULT_STEPS, ModelCard, Step
from engine.models.rewritten import load_rewritten

MakeCard = Callable[..., ModelCard]


def test_graph_is_made_once_and_read_again(make_card: MakeCard, tmp_path: Path) -> None:
    card, folder = make_card(), tmp_path / "new" / "cache"
    first = load_rewritten(card, DEFAULT_STEPS, folder)
    (kept,) = folder.iterdir()
    written = kept.stat().st_mtime_ns
    assert load_rewritten(card, DEFAULT_STEPS, folder) == first
    assert [path.stat().st_mtime_ns for path in folder.iterdir()] == [written]


def test_other_steps_and_other_models_are_kept_apart(make_card: MakeCard, tmp_path: Path) -> None:
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
    (kept,) = folder.iterdir()
    whole = kept.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x10
    kept.write_bytes({"cut": whole[:-5], "empty": b"", "flipped": bytes(flipped)}[damage])
    assert load_rewritten(card, DEFAULT_STEPS, folder) == graph
    assert kept.read_bytes() == whole


def test_damaged_model_is_refused_even_when_its_graph_is_kept(
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
        "from engine.models.rewritten import load_rewritten\n"
        f"card = load_card(Path({str(card.folder / 'tiny.toml')!r}))\n"
        f"load_rewritten(card, DEFAULT_STEPS, Path({str(folder)!r}))\n"
        "print('onnx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "False"
