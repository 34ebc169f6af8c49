"""From photographs to samples: rotated, digested, in order."""

from __future__ import annotations

import hashlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from skimage import data

from engine.errors import ImageError
from engine.faces.extractor import Extraction, Extractor, open_extractor
from engine.matching.requests import Sample, make_samples, take_samples
from engine.reasons import Reason
from engine.registry.keyring import KeyRing
from engine.registry.vault import Vault


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> Extractor:
    return open_extractor(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def face_vault(extractor: Extractor) -> Vault:
    return Vault(KeyRing.generate(), extractor.dim)


def encode(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def test_each_image_gives_its_sample_or_its_error_in_order(
    extractor: Extractor, face_vault: Vault
) -> None:
    face = Image.fromarray(data.astronaut())
    images = [encode(Image.new("RGB", (64, 64))), b"no image", encode(face), encode(face.rotate(5))]
    faceless, broken, one, other = take_samples(images, extractor, face_vault)
    assert isinstance(broken, ImageError)
    assert isinstance(faceless, Sample)
    assert faceless.vector is None
    assert faceless.problems == (Reason.NO_FACE,)
    assert not faceless.quality
    assert isinstance(one, Sample)
    assert isinstance(other, Sample)
    assert one.digest == hashlib.sha256(images[2]).digest()
    assert one.quality["inter_eye_px"] > 20
    assert one.vector is not None
    assert other.vector is not None
    assert float(one.vector @ other.vector) > 0.8


def test_a_samples_vector_is_rotated_and_keeps_its_scores(
    extractor: Extractor, face_vault: Vault
) -> None:
    face = Image.fromarray(data.astronaut())
    images = [encode(face), encode(face.rotate(5))]
    plain = extractor.extract(images)
    assert all(isinstance(one, Extraction) for one in plain)
    vectors = np.stack([one.vector for one in plain if isinstance(one, Extraction)])
    samples = make_samples(images, plain, face_vault)
    turned = np.stack([one.vector for one in samples if isinstance(one, Sample)])
    assert abs(float(turned[0] @ turned[1]) - float(vectors[0] @ vectors[1])) < 1e-5
    assert abs(float(turned[0] @ vectors[0])) < 0.5


def test_crops_go_with_the_samples_only_where_they_are_asked_for(
    extractor: Extractor, face_vault: Vault
) -> None:
    images = [encode(Image.new("RGB", (64, 64))), encode(Image.fromarray(data.astronaut()))]
    plain = take_samples(images, extractor, face_vault)
    assert [one.crop for one in plain if isinstance(one, Sample)] == [None, None]
    faceless, face = take_samples(images, extractor, face_vault, with_crops=True)
    assert isinstance(faceless, Sample)
    assert faceless.crop is None
    assert isinstance(face, Sample)
    assert face.crop is not None
    # Sealed: no image file begins so.
    assert not face.crop.startswith(b"\xff\xd8")


def test_nothing_gives_nothing(extractor: Extractor, face_vault: Vault) -> None:
    assert take_samples([], extractor, face_vault) == []
