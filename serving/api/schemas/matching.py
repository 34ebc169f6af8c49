"""What `/v1/match` and `/v1/templates` take and answer, as the OpenAPI document shows it.

The routes read bodies by hand (`serving.ingress.items`); these models accept exactly the same.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from serving.api.fields import HOLDER_EXAMPLE, Body, Shown
from serving.ingress.items import MAX_ID_LENGTH, MAX_ITEMS
from serving.ingress.templates import read_base64, read_token
from serving.registrar.protocol import MOST_CANDIDATES


def _read_image(value: Any) -> Any:
    return read_base64(value) if isinstance(value, str) else value


def _read_template(value: Any) -> Any:
    return read_token(value) if isinstance(value, str) else value


Photograph = Annotated[
    bytes,
    BeforeValidator(_read_image),
    WithJsonSchema(
        {
            "type": "string",
            "format": "byte",
            "contentEncoding": "base64",
            "description": "JPEG, PNG or WebP: base64 in JSON, binary in MessagePack, a part named "
            "by its path (`items.0.probe.image`) in a form",
        }
    ),
]
Token = Annotated[
    bytes,
    BeforeValidator(_read_template),
    WithJsonSchema(
        {
            "type": "string",
            "description": "a template from `POST /v1/templates`: base64url in JSON, binary or "
            "text in MessagePack",
        }
    ),
]
ItemId = Annotated[
    str | None, Field(max_length=MAX_ID_LENGTH, description="the caller's own, given back")
]


class Face(Body):
    """An image or a template, one of both."""

    image: Photograph | None = Field(default=None, repr=False)
    template: Token | None = Field(default=None, repr=False)

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.image is None) is (self.template is None):
            raise ValueError("give an image or a template, one of both")
        return self


class MatchItem(Body):
    """A probe held against a reference (1:1), against the gallery (1:N, `search`), or both."""

    id: ItemId = None
    probe: Face
    reference: Face | None = None
    search: bool = False

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.reference is None and not self.search:
            raise ValueError("nothing to do: give a reference, search, or both")
        return self


class MatchRequest(Body):
    """Thresholds are the deployment's; more than 256 items are `MATCH.TOO_MANY_ITEMS` (422)."""

    items: list[MatchItem] = Field(min_length=1, max_length=MAX_ITEMS)


class TemplateItem(Body):
    """A photograph to make a template of."""

    id: ItemId = None
    image: Photograph = Field(repr=False)


class TemplatesRequest(Body):
    """More than 256 items are `MATCH.TOO_MANY_ITEMS` (422)."""

    items: list[TemplateItem] = Field(min_length=1, max_length=MAX_ITEMS)


class ItemError(Shown):
    """Why an item, or a part of it, was not judged; the other items are."""

    code: str = Field(description="MATCH.NO_FACE, MATCH.TEMPLATE_INVALID, IMAGE.DAMAGED …")
    message: str
    part: Literal["probe", "reference"] | None = None
    problems: list[str] | None = Field(
        default=None, description="all that is wrong with a photograph; the code is the first"
    )


class Verification(Shown):
    """1:1: a match at `score >= threshold`."""

    is_match: bool
    score: float = Field(ge=-1.000001, le=1.000001, description="cosine, higher is closer")
    threshold: float


class Candidate(Shown):
    """A holder whose reference looks like the probe.

    To outlets and carriers a name that is theirs alone, the same at every hit; to the other roles
    the ids.
    """

    holder: str | None = Field(examples=[HOLDER_EXAMPLE])
    document_id: str | None = Field(default=None, description="for fraud and operator alone")
    reference_id: int | None = Field(default=None, description="for fraud and operator alone")
    score: float


class ExpectedFalseCandidates(Shown):
    """How many strangers such a search brings on average; at most `value` where `is_bound`."""

    value: float
    low: float
    high: float
    is_bound: bool


class MatchIdentification(Shown):
    """1:N: every reference at or above the threshold; an empty list is a true "nobody"."""

    candidates: list[Candidate] = Field(description=f"best first, {MOST_CANDIDATES} at most")
    found: int = Field(description="how many there are, listed or not")
    searched: int = Field(description="references in the gallery that was searched")
    gallery_sequence: int
    threshold: float
    expected_false_candidates: ExpectedFalseCandidates | None


class MatchResult(Shown):
    """The answer to one item: what it asked for, or an error; both where one part failed."""

    id: str | None = None
    verification: Verification | None = None
    identification: MatchIdentification | None = None
    error: ItemError | None = None


class MatchAnswer(Shown):
    """One result for each item, in their order."""

    items: list[MatchResult]


class TemplateResult(Shown):
    """A template, or why there is none; `quality` where a face was found."""

    id: str | None = None
    template: str | None = Field(
        default=None, description="opaque, for this tenant alone; binary in MessagePack"
    )
    quality: dict[str, float] | None = None
    error: ItemError | None = None


class TemplatesAnswer(Shown):
    """One result for each item, in their order; every template ends with its time or its model."""

    expires_at: datetime
    model_digest: str
    items: list[TemplateResult]
