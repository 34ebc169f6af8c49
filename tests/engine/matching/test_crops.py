"""Aligned faces are kept only where the policy says so, sealed all the way."""

from __future__ import annotations

import io
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.errors import SealBroken
from engine.matching.documents import Document
from engine.matching.requests import CropPolicy, EnrollmentRequest, Keep, Sample, seal_crop
from engine.registry.vault import Vault

NOW = datetime(2026, 5, 4, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def face() -> Any:
    """A smooth picture uint8[112, 112, 3] of three different channels."""
    rows, columns = np.mgrid[0:112, 0:112]
    return np.stack([rows * 2, columns * 2, 255 - rows - columns // 2], axis=-1).astype(np.uint8)


def attempt(vault: Vault, face: Any, *, with_crops: bool = True) -> EnrollmentRequest:
    def sample(digest: bytes) -> Sample:
        crop = seal_crop(vault, digest, face) if with_crops else None
        return Sample(None, digest, crop=crop)

    return EnrollmentRequest(
        idempotency_key="k",
        carrier="red",
        outlet="r1",
        document=Document("passport", "P1", "A Holder"),
        msisdn="+8613800138000",
        live=sample(b"l" * 32),
        portrait=sample(b"p" * 32),
    )


@pytest.mark.parametrize(
    ("keep", "has_case", "kept"),
    [
        (Keep.NONE, True, 0),
        (Keep.CASES, False, 0),
        (Keep.CASES, True, 2),
        (Keep.ALL, False, 2),
    ],
)
def test_crops_are_kept_only_of_the_attempts_that_the_policy_names(
    keep: Keep, has_case: bool, kept: int, vault: Vault, face: Any
) -> None:
    policy = CropPolicy(keep, 7 * DAY)
    chosen = policy.choose(vault, attempt(vault, face), "e", has_case, NOW)
    assert len(chosen) == kept
    assert policy.keeps_any == (keep is not Keep.NONE)
    assert {crop.kept_until for crop in chosen} <= {NOW + 7 * DAY}


def test_a_crop_is_the_face_as_it_was_aligned(vault: Vault, face: Any) -> None:
    chosen = CropPolicy(Keep.ALL).choose(vault, attempt(vault, face), "e", False, NOW)
    assert [crop.photograph for crop in chosen] == ["live", "portrait"]
    with Image.open(io.BytesIO(chosen[0].image)) as image:
        assert (image.format, image.size) == ("JPEG", (112, 112))
        difference = np.abs(np.asarray(image).astype(int) - face).mean()
    assert difference < 2


def test_an_attempt_without_crops_leaves_none(vault: Vault, face: Any) -> None:
    request = attempt(vault, face, with_crops=False)
    assert CropPolicy(Keep.ALL).choose(vault, request, "e", True, NOW) == []


def test_a_crop_on_its_way_to_the_registrar_is_sealed(vault: Vault, face: Any) -> None:
    request = attempt(vault, face)
    image = CropPolicy(Keep.ALL).choose(vault, request, "e", True, NOW)[0].image
    assert image not in pickle.dumps(request)
    assert "crop" not in repr(request.live)


def test_a_crop_of_another_photograph_is_not_taken(vault: Vault, face: Any) -> None:
    request = attempt(vault, face)
    moved = Sample(None, b"x" * 32, crop=request.live.crop)
    swapped = EnrollmentRequest(
        **{name: getattr(request, name) for name in request.__slots__} | {"live": moved}
    )
    with pytest.raises(SealBroken):
        CropPolicy(Keep.ALL).choose(vault, swapped, "e", True, NOW)
