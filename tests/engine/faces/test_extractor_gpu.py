"""The Extractor on a CUDA device; skipped, and said so, where there is none."""

import numpy as np
import pytest

from engine.errors import RuntimeMissing
from engine.faces.extractor import Extraction, ExtractorConfig, open_extractor
from engine.models.catalog import builtin_card
from engine.models.onnx_sessions import SessionOptions, open_session

pytestmark = pytest.mark.gpu
CUDA = SessionOptions(provider="cuda")


@pytest.fixture(autouse=True)
def _needs_cuda_device() -> None:
    try:
        open_session(builtin_card("sface"), CUDA)
    except RuntimeMissing as error:
        pytest.skip(f"no CUDA device: {error}")


def test_cuda_session_opens_and_prefers_large_batches() -> None:
    session = open_session(builtin_card("sface"), CUDA)
    assert session.provider == "cuda"
    assert session.prefers_large_batches


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-3), ("tf32", 1e-2), ("float16", 1e-2)]
)
def test_cuda_batch_equals_the_cpus(extractor, photo, precision: str, tolerance: float) -> None:
    batch = [photo, b"not an image", photo] * 5
    options = SessionOptions(provider="cuda", precision=precision)
    with open_extractor(config=ExtractorConfig(), session=options) as on_gpu:
        found, wanted = on_gpu.extract(batch), extractor.extract(batch)
        assert on_gpu.model_digest == extractor.model_digest
    for one, other in zip(found, wanted, strict=True):
        assert type(one) is type(other)
        if isinstance(one, Extraction) and isinstance(other, Extraction):
            assert one.vector is not None
            assert other.vector is not None
            assert np.abs(one.vector - other.vector).max() < tolerance
