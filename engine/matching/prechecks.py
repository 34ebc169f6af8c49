"""The first look at a batch: what was answered before, what may not be asked, what to judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

from engine.errors import IdempotencyMismatch, OutletRefused, SosieError
from engine.matching.documents import CheckedDocument, DocumentAuthority, check_documents
from engine.matching.requests import (
    Answer,
    EnrollmentRequest,
    digest_payload,
    normalise_msisdn,
    require_judgeable,
)
from engine.registry.reader import Reader
from engine.registry.records import Outlet
from engine.registry.vault import Vault


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """A request that will be judged, with the keyed look-ups under which the registry knows it.

    `document_lookup` and `name_lookup` are `None` for a document that is not well-formed.
    """

    request: EnrollmentRequest
    outlet: Outlet
    document: CheckedDocument
    msisdn: str = field(repr=False)
    msisdn_lookup: bytes
    scope: bytes
    payload_digest: bytes
    document_lookup: bytes | None
    name_lookup: bytes | None


class Intake:
    """Sorts a batch into stored answers, refusals and attempts; it writes nothing."""

    def __init__(self, store: Reader, vault: Vault, authority: DocumentAuthority) -> None:
        self._store = store
        self._vault = vault
        self._authority = authority

    def sort(
        self, requests: Sequence[EnrollmentRequest], on: date
    ) -> list[Attempt | Answer | SosieError]:
        """One outcome for each request, in order."""
        outcomes: list[Attempt | Answer | SosieError | None] = [None] * len(requests)
        places = []
        for place, request in enumerate(requests):
            try:
                require_judgeable(request)
            except SosieError as error:
                outcomes[place] = error
            else:
                places.append(place)
        sound = [requests[place] for place in places]
        for place, outcome in zip(places, self._sort_sound(sound, on), strict=True):
            outcomes[place] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _sort_sound(
        self, requests: Sequence[EnrollmentRequest], on: date
    ) -> list[Attempt | Answer | SosieError]:
        if not requests:
            return []
        documents = check_documents([item.document for item in requests], self._authority, on)
        scopes = [idempotency_scope(self._vault, it.carrier, it.idempotency_key) for it in requests]
        answers = self._store.answers(scopes)
        outlets = self._store.outlets(sorted({item.outlet for item in requests}))
        outcomes: list[Attempt | Answer | SosieError] = []
        for request, document, scope in zip(requests, documents, scopes, strict=True):
            payload = digest_payload(request, document.number)
            payload_digest = self._vault.look_up("payload", payload.hex())
            stored = answers.get(scope)
            if stored is not None:
                is_same = stored.payload_digest == payload_digest
                outcomes.append(
                    Answer(dict(stored.response), is_repeated=True) if is_same else _mismatch()
                )
                continue
            outlet = outlets.get(request.outlet)
            if outlet is None or not outlet.is_open or outlet.carrier != request.carrier:
                outcomes.append(_refuse_outlet())
                continue
            outcomes.append(self._attempt(request, outlet, document, scope, payload_digest))
        return outcomes

    def _attempt(
        self,
        request: EnrollmentRequest,
        outlet: Outlet,
        document: CheckedDocument,
        scope: bytes,
        payload_digest: bytes,
    ) -> Attempt:
        msisdn = normalise_msisdn(request.msisdn)
        document_lookup = name_lookup = None
        if document.is_well_formed:
            document_lookup = document_look_up(self._vault, document)
            name_lookup = name_look_up(self._vault, document_lookup, document.name)
        return Attempt(
            request=request,
            outlet=outlet,
            document=document,
            msisdn=msisdn,
            msisdn_lookup=self._vault.look_up("msisdn", msisdn),
            scope=scope,
            payload_digest=payload_digest,
            document_lookup=document_lookup,
            name_lookup=name_lookup,
        )


def idempotency_scope(vault: Vault, carrier: str, key: str) -> bytes:
    """Where a stored answer lies: one carrier's keys never meet another's."""
    return vault.look_up("idempotency", f"{carrier}\0{key}")


def document_look_up(vault: Vault, document: CheckedDocument) -> bytes:
    """The keyed digest under which the registry knows a well-formed document."""
    return vault.look_up(f"document:{document.type}", document.number)


def name_look_up(vault: Vault, document_lookup: bytes, name: str) -> bytes:
    """A keyed digest of a name, bound to its document: two holders of one name stay unlinked."""
    return vault.look_up("name", f"{document_lookup.hex()}\0{name}")


def _mismatch() -> IdempotencyMismatch:
    return IdempotencyMismatch(
        "this Idempotency-Key was used with another payload: use a fresh key for a new activation"
    )


def _refuse_outlet() -> OutletRefused:
    return OutletRefused(
        "the outlet is unknown, closed or of another carrier: check the codes of both"
    )
