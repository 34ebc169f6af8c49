"""Records of the registry: what a test says of one, and something usual for the rest."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

from engine.registry.audit import AuditEntry
from engine.registry.cases import CaseRecord, CropRecord
from engine.registry.database import new_id, utc_now
from engine.registry.documents import DocumentRecord, Identity
from engine.registry.lines import LineRecord
from engine.registry.queues import CaseFilter, QueueReader
from engine.registry.sweeps import JudgedPair
from engine.registry.vault import Vault
from schema.cases import CaseOrigin, CaseSort, CaseState, Outcome
from schema.sweeps import Group, GroupKind, SweepRecord, SweepState, SweepTerms
from schema.sweeps import Identity as SweptIdentity

NOW = datetime(2026, 5, 4, 3, 2, 1, 987654, tzinfo=UTC)
ENTRY = AuditEntry("test", "test.done", "x")
IMAGE = b"\xff\xd8\xff\xe0 a face in the clear " + bytes(range(256))


def newest_cases(
    cases: QueueReader,
    state: CaseState | Collection[CaseState] | None = CaseState.OPEN,
    limit: int = 100,
    after: str | None = None,
) -> list[CaseRecord]:
    return cases.queue(CaseFilter(state=state), CaseSort.NEWEST, limit=limit, after=after)


def make_document(vault: Vault, number: str, **values: Any) -> DocumentRecord:
    given = {
        "id": new_id(),
        "kind": "passport",
        "lookup": vault.look_up("document:passport", number),
        "name_lookup": bytes(32),
        "identity": Identity(number, "A Holder"),
    }
    return DocumentRecord(**given | values)


def make_line(vault: Vault, number: str, document_id: str, **values: Any) -> LineRecord:
    given = {
        "id": new_id(),
        "msisdn_lookup": vault.look_up("msisdn", number),
        "msisdn": number,
        "document_id": document_id,
        "carrier": "red",
        "outlet": "r1",
        "enrollment_id": None,
        "opened_at": NOW,
    }
    return LineRecord(**given | values)


def make_case(**values: Any) -> CaseRecord:
    now = utc_now()
    given = {
        "id": new_id(),
        "kind": "duplicate_identity",
        "origin": CaseOrigin.DECISION,
        "state": CaseState.OPEN,
        "document_ids": (),
        "opened_at": now,
        "updated_at": now,
    }
    return CaseRecord(**given | values)


def make_crop(
    enrollment_id: str | None, photograph: str = "live", days: int = 30, **values: Any
) -> CropRecord:
    given = {
        "id": new_id(),
        "kept_until": utc_now() + timedelta(days=days),
        "image": IMAGE + photograph.encode(),
    }
    return CropRecord(enrollment_id=enrollment_id, photograph=photograph, **given | values)


def make_pair(one: str, other: str, **values: Any) -> JudgedPair:
    given = {
        "outcome": Outcome.FRAUD,
        "score": 0.9,
        "case_id": new_id(),
        "sweep_id": None,
        "decided_at": utc_now(),
        "decided_by": "key:anna",
    }
    left, right = sorted((one, other))
    return JudgedPair(left_document=left, right_document=right, **given | values)


def make_group(key: str, *identities: SweptIdentity, **values: Any) -> Group:
    """A group of one face; its weakest link is the last."""
    links = values.get("links", ())
    given = {
        "kind": GroupKind.ONE_FACE,
        "links": links,
        "weakest": links[-1] if links else None,
        "risk": 10.0,
        "terms": (),
    }
    return Group(key=key, identities=identities, **given | values)


def make_sweep(**values: Any) -> SweepRecord:
    given = {
        "id": new_id(),
        "state": SweepState.QUEUED,
        "terms": SweepTerms(threshold=0.5123456789012345),
        "requested_by": "key:anna",
        "created_at": utc_now(),
    }
    return SweepRecord(**given | values)
