"""What most routes begin with: who calls, what the body says, whose face it shows."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from engine.errors import ImageError
from engine.matching.requests import MAX_KEY_LENGTH, Sample
from serving.access.authorization import Action, Principal, authorize, template_tenant
from serving.api.request import Call
from serving.api.schemas.matching import Face
from serving.errors import (
    FaceUnusable,
    IdempotencyKeyInvalid,
    IdempotencyKeyMissing,
    TemplateInvalid,
)
from serving.parts import Parts

M = TypeVar("M", bound=BaseModel)


async def identify_caller(parts: Parts, call: Call) -> Principal:
    """Whose key it is; `Unauthenticated`, `RateLimited`."""
    key = call.key
    principal = parts.gate.admit_known(key) or await parts.gate.admit(key)
    call.principal = principal
    return principal


async def admit(parts: Parts, call: Call, action: Action) -> Principal:
    """The same for one who may do this; `Forbidden`. To be called before a body is read."""
    principal = await identify_caller(parts, call)
    authorize(principal, action)
    return principal


async def read_body(call: Call, model: type[M]) -> M:
    """The body as the model says; `ValidationError`, and what `Call.read_value` raises."""
    return await call.work_apart(model.model_validate, await call.read_value())


def read_idempotency_key(call: Call) -> str:
    """The Idempotency-Key: 1 to 255 printable characters of ASCII."""
    key = call.idempotency_key
    if key is None:
        raise IdempotencyKeyMissing(
            "give an Idempotency-Key: a fresh UUID for each activation, the same for its retries"
        )
    if not (key.isascii() and key.isprintable() and 1 <= len(key) <= MAX_KEY_LENGTH):
        raise IdempotencyKeyInvalid(
            f"the Idempotency-Key must be 1 to {MAX_KEY_LENGTH} printable characters of ASCII"
        )
    return key


async def sample_images(parts: Parts, call: Call, images: dict[str, bytes]) -> list[Sample]:
    """A sample of each image; raises the first error, with the field that it speaks of."""
    with parts.tracer.span("extract", items=len(images)):
        samples = await parts.faces.sample(list(images.values()), call.remaining_s)
    sound = []
    for name, sample in zip(images, samples, strict=True):
        if isinstance(sample, ImageError):
            raise type(sample)(f"{name}: {sample}")
        sound.append(sample)
    return sound


async def take_faces(
    parts: Parts, call: Call, principal: Principal, faces: dict[str, Face]
) -> list[NDArray[np.float32]]:
    """The rotated unit vector float32[d] of each face, by the name of its field.

    `FaceUnusable` for a photograph that cannot be matched, `TemplateInvalid`, an `ImageError`.
    """
    images = {name: face.image for name, face in faces.items() if face.image is not None}
    found: dict[str, NDArray[np.float32]] = {}
    if images:
        samples = await sample_images(parts, call, images)
        found = {
            name: _require_usable(name, sample)
            for name, sample in zip(images, samples, strict=True)
        }
    tokens = {name: face.template for name, face in faces.items() if face.template is not None}
    opened = parts.templates.open(list(tokens.values()), template_tenant(principal))
    for name, vector in zip(tokens, opened, strict=True):
        if isinstance(vector, TemplateInvalid):
            raise type(vector)(f"{name}: {vector}")
        found[name] = vector
    return [found[name] for name in faces]


async def take_face(
    parts: Parts, call: Call, principal: Principal, face: Face
) -> NDArray[np.float32]:
    """The same for the one face that a body names `probe`."""
    return (await take_faces(parts, call, principal, {"probe": face}))[0]


def _require_usable(name: str, sample: Sample) -> NDArray[np.float32]:
    if sample.is_usable and sample.vector is not None:
        return sample.vector
    problems = [str(problem) for problem in sample.problems] or ["NO_FACE"]
    raise FaceUnusable(
        f"{name} cannot be matched ({', '.join(problems)}): take another photograph",
        reason=problems[0],
    )
