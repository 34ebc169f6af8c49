"""Photographs without LFW: faces that scikit-image brings, in LFW's layout."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image

from bench.datasets import PhotographPairs, open_pairs
from engine.accuracy.population import Population

PEOPLE, PHOTOGRAPHS = 4, 4


def photograph(picture: Any, folder: Path, count: int, rng: np.random.Generator) -> None:
    """Photographs of one face in LFW's layout, each shifted and lit differently."""
    grey = Image.fromarray((np.asarray(picture) * 255).astype(np.uint8))
    face = np.asarray(grey.resize((200, 200), Image.Resampling.BICUBIC).convert("RGB"))
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        down, right = rng.integers(30, 50, 2)
        pixels = np.pad(face, ((down, 80 - down), (right, 80 - right), (0, 0)), mode="edge")
        # From the other side and in other light than the last: else two are one picture.
        light = np.linspace(0.75, 1.25, pixels.shape[1])[:: 1 - 2 * (number % 2)]
        lit = pixels * light[None, :, None] * (0.85 + 0.3 * (number - 1) / max(1, count - 1))
        lit = np.clip(lit, 0, 255).astype(np.uint8)
        Image.fromarray(lit).save(folder / f"{folder.name}_{number:04d}.jpg", quality=95)


@pytest.fixture(scope="session")
def faces(tmp_path_factory) -> Path:
    """Four people with four photographs each."""
    folder = tmp_path_factory.mktemp("bench") / "faces"
    rng = np.random.default_rng(3)
    for person, picture in enumerate(skimage.data.lfw_subset()[:PEOPLE]):
        photograph(picture, folder / f"Person_{person}", PHOTOGRAPHS, rng)
    return folder


@pytest.fixture(scope="session")
def photographs(faces) -> Iterator[PhotographPairs]:
    """Three pairs of them."""
    with open_pairs(faces, 3, seed=0) as pairs:
        yield pairs


@pytest.fixture(scope="session")
def population() -> Population:
    return Population.load("sface")


@pytest.fixture
def run_here(capsys) -> Callable[..., tuple[int, str, str]]:
    """`run_here(*arguments)`: exit status, standard output and standard error of the bench."""
    from bench.__main__ import app

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            app(list(arguments))
        return (int(ended.value.code or 0), *capsys.readouterr())

    return run
