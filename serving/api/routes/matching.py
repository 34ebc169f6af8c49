"""`POST /v1/match` and `POST /v1/templates`: the two routes that are called most.

They are ASGI applications of their own, called past the framework's router and its models.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.errors import ImageError
from engine.matching.requests import Sample
from serving.access.authorization import Action, Principal, authorize, template_tenant
from serving.access.pseudonyms import choose_candidates
from serving.api.body import JSON, encode
from serving.api.dependencies import admit
from serving.api.fields import HOLDER_EXAMPLE, IMAGE_EXAMPLE
from serving.api.request import SCOPE_KEY, Call
from serving.api.schemas.matching import (
    MatchAnswer,
    MatchRequest,
    TemplatesAnswer,
    TemplatesRequest,
)
from serving.ingress.items import read_match, read_photographs
from serving.ingress.match import Matcher, describe_problem, describe_reasons
from serving.ingress.templates import write_token
from serving.parts import Parts

MATCH_PATH = "/v1/match"
TEMPLATES_PATH = "/v1/templates"

Work = Callable[[Call, Principal, object], Awaitable[dict[str, Any]]]
"""Answers a decoded body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectRoute:
    """A POST route outside the framework, and what its OpenAPI operation says."""

    path: str
    app: ASGIApp
    operation_id: str
    summary: str
    description: str
    request: type[BaseModel]
    response: type[BaseModel]
    request_example: Mapping[str, Any]
    response_example: Mapping[str, Any]
    statuses: tuple[int, ...] = (400, 401, 403, 406, 408, 413, 415, 422, 429, 503, 507)


def match_routes(parts: Parts) -> tuple[DirectRoute, ...]:
    """Both routes, over these parts."""
    return (
        DirectRoute(
            path=MATCH_PATH,
            app=_direct(parts, Action.MATCH, partial(_match, parts, Matcher(parts))),
            operation_id="match",
            summary="Match up to 256 faces, 1:1 and 1:N",
            description=(
                "Each item holds a probe against a reference, against the gallery, or both; "
                "nothing is stored. Whatever is wrong with one item is its own error. If a search "
                "cannot run, the whole call fails: no answer ever means that nobody was looked "
                "for."
            ),
            request=MatchRequest,
            response=MatchAnswer,
            request_example=_MATCH_REQUEST,
            response_example=_MATCH_RESPONSE,
        ),
        DirectRoute(
            path=TEMPLATES_PATH,
            app=_direct(parts, Action.ISSUE_TEMPLATES, partial(_issue, parts)),
            operation_id="issueTemplates",
            summary="Make templates of up to 256 photographs",
            description=(
                "A template stands for its photograph in `/v1/match` until it expires; only the "
                "tenant that it was issued to can use it. Nothing is stored here."
            ),
            request=TemplatesRequest,
            response=TemplatesAnswer,
            request_example=_TEMPLATES_REQUEST,
            response_example=_TEMPLATES_RESPONSE,
        ),
    )


def _direct(parts: Parts, action: Action, work: Work) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del receive, send
        call: Call = scope[SCOPE_KEY]
        principal = await admit(parts, call, action)
        answer = await work(call, principal, await call.read_value())
        body = encode(answer, call.answer_type)
        headers = [
            (b"content-type", call.answer_type.encode()),
            (b"content-length", b"%d" % len(body)),
        ]
        await call.send({"type": "http.response.start", "status": 200, "headers": headers})
        await call.send({"type": "http.response.body", "body": body})

    return app


async def _match(
    parts: Parts, matcher: Matcher, call: Call, principal: Principal, body: object
) -> dict[str, Any]:
    batch = await call.work_apart(read_match, body)
    searches = True in batch.searches
    if searches:
        authorize(principal, Action.SEARCH)
    if len(batch) > 1:
        parts.gate.charge(principal, len(batch) - 1)
    results, faces = await matcher.verify(batch, template_tenant(principal), call.remaining_s)
    if searches:
        show = choose_candidates(principal, parts.vault)
        await matcher.identify(batch, faces, results, call.context(principal), show)
    return {"items": results}


async def _issue(parts: Parts, call: Call, principal: Principal, body: object) -> dict[str, Any]:
    batch = await call.work_apart(read_photographs, body)
    if len(batch) > 1:
        parts.gate.charge(principal, len(batch) - 1)
    issued_at = datetime.now(UTC).replace(microsecond=0)
    with parts.tracer.span("extract", items=len(batch)):
        samples = await parts.faces.sample(batch.images, call.remaining_s)
    vectors = [
        one.vector
        for one in samples
        if isinstance(one, Sample) and one.is_usable and one.vector is not None
    ]
    tokens = iter(
        parts.templates.issue(np.stack(vectors), template_tenant(principal)) if vectors else ()
    )
    items = []
    for given_id, sample in zip(batch.ids, samples, strict=True):
        result: dict[str, Any] = {} if given_id is None else {"id": given_id}
        if isinstance(sample, ImageError):
            result["error"] = describe_problem(sample)
        else:
            if sample.quality:
                result["quality"] = dict(sample.quality)
            if sample.is_usable:
                token = next(tokens)
                result["template"] = write_token(token) if call.answer_type == JSON else token
            else:
                result["error"] = describe_reasons(sample.problems)
        items.append(result)
    return {
        "expires_at": issued_at + timedelta(hours=parts.settings.template_ttl_h),
        "model_digest": parts.model_digest,
        "items": items,
    }


_MATCH_REQUEST = {
    "items": [
        {"id": "a1", "probe": {"template": "AAAB…"}, "reference": {"template": "AAAB…"}},
        {"id": "a2", "probe": {"image": IMAGE_EXAMPLE}, "search": True},
    ]
}
_MATCH_RESPONSE = {
    "items": [
        {
            "id": "a1",
            "verification": {"is_match": True, "score": 0.7214, "threshold": 0.3637},
        },
        {
            "id": "a2",
            "identification": {
                "candidates": [{"holder": HOLDER_EXAMPLE, "score": 0.6912}],
                "found": 1,
                "searched": 100000,
                "gallery_sequence": 100412,
                "threshold": 0.5102,
                "expected_false_candidates": {
                    "value": 0.1,
                    "low": 0.05,
                    "high": 0.2,
                    "is_bound": False,
                },
            },
        },
    ]
}
_TEMPLATES_REQUEST = {"items": [{"id": "live", "image": IMAGE_EXAMPLE}]}
_TEMPLATES_RESPONSE = {
    "expires_at": "2026-02-01T12:00:00+00:00",
    "model_digest": "2b0e6f…",
    "items": [
        {"id": "live", "template": "AQAB…", "quality": {"sharpness": 212.0, "brightness": 0.52}}
    ],
}
