"""A vault, unit rows, an extractor that works only when a test lets it, and a queue before it."""

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import structlog
from numpy.typing import NDArray

from engine.errors import ImageDamaged
from engine.faces.extractor import Extracted, Extraction
from engine.registry.keyring import KeyRing
from engine.registry.vault import Vault
from schema.reasons import Reason
from serving.ingress.extraction_queue import ExtractionQueue
from tests.serving.meters import RecordingMeter

CAPACITY = 64
DIM = 32


class BlockedExtractor:
    """Extracts what is released; a vector follows from the bytes alone.

    Bytes that begin with `bad` are damaged, with `nobody` show no face.
    """

    threads = 1

    def __init__(self) -> None:
        self.released = threading.Event()
        self.released.set()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[bytes]] = []
        self.failure: Exception | None = None

    def extract(self, images: Sequence[bytes], *_: object) -> list[Extracted]:
        self.entered.release()
        assert self.released.wait(120)
        if self.failure is not None:
            raise self.failure
        self.batches.append(list(images))
        return [self._extract_one(image) for image in images]

    def _extract_one(self, image: bytes) -> Extracted:
        if image.startswith(b"bad"):
            return ImageDamaged("the image is damaged: send another")
        is_face = not image.startswith(b"nobody")
        return Extraction(
            size_px=(1, 1),
            problems=() if is_face else (Reason.NO_FACE,),
            vector=vector_of(image) if is_face else None,
        )


def vector_of(image: bytes) -> NDArray[np.float32]:
    """A unit vector float32[DIM] drawn from the bytes."""
    seed = int.from_bytes(hashlib.sha256(image).digest()[:4], "big")
    return unit_rows(1, seed)[0]


def unit_rows(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Unit rows float32[count, DIM]."""
    rows = np.random.default_rng(seed).standard_normal((count, DIM))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


@pytest.fixture
def units() -> Callable[..., NDArray[np.float32]]:
    """`units(n, seed=0)`: unit rows float32[n, DIM]."""
    return unit_rows


@pytest.fixture
def extractor() -> BlockedExtractor:
    return BlockedExtractor()


@pytest.fixture(scope="session")
def ring() -> KeyRing:
    return KeyRing.generate()


@pytest.fixture(scope="session")
def vault(ring) -> Vault:
    return Vault(ring, DIM)


@pytest.fixture
def meter() -> RecordingMeter:
    return RecordingMeter()


@pytest.fixture
def queue(extractor, vault, meter) -> Iterator[ExtractionQueue]:
    log = structlog.get_logger()
    made = ExtractionQueue(extractor, vault, capacity=CAPACITY, meter=meter, log=log)
    yield made
    extractor.released.set()
    made.close(10)
