from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image as PillowImage

from engine.faces.embedder import Pixels
from engine.faces.extractor import Extractor, ExtractorConfig, open_extractor
from engine.faces.images import Decoder, Image
from engine.models.catalog import builtin_card
from engine.models.onnx_sessions import Session, SessionOptions, open_session

Encode = Callable[..., bytes]


class WatchedSession:
    """Passes on to a real session, and remembers the shapes that it was given."""

    provider = "cpu"
    fixed_batch = None
    batch_sizes = ()

    def __init__(self, session: Session, *, prefers_large_batches: bool = False) -> None:
        self._session = session
        self.prefers_large_batches = prefers_large_batches
        self.shapes: list[tuple[int, ...]] = []

    @property
    def output_names(self) -> tuple[str, ...]:
        return self._session.output_names

    def run(self, inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        self.shapes.append(inputs.shape)
        return self._session.run(inputs)


@pytest.fixture(scope="session")
def astronaut() -> Pixels:
    """uint8[512, 512, 3]: a portrait photograph in the public domain (NASA)."""
    return np.asarray(skimage.data.astronaut())


@pytest.fixture(scope="session")
def encode() -> Encode:
    """Pixels or a Pillow picture to the bytes of an image file."""

    def encode(pixels: Any, kind: str = "JPEG", **options: Any) -> bytes:
        picture = pixels if isinstance(pixels, PillowImage.Image) else PillowImage.fromarray(pixels)
        file = BytesIO()
        if kind == "JPEG":
            options = {"quality": 95, **options}
        picture.save(file, kind, **options)
        return file.getvalue()

    return encode


@pytest.fixture(scope="session")
def decoder() -> Iterator[Decoder]:
    """The decoding processes of these tests."""
    decoder = Decoder()
    yield decoder
    decoder.close()


@pytest.fixture(scope="session")
def decode(decoder) -> Callable[[bytes], Image]:
    """`decode(data)`: the picture of a file, for good."""

    def decode(data: bytes) -> Image:
        with decoder.decode(data) as image:
            return replace(image, pixels=image.pixels.copy())

    return decode


@pytest.fixture(scope="session")
def photo(astronaut, encode) -> bytes:
    return encode(astronaut)


@pytest.fixture(scope="session")
def detector_session() -> Session:
    return open_session(builtin_card("yunet"), SessionOptions(provider="cpu"))


@pytest.fixture(scope="session")
def embedder_session() -> Session:
    return open_session(builtin_card("sface"), SessionOptions(provider="cpu"))


@pytest.fixture(scope="session")
def extractor() -> Iterator[Extractor]:
    config = ExtractorConfig(threads=2)
    options = SessionOptions(provider="cpu")
    with open_extractor(config=config, session=options) as opened:
        yield opened


@pytest.fixture(scope="session")
def lfw_photos() -> list[Path]:
    """Every 40th photograph of LFW."""
    folder = Path(__file__).parents[4] / "shared" / "lfw" / "images"
    if not folder.is_dir():
        pytest.skip(f"LFW is not in {folder}")
    return sorted(folder.glob("*/*.jpg"))[::40]
