"""Photographs without LFW: faces that scikit-image brings, in LFW's layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from bench.data.photographs import PhotographPairs, open_pairs
from engine.accuracy.population import Population

PEOPLE, PHOTOGRAPHS = 4, 4


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people with four photographs each: one face a person, shifted and lit differently."""
    folder = tmp_path_factory.mktemp("bench") / "faces"
    rng = np.random.default_rng(3)
    for person, small in enumerate(skimage.data.lfw_subset()[:PEOPLE]):
        grey = Image.fromarray((np.asarray(small) * 255).astype(np.uint8)).resize((200, 200))
        for number in range(1, PHOTOGRAPHS + 1):
            shift = rng.integers(30, 50, 2)
            margins = ((shift[0], 80 - shift[0]), (shift[1], 80 - shift[1]), (0, 0))
            pixels = np.pad(np.asarray(grey.convert("RGB")), margins, mode="edge")
            lit = np.clip(pixels * rng.uniform(0.9, 1.1), 0, 255).astype(np.uint8)
            path = folder / f"Person_{person}" / f"Person_{person}_{number:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(lit).save(path, quality=95)
    return folder


@pytest.fixture(scope="session")
def photographs(faces: Path) -> Iterator[PhotographPairs]:
    """Three pairs of them."""
    with open_pairs(faces, 3, seed=0) as pairs:
        yield pairs


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where rewritten graphs are kept among tests."""
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="session")
def population() -> Population:
    return Population.load("sface")


@pytest.fixture
def run_here(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`run_here(*arguments)`: exit status, standard output and standard error of the bench."""
    from bench.__main__ import app

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            app(list(arguments))
        return (int(ended.value.code or 0), *capsys.readouterr())

    return run
