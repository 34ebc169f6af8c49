"""Requests: stored answers and refusals, samples of photographs, and kept crops."""

import hashlib
import io
import pickle
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from msgspec import structs, to_builtins
from PIL import Image
from skimage import data

from engine.errors import (
    IdempotencyMismatch,
    ImageError,
    ModelError,
    OutletRefused,
    RequestError,
    SealBroken,
)
from engine.faces.extractor import Extraction, Extractor, open_extractor
from engine.matching.requests import Answer, EnrollmentRequest
from engine.matching.samples import (
    Sample,
    SecondEmbedder,
    choose_crops,
    is_same_photograph,
    make_samples,
    seal_crop,
    take_samples,
)
from engine.registry import cases, keyring
from engine.registry.vault import Vault
from schema.documents import Document
from schema.options import CropPolicy
from schema.people import Consent
from schema.phases import CropScope
from schema.reasons import Decision, PhotographKind, Reason
from tests.engine.faces.records import write_19794_2011


@pytest.mark.parametrize(
    "changes", [{"outlet": "nowhere"}, {"outlet": "red-1"}, {"carrier": "red"}, {"outlet": "shut"}]
)
def test_a_foreign_or_closed_outlet_is_refused_and_nothing_is_stored(
    lab, registrar, changes: dict[str, str]
) -> None:
    lab.store.add_outlet("shut", "blue", actor="test")
    lab.store.close_outlet("shut", actor="test")
    before = lab.store.counts()
    outcome = registrar.enroll([lab.request(**changes)])[0]
    assert isinstance(outcome, OutletRefused)
    assert lab.store.counts() == before


def test_the_same_key_and_payload_give_the_stored_answer(lab) -> None:
    request = lab.request()
    with lab.registrar() as registrar:
        first = registrar.enroll([request])[0]
        before = lab.store.counts()
        second = registrar.enroll([request])[0]
    with lab.registrar() as reopened:
        third = reopened.enroll([request])[0]
    assert not first.is_repeated
    assert second == third
    assert to_builtins(third) == to_builtins(replace(first, is_repeated=True))
    assert lab.store.counts() == before


def test_the_same_key_with_another_payload_is_refused(lab, registrar) -> None:
    request = lab.request()
    changed = [
        replace(request, msisdn="+8613800138000"),
        replace(request, live=lab.people.sample(lab.people.person())),
        replace(request, document=structs.replace(request.document, name="Another Name")),
    ]
    registrar.enroll([request])
    before = lab.store.counts()
    outcomes = [registrar.enroll([one])[0] for one in changed]
    assert all(isinstance(outcome, IdempotencyMismatch) for outcome in outcomes)
    assert lab.store.counts() == before


def test_two_carriers_may_use_one_key(lab, registrar) -> None:
    outcomes = registrar.enroll(
        [
            lab.request(idempotency_key="one"),
            lab.request(idempotency_key="one", carrier="red", outlet="red-1"),
        ]
    )
    assert [outcome.decision for outcome in outcomes] == [Decision.APPROVED] * 2


@pytest.mark.parametrize(
    "changes",
    [
        {"idempotency_key": ""},
        {"idempotency_key": "k" * 10_000},
        {"idempotency_key": "a\nb"},
        {"msisdn": "12"},
        {"msisdn": "not a number"},
        {"document": Document("library-card", "1", "A Name")},
        {"consent": Consent("c" * 201)},
        # What no database stores.
        {"consent": Consent("a\0b")},
        {"outlet": "blue-1\0"},
        {"idempotency_key": "\ud800"},
        {"document": Document("cn-ric", "11010519491231002X", "half \ud800")},
    ],
)
def test_what_cannot_be_judged_is_an_error_beside_its_neighbours(
    lab, registrar, changes: dict[str, Any]
) -> None:
    outcomes = registrar.enroll([lab.request(), lab.request(**changes), lab.request()])
    assert isinstance(outcomes[1], RequestError)
    assert "\n" not in str(outcomes[1])
    assert [type(outcome) for outcome in outcomes[::2]] == [Answer, Answer]


@pytest.fixture(scope="module")
def extractor() -> Iterator[Extractor]:
    with open_extractor() as extractor:
        yield extractor


@pytest.fixture
def face_vault(extractor) -> Vault:
    return Vault(keyring.KeyRing.generate(), extractor.dim)


def encode(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def test_each_image_gives_its_sample_or_its_error_in_order(extractor, face_vault) -> None:
    face = Image.fromarray(data.astronaut())
    images = [
        encode(Image.new("RGB", (64, 64), "grey")),
        b"no image",
        encode(face),
        encode(face.rotate(5)),
    ]
    faceless, broken, one, other = take_samples(images, extractor, face_vault)
    assert isinstance(broken, ImageError)
    assert faceless.vector is None
    assert faceless.problems == (Reason.NO_FACE,)
    assert not faceless.quality
    assert one.digest == hashlib.sha256(images[2]).digest()
    assert one.quality["inter_eye_px"] > 20
    assert one.vector is not None
    assert other.vector is not None
    assert float(one.vector @ other.vector) > 0.8


def test_a_samples_vector_is_rotated_and_keeps_its_scores(extractor, face_vault) -> None:
    face = Image.fromarray(data.astronaut())
    images = [encode(face), encode(face.rotate(5))]
    plain = extractor.extract(images)
    assert all(isinstance(one, Extraction) for one in plain)
    vectors = np.stack([one.vector for one in plain if isinstance(one, Extraction)])
    samples = make_samples(images, plain, face_vault)
    turned = np.stack([one.vector for one in samples if isinstance(one, Sample)])
    assert abs(float(turned[0] @ turned[1]) - float(vectors[0] @ vectors[1])) < 1e-5
    assert abs(float(turned[0] @ vectors[0])) < 0.5


def test_a_portrait_in_a_record_is_known_by_its_image_and_by_its_record(
    extractor, face_vault
) -> None:
    image = encode(Image.fromarray(data.astronaut()))
    record = write_19794_2011(image, 3)
    kinds = [None, PhotographKind.CHIP]
    bare, inside = take_samples([image, record], extractor, face_vault, kinds)
    assert inside.digest == bare.digest == hashlib.sha256(image).digest()
    assert is_same_photograph(face_vault, bare, inside)
    assert (bare.record_digest, bare.kind) == (None, None)
    assert inside.record_digest == hashlib.sha256(record).digest()
    assert inside.kind is PhotographKind.CHIP


def test_crops_go_with_the_samples_only_where_they_are_asked_for(extractor, face_vault) -> None:
    images = [encode(Image.new("RGB", (64, 64))), encode(Image.fromarray(data.astronaut()))]
    plain = take_samples(images, extractor, face_vault)
    assert [one.crop for one in plain if isinstance(one, Sample)] == [None, None]
    faceless, face = take_samples(images, extractor, face_vault, with_crops=True)
    assert faceless.crop is None
    # Sealed: no image file begins so.
    assert not face.crop.startswith(b"\xff\xd8")


NOW = datetime(2026, 5, 4, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def face() -> Any:
    """A smooth picture uint8[112, 112, 3] of three different channels."""
    rows, columns = np.mgrid[0:112, 0:112]
    return np.stack([rows * 2, columns * 2, 255 - rows - columns // 2], axis=-1).astype(np.uint8)


def attempt(vault: Vault, face: Any) -> EnrollmentRequest:
    def sample(digest: bytes) -> Sample:
        return Sample(None, digest, crop=seal_crop(vault, digest, face))

    return EnrollmentRequest(
        idempotency_key="k",
        carrier="red",
        outlet="r1",
        document=Document("passport", "P1", "A Holder"),
        msisdn="+8613800138000",
        live=sample(b"l" * 32),
        portrait=sample(b"p" * 32),
    )


def choose(
    policy: CropPolicy, vault: Vault, request: EnrollmentRequest, *, has_case: bool = False
) -> list[cases.CropRecord]:
    samples = {"live": request.live, "portrait": request.portrait}
    return choose_crops(
        policy, vault, samples, enrollment_id="e", document_id="d", has_case=has_case, at=NOW
    )


@pytest.mark.parametrize(
    ("keep", "hold_days", "has_case", "kept_days"),
    [
        (CropScope.NONE, 3, True, None),
        (CropScope.CASES, 0, False, None),
        (CropScope.CASES, 3, False, 3),
        (CropScope.CASES, 3, True, 7),
        (CropScope.ALL, 0, False, 7),
    ],
)
def test_crops_are_kept_or_held_only_of_the_photographs_that_the_policy_names(
    keep: CropScope, hold_days: int, has_case: bool, kept_days: int | None, vault, face
) -> None:
    policy = CropPolicy(keep, 7, hold_days)
    chosen = choose(policy, vault, attempt(vault, face), has_case=has_case)
    assert len(chosen) == (0 if kept_days is None else 2)
    assert policy.keeps_any == (keep is not CropScope.NONE)
    for crop in chosen:
        assert crop.kept_until == NOW + DAY * (kept_days or 0)
        assert bool(crop.is_held) == (kept_days == hold_days)
        assert (crop.case_days, crop.document_id, crop.received_at) == (7, "d", NOW)


def test_a_crop_is_the_face_as_it_was_aligned(vault, face) -> None:
    chosen = choose(CropPolicy(CropScope.ALL), vault, attempt(vault, face))
    assert [crop.photograph for crop in chosen] == ["live", "portrait"]
    with Image.open(io.BytesIO(chosen[0].image)) as image:
        assert (image.format, image.size) == ("JPEG", (112, 112))
        difference = np.abs(np.asarray(image).astype(int) - face).mean()
    assert difference < 2


def test_an_attempt_without_crops_leaves_none(vault, face) -> None:
    bare = Sample(None, b"l" * 32)
    request = replace(attempt(vault, face), live=bare, portrait=bare)
    assert choose(CropPolicy(CropScope.ALL), vault, request) == []


def test_a_crop_on_its_way_to_the_registrar_is_sealed(vault, face) -> None:
    request = attempt(vault, face)
    image = choose(CropPolicy(CropScope.ALL), vault, request)[0].image
    assert image not in pickle.dumps(request)
    assert "crop" not in repr(request.live)


def test_a_crop_of_another_photograph_is_not_taken(vault, face) -> None:
    request = attempt(vault, face)
    moved = Sample(None, b"x" * 32, crop=request.live.crop)
    with pytest.raises(SealBroken):
        choose(CropPolicy(CropScope.ALL), vault, replace(request, live=moved))


def test_a_second_model_that_fails_fails_nobody(vault, caplog) -> None:
    class Broken:
        def embed(self, crops: Any) -> Any:
            if len(crops) == 1:
                raise ModelError("no kernel")
            return np.array([[1, 0], [np.nan, 0], [0, 0]], np.float32)

    second = SecondEmbedder(Broken(), "sha256:second", vault.of_dimension(2))  # type: ignore[arg-type]
    assert second.embed(np.zeros((1, 4, 4, 3), np.uint8)) == [None]
    assert "no kernel" in caplog.text
    fine, *others = second.embed(np.zeros((3, 4, 4, 3), np.uint8))
    assert others == [None, None]
    assert abs(float(np.linalg.norm(fine.vector)) - 1) < 1e-5
