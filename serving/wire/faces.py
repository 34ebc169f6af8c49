"""Wire types of faces side by side: whose are asked for, what is kept, and how alike they are."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from serving.wire.enrollments import Decision, WhichPhotograph
from serving.wire.fields import AnswerBody, Id, Moment, PrivateAnswer, RequestBody

MAX_DOCUMENTS = 8
MAX_FACES = 12


class FacesRequest(RequestBody, frozen=True):
    """Whose faces; of a larger group a few at a time."""

    document_ids: Annotated[
        tuple[Annotated[str, Meta(min_length=36, max_length=36)], ...],
        Meta(min_length=1, max_length=MAX_DOCUMENTS),
    ]

    def __post_init__(self) -> None:
        if any("\0" in one for one in self.document_ids):
            raise ValueError("document_ids holds characters that are no text")


class ShownPhotograph(PrivateAnswer, frozen=True):
    """An aligned face of 112 by 112 pixels, as it was compared."""

    photograph: WhichPhotograph
    image: Annotated[bytes, Meta(description="JPEG or PNG: base64 in JSON, binary in MessagePack")]
    quality: Annotated[
        dict[str, float] | None, Meta(description="null of one kept before it was noted")
    ]


class FaceSubject(PrivateAnswer, frozen=True):
    """Whom a document's reference shows, or an attempt under it, who may be somebody else."""

    subject_id: Annotated[
        Id, Meta(description="the attempt's id; the document's where there is no attempt")
    ]
    document_id: Id
    document_status: str
    is_reference: Annotated[bool, Meta(description="the document's reference was made of these")]
    enrollment_id: Annotated[str | None, Meta(description="null of an imported reference")]
    decision: Decision | None
    captured_at: Annotated[
        Moment | None, Meta(description="when the live photograph was taken, where that was told")
    ]
    received_at: Moment | None
    kept_until: Annotated[Moment | None, Meta(description="null where no face is kept")]
    photographs: Annotated[
        tuple[ShownPhotograph, ...],
        Meta(description="`live` before `portrait`; empty where none is kept, or not any more"),
    ]


class StrangersAlike(AnswerBody, frozen=True):
    """The share of pairs of strangers that score as high, with its 95 % interval; beyond what was
    measured `is_bound`: at most `value`."""

    value: float
    low: float
    high: float
    is_bound: bool


class Likeness(AnswerBody, frozen=True):
    """How alike two subjects are; two attempts are not compared."""

    left: Id
    right: Id
    score: float
    strangers: Annotated[
        StrangersAlike | None, Meta(description="null without a calibration of the model")
    ]


class Faces(AnswerBody, frozen=True):
    """Who is shown, in the order of the documents asked for, and how alike each two are."""

    subjects: tuple[FaceSubject, ...]
    likenesses: tuple[Likeness, ...]
