"""Examples of requests and answers, for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from serving.wire import (
    cases,
    enrollments,
    lines,
    matching,
    outlets,
    oversight,
    people,
    sweeps,
    webhooks,
)
from serving.wire.fields import HOLDER_EXAMPLE, ID_EXAMPLE, IMAGE_EXAMPLE

_KNOWN_DOCUMENT = {"type": "cn-ric", "number": "110105199003071239"}
_DOCUMENT = {**_KNOWN_DOCUMENT, "name": "Aileen Probe", "expires_on": "2036-01-31"}
_PROBE = {"image": IMAGE_EXAMPLE}
_FALSE_CANDIDATES = {"value": 0.1, "low": 0.05, "high": 0.2, "is_bound": False}

_ENROLLMENT = {
    "outlet": "b1",
    "document": _DOCUMENT,
    "msisdn": "+8613800138000",
    "live": IMAGE_EXAMPLE,
    "portrait": IMAGE_EXAMPLE,
    "consent_ref": "C-2026-000417",
    "captured_at": "2026-01-31T12:00:00Z",
}

EXAMPLES: Mapping[type[msgspec.Struct], list[dict[str, Any]]] = {
    enrollments.EnrollmentRequest: [_ENROLLMENT, {**_ENROLLMENT, "live": [IMAGE_EXAMPLE] * 3}],
    enrollments.Enrollment: [
        {
            "enrollment_id": ID_EXAMPLE,
            "decision": "approved",
            "reasons": [],
            "scores": {"live_portrait": 0.8123, "holder": None, "best_candidate": None},
            "thresholds": {
                "verify": 0.3494,
                "same_document": 0.3629,
                "review": 0.4718,
                "certain": 0.6015,
            },
            "duplicate_search": {
                "ran": True,
                "searched": 100000,
                "gallery_sequence": 100412,
                "candidates": [],
                "expected_false_candidates": _FALSE_CANDIDATES,
            },
            "cases": [],
            "document_id": ID_EXAMPLE,
            "line_id": ID_EXAMPLE,
            "quality": {"live": {"sharpness": 212.0}, "portrait": {"sharpness": 187.0}},
            "model_digest": "2b0e6f",
            "policy_version": "1",
            "decided_at": "2026-01-31T12:00:01+00:00",
            "idempotency_key": "5c0fbe8a-1ad5-4b1f-9c0f-6e6c1f2d9a10",
            "is_repeated": False,
            "calibration_version": 3,
        }
    ],
    webhooks.NewWebhook: [
        {"sink": "https://systems.example/sosie", "types": ["line.opened", "line.closed"]}
    ],
    webhooks.ChangedWebhook: [{"state": "paused"}],
    webhooks.Replay: [{"after": "0"}],
    webhooks.AskedAgain: [{"events": ["0198c2a4-7c1e-7b52-9d0c-3f4b6f6f6f10"]}],
    matching.MatchRequest: [
        {
            "items": [
                {"id": "a1", "probe": {"template": "AAAB"}, "reference": {"template": "AAAB"}},
                {"id": "a2", "probe": _PROBE, "search": True},
            ]
        }
    ],
    matching.MatchResults: [
        {
            "items": [
                {
                    "id": "a1",
                    "verification": {"is_match": True, "score": 0.7214, "threshold": 0.3494},
                },
                {
                    "id": "a2",
                    "identification": {
                        "candidates": [{"holder": HOLDER_EXAMPLE, "score": None}],
                        "found": 1,
                        "searched": 100000,
                        "gallery_sequence": 100412,
                        "threshold": 0.4718,
                        "expected_false_candidates": _FALSE_CANDIDATES,
                    },
                },
            ]
        }
    ],
    matching.TemplatesRequest: [{"items": [{"id": "live", "image": IMAGE_EXAMPLE}]}],
    matching.Templates: [
        {
            "expires_at": "2026-02-01T12:00:00+00:00",
            "model_digest": "2b0e6f",
            "items": [
                {
                    "id": "live",
                    "template": "AQAB",
                    "quality": {"sharpness": 212.0, "brightness": 0.52},
                }
            ],
        }
    ],
    matching.VerificationRequest: [
        {"probe": _PROBE, "reference": _PROBE},
        {"probe": _PROBE, "line": "+8613800138000"},
    ],
    people.IdentificationRequest: [{"probe": _PROBE, "threshold": 0.6}],
    people.PeopleRequest: [
        {"probe": _PROBE},
        {"document": _KNOWN_DOCUMENT},
        {"msisdn": "+8613800138000"},
    ],
    people.DeathRequest: [{"step": "report", "source": "registry"}, {"step": "confirm"}],
    people.FacesRequest: [{"document_ids": [ID_EXAMPLE]}],
    lines.HolderRequest: [{"document": _KNOWN_DOCUMENT, "probe": _PROBE}],
    lines.EventReport: [{"kind": "device_change", "at": "2026-01-31T12:00:00Z"}],
    lines.ExemptionRequest: [{"cause": "business"}],
    lines.CampaignRequest: [
        {
            "name": "Lines of outlet b1",
            "deadline": "2036-01-31T12:00:00Z",
            "chosen": {"outlet": "b1", "opened_before": "2026-01-01T00:00:00Z"},
            "then": "suspended_outgoing",
            "after": "30d",
            "last": "suspended",
        },
        {"name": "From a file", "deadline": "2036-01-31T12:00:00Z"},
    ],
    lines.CampaignLinesRequest: [{"lines": ["+8613800138000", ID_EXAMPLE]}],
    lines.SimSwapDateRequest: [{"phoneNumber": "+8613800138000"}],
    lines.SimSwapCheckRequest: [{"phoneNumber": "+8613800138000", "maxAge": 120}],
    cases.AssignRequest: [{"assignee": "me"}],
    cases.NoteRequest: [{"text": "Both documents show the same scar."}],
    cases.OutcomeRequest: [
        {"outcome": "fraud", "close_lines": [ID_EXAMPLE], "seen_at": "2026-01-31T12:00:00.123456Z"},
        {"outcome": "twins", "seen_at": "2026-01-31T12:00:00.123456Z"},
    ],
    outlets.RestrictRequest: [
        {"case_id": ID_EXAMPLE, "reason": "Twelve documents of one face in a night."}
    ],
    outlets.LiftRequest: [{"restriction": "suspended", "reason": "The clerk has left."}],
    cases.CaseReportRequest: [{"faces": True}, {"reveal": True, "carrier": "blue"}],
    oversight.ImportChunk: [{"sealed": oversight.SEALED_EXAMPLE}],
    sweeps.SweepRequest: [
        {"scope": "all", "dry_run": True},
        {"scope": "new", "threshold": 0.47},
        {"fmr": 1e-6},
        {"budget": 500},
    ],
}
