"""A part of an import as `sosie import` sends it to a running service."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from serving.wire.fields import AnswerBody, RequestBody

SEALED_EXAMPLE = "AQAAAAAA"
MOST_SEALED_BYTES = 24 * 2**20
PlanDigest = Annotated[str, Meta(max_length=64)]


class ImportChunk(RequestBody, frozen=True):
    """Rows of an import, sealed with the deployment's own key ring: nobody else makes one."""

    sealed: Annotated[
        bytes,
        Meta(
            min_length=1,
            max_length=MOST_SEALED_BYTES,
            description="base64 in JSON, binary in MessagePack",
        ),
    ]
    planned: Annotated[
        PlanDigest | None,
        Meta(
            description="null: it is planned, and nothing is stored; the `digest` of a plan: it is "
            "stored, if the plan is still that one"
        ),
    ] = None


class AdmittedRow(AnswerBody, frozen=True):
    """What becomes of one row, in the order they were sent."""

    refusal: Annotated[str | None, Meta(description="why it is not taken in")]
    adds_reference: bool
    adds_line: bool
    name_differs: bool
    is_watched: bool


class AdmittedChunk(AnswerBody, frozen=True):
    """A plan, or what was stored by one. Sent again after that it is told, without rows."""

    digest: str
    is_committed: bool
    rows: tuple[AdmittedRow, ...]
    look_alikes: Annotated[
        int, Meta(description="faces that are there under another document; of a first plan")
    ] = 0
