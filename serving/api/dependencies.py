"""What most routes need: whose key it is, the faces that a body shows, an audit entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.errors import ImageError
from engine.matching.documents import Document
from engine.matching.requests import MAX_KEY_LENGTH, Sample
from engine.registry.records import AuditEntry
from serving.access.authorization import template_tenant
from serving.api.request import Request
from serving.errors import (
    FaceUnusable,
    IdempotencyKeyInvalid,
    IdempotencyKeyMissing,
    TemplateInvalid,
)
from serving.parts import Parts
from serving.wire.fields import KnownDocument
from serving.wire.matching import Face

T = TypeVar("T")
N = TypeVar("N")


async def admit(parts: Parts, request: Request) -> None:
    """Finds whose key it is, before a body is read; `Unauthenticated`, `RateLimited`."""
    key = request.key
    request.principal = parts.gate.admit_known(key) or await parts.gate.admit(key)


def read_idempotency_key(request: Request) -> str:
    """The Idempotency-Key: 1 to 255 printable characters of ASCII."""
    key = request.idempotency_key
    if key is None:
        raise IdempotencyKeyMissing(
            "give an Idempotency-Key: a fresh UUID for each activation, the same for its retries"
        )
    if not (key.isascii() and key.isprintable() and 1 <= len(key) <= MAX_KEY_LENGTH):
        raise IdempotencyKeyInvalid(
            f"the Idempotency-Key must be 1 to {MAX_KEY_LENGTH} printable characters of ASCII"
        )
    return key


async def note(parts: Parts, request: Request, action: str, subject: str, **detail: object) -> None:
    """Keeps in the audit chain what the caller does, before it is answered."""
    entry = AuditEntry(request.caller.actor, action, subject, detail)
    await parts.registrar.note([entry], request.context())


async def sample_images(
    parts: Parts, request: Request, images: dict[str, bytes]
) -> Sequence[Sample]:
    """A sample of each image; raises the first error, with the field that it speaks of."""
    with parts.tracer.span("extract", items=len(images)):
        samples = await parts.faces.sample(list(images.values()), request.remaining_s)
    sound = []
    for name, sample in zip(images, samples, strict=True):
        if isinstance(sample, ImageError):
            raise type(sample)(f"{name}: {sample}")
        sound.append(sample)
    return sound


async def take_faces(
    parts: Parts, request: Request, **faces: Face
) -> Sequence[NDArray[np.float32]]:
    """The rotated unit vector float32[d] of each face, by the name of its field.

    `FaceUnusable` for a photograph that cannot be matched, `TemplateInvalid`, an `ImageError`.
    """
    images = {name: face.image for name, face in faces.items() if face.image is not None}
    found: dict[str, NDArray[np.float32]] = {}
    if images:
        samples = await sample_images(parts, request, images)
        found = {
            name: _require_usable(name, sample)
            for name, sample in zip(images, samples, strict=True)
        }
    tokens = {name: face.template for name, face in faces.items() if face.template is not None}
    opened = parts.templates.open(list(tokens.values()), template_tenant(request.caller))
    for name, vector in zip(tokens, opened, strict=True):
        if isinstance(vector, TemplateInvalid):
            raise type(vector)(f"{name}: {vector}")
        found[name] = vector
    return [found[name] for name in faces]


async def take_face(parts: Parts, request: Request, probe: Face) -> NDArray[np.float32]:
    """The same for the one face that a body names `probe`."""
    return (await take_faces(parts, request, probe=probe))[0]


def _require_usable(name: str, sample: Sample) -> NDArray[np.float32]:
    if sample.is_usable and sample.vector is not None:
        return sample.vector
    problems = [str(problem) for problem in sample.problems] or ["NO_FACE"]
    raise FaceUnusable(
        f"{name} cannot be matched ({', '.join(problems)}): take another photograph",
        reason=problems[0],
    )


def known_document(document: KnownDocument) -> Document:
    """A document that is looked up: its holder's name says nothing."""
    return Document(document.type, document.number, "any holder")


def next_page(page: Sequence[T], limit: int, place_of: Callable[[T], N]) -> N | None:
    """Where the next page begins; None where this one is the last.

    A page that is just full may be followed by one with nothing in it.
    """
    return place_of(page[-1]) if len(page) == limit else None
