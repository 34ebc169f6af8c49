"""Transforms of vectors: applied, undone, and kept in a file that is checked."""

import hashlib

import numpy as np
import pytest
from msgspec import structs

from engine.errors import ModelCardInvalid, ModelDamaged
from engine.faces.extractor import digest_embedding
from engine.models.catalog import (
    Transform,
    builtin_card,
    name_transform,
    read_transform,
    without_transform,
)

DIM = 128


def units(rows: int, seed: int = 0) -> np.typing.NDArray[np.float32]:
    drawn = np.random.default_rng(seed).standard_normal((rows, DIM))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def transform() -> Transform:
    return Transform(np.random.default_rng(1).normal(0, 0.02, DIM).astype(np.float32))


def test_rows_are_of_unit_length_and_have_the_same_bits_in_any_batch(transform) -> None:
    rows = units(50)
    together = transform.apply(rows)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    for place in range(50):
        assert np.array_equal(transform.apply(rows[place : place + 1])[0], together[place])
    np.testing.assert_allclose(transform.undo(together), rows, atol=1e-6)


def test_a_file_is_believed_by_the_digest_on_the_card_alone(transform, tmp_path) -> None:
    content = transform.to_bytes()
    (tmp_path / "own.npz").write_bytes(content)
    card = structs.replace(
        name_transform(builtin_card("sface"), "own.npz", transform), folder=tmp_path
    )
    assert card.transform_sha256 == hashlib.sha256(content).hexdigest()
    found = read_transform(card)
    assert found.to_bytes() == content
    (tmp_path / "own.npz").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelDamaged, match="fetch the file again"):
        read_transform(card)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"no archive", "is no transform"),
        (Transform(np.zeros(4, np.float32)).to_bytes(), "not the mean of unit vectors float32.128"),
        (
            Transform(np.full(DIM, np.nan, np.float32)).to_bytes(),
            "not the mean of unit vectors float32.128",
        ),
        (Transform(np.ones(DIM, np.float32)).to_bytes(), "not the mean of unit vectors"),
        (Transform(np.zeros(DIM)).to_bytes(), "not the mean of unit vectors float32.128"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_transform_of_these_vectors_is_refused(content: bytes, fault: str) -> None:
    with pytest.raises(ModelCardInvalid, match=fault):
        Transform.from_bytes(content, DIM)


def test_vectors_before_and_after_a_transform_are_of_two_models(transform) -> None:
    card = name_transform(builtin_card("sface"), "own.npz", transform)
    other = name_transform(card, "own.npz", Transform(transform.mean / 2))
    cards = (without_transform(card), card, other)
    assert len({digest_embedding(one, flip=False) for one in cards}) == 3
