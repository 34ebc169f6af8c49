import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from engine.accuracy.pair_scores import PairScores, TemplateSet, compare_all, single_templates
from engine.faces.extractor import Extractor, ExtractorConfig, open_extractor
from engine.models.onnx_sessions import SessionOptions

LFW = Path(__file__).parents[4] / "shared" / "lfw"
Labelled = tuple[NDArray[np.float32], NDArray[np.int64]]


@pytest.fixture(scope="session")
def draw_faces() -> Callable[..., Labelled]:
    """`draw_faces(people, photographs, noise=…, seed=…)`: unit rows and the person of each."""

    def draw(
        people: int, photographs: int, *, noise: float = 0.6, dim: int = 24, seed: int = 0
    ) -> Labelled:
        rng = np.random.default_rng(seed)
        labels = np.repeat(np.arange(people), photographs)
        rows = rng.standard_normal((people, dim))[labels]
        rows += noise * rng.standard_normal(rows.shape)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows.astype(np.float32), labels

    return draw


@pytest.fixture(scope="session")
def singles(draw_faces) -> TemplateSet:
    """120 people with four photographs."""
    return single_templates(*draw_faces(120, 4))


@pytest.fixture(scope="session")
def scores(singles) -> PairScores:
    return compare_all(singles)


@pytest.fixture(scope="session")
def extractor(tmp_path_factory) -> Iterator[Extractor]:
    """The real one, on the built-in models."""
    with open_extractor(
        config=ExtractorConfig(threads=2), session=SessionOptions(provider="cpu")
    ) as opened:
        yield opened


@pytest.fixture(scope="session")
def faces(tmp_path_factory) -> Path:
    """Six people of scikit-image's free faces, each with four variants of one photograph; not to
    be changed."""
    root = tmp_path_factory.mktemp("drawn") / "faces"
    # Faces of 25 by 25 pixels: these are found in all four variants.
    for number, pixels in enumerate(skimage.data.lfw_subset()[[1, 2, 3, 6, 7, 8]]):
        face = Image.fromarray((pixels * 255).clip(0, 255).astype(np.uint8)).convert("RGB")
        picture = Image.new("RGB", (250, 250), (128, 128, 128))
        picture.paste(face.resize((160, 160), Image.Resampling.BICUBIC), (45, 45))
        name = f"Person_{number}"
        (root / name).mkdir(parents=True)
        variants = (
            picture,
            ImageEnhance.Brightness(picture).enhance(1.2),
            ImageOps.mirror(picture),
            picture.rotate(6, fillcolor=(128, 128, 128)),
        )
        for i, variant in enumerate(variants, 1):
            variant.save(root / name / f"{name}_{i:04d}.png")
    return root


@pytest.fixture
def faces_folder(faces, tmp_path) -> Path:
    """A copy of them, for this test alone."""
    return Path(shutil.copytree(faces, tmp_path / "faces"))


@pytest.fixture(scope="session")
def lfw() -> Path:
    """The folder with `images` and `pairs.txt`."""
    if not LFW.is_dir():
        pytest.skip(f"LFW is not in {LFW}")
    return LFW
