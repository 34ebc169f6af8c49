"""`/v1/enrollments/{id}/crops`: the aligned faces of an enrollment, where they are kept."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from engine.registry.reader import Reader
from engine.registry.records import AuditEntry
from serving.access.authorization import Action
from serving.api.dependencies import admit
from serving.api.fields import ID_EXAMPLE, Shown
from serving.api.openapi import describe
from serving.api.request import Call, call_of
from serving.parts import Parts

# The aligned faces of an enrollment, where the operator has them kept.


class CropShown(Shown):
    """An aligned face of 112 by 112 pixels, as it was compared."""

    photograph: Literal["live", "portrait"]
    image: str = Field(
        description="JPEG or PNG: base64 in JSON, binary in MessagePack",
        json_schema_extra={"contentEncoding": "base64"},
        repr=False,
    )
    kept_until: datetime


class CropsAnswer(Shown):
    """Empty where crops are not kept, or not any more."""

    enrollment_id: str = Field(examples=[ID_EXAMPLE])
    crops: list[CropShown]


def add_crops(router: APIRouter, parts: Parts) -> None:
    """Adds the route about crops."""

    async def read_crops(request: Request, enrollment_id: str) -> Response:
        """Both aligned faces as they were compared, where the operator has them kept and their
        time is not over; audited.
        """
        return await _read(parts, call_of(request), enrollment_id)

    router.add_api_route(
        "/v1/enrollments/{enrollment_id}/crops",
        read_crops,
        methods=["GET"],
        **describe(
            "Read an enrollment's crops",
            answers={200: CropsAnswer},
            errors=(400, 401, 403, 404, 406, 429, 503, 507),
        ),
    )


async def _read(parts: Parts, call: Call, enrollment_id: str) -> Response:
    principal = await admit(parts, call, Action.READ_CROPS)
    shown = await asyncio.to_thread(_show, parts.store, enrollment_id)
    detail = {"crops": len(shown["crops"])}
    entry = AuditEntry(principal.actor, "crops.read", shown["enrollment_id"], detail)
    await parts.registrar.note([entry], call.context(principal))
    return call.answer(shown)


def _show(store: Reader, enrollment_id: str) -> dict[str, Any]:
    # `NotFound` for what is no enrollment: an empty list would say that its crops are gone.
    record = store.enrollment(enrollment_id)
    return {
        "enrollment_id": record.id,
        "crops": [
            {"photograph": crop.photograph, "image": image, "kept_until": crop.kept_until}
            for crop, image in store.cases.crops(record.id)
        ],
    }
