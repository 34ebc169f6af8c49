"""A deployment with so many people enrolled, and requests of the visitors that come to it."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from stdnum.cn import ric

from bench.workload import Day, Kind
from engine.matching.documents import Document, FormAuthority, check_documents
from engine.matching.intake import document_look_up, name_look_up
from engine.matching.requests import EnrollmentRequest, Sample
from engine.registry.records import (
    AuditEntry,
    Carrier,
    Changes,
    NewDocument,
    NewLine,
    NewReference,
    new_id,
    utc_now,
)
from engine.registry.store import Store
from engine.registry.vault import Vault
from engine.registry.writer import Writer
from serving.sections import RegistrarSettings
from serving.settings import Settings

CARRIER, OUTLET = "bench", "bench-1"
DOCUMENT_KIND = "cn-ric"
FIRST_DAY = date(1950, 1, 1)
BORN_A_DAY = 1000
LOAD_ROWS = 2_000
"""Holders a transaction of the bulk load."""


def make_settings(batch_size: int, queue_size: int) -> Settings:
    """The product's defaults, but for how many are decided in one transaction."""
    return Settings(registrar=RegistrarSettings(batch_size=batch_size, queue_size=queue_size))


def open_outlet(store: Store) -> None:
    """The carrier and the outlet that all visitors come to."""
    store.add_carrier(Carrier(CARRIER, "Benchmark"), actor="bench")
    store.add_outlet(OUTLET, CARRIER, actor="bench")


def load_holders(writer: Writer, references: NDArray[np.float32], *, first_serial: int = 0) -> None:
    """Writes a document, a reference and a line for each unit row float32[n, d].

    Their serials follow one another from `first_serial` on.
    """
    for start in range(0, len(references), LOAD_ROWS):
        rotated = writer.vault.rotate(references[start : start + LOAD_ROWS])
        serials = range(first_serial + start, first_serial + start + len(rotated))
        writer.commit(_write_holders(writer, serials, rotated))


def write_requests(
    day: Day, places: Sequence[int], vault: Vault, references: int
) -> Iterator[EnrollmentRequest]:
    """The requests of these visitors; a newcomer's and a duplicate's document is a new one."""
    live, portrait = vault.rotate(day.live), vault.rotate(day.portrait)
    for place in places:
        fresh = references + place
        is_returning = day.kinds[place] is Kind.RETURNING
        yield EnrollmentRequest(
            idempotency_key=str(uuid.UUID(int=place)),
            carrier=CARRIER,
            outlet=OUTLET,
            document=make_document(int(day.people[place]) if is_returning else fresh),
            msisdn=make_msisdn(fresh),
            live=_make_sample(live[place]),
            portrait=_make_sample(portrait[place]),
        )


def make_document(serial: int) -> Document:
    """A well-formed resident identity number (GB 11643) of its own for each serial."""
    born = FIRST_DAY + timedelta(days=serial // BORN_A_DAY)
    body = f"110105{born:%Y%m%d}{serial % BORN_A_DAY:03d}"
    number = body + str(ric.calc_check_digit(body + "0"))
    return Document(DOCUMENT_KIND, number, f"Holder {serial}")


def make_msisdn(serial: int) -> str:
    """A number of its own for each serial, in E.164."""
    return f"+8613{serial:09d}"


def _make_sample(vector: NDArray[np.float32]) -> Sample:
    return Sample(vector, hashlib.sha256(vector.tobytes()).digest())


def _write_holders(writer: Writer, serials: range, rotated: NDArray[np.float32]) -> Changes:
    vault, sequence, now = writer.vault, writer.sequence + 1, utc_now()
    documents, references, lines = [], [], []
    given = [make_document(serial) for serial in serials]
    checked = check_documents(given, FormAuthority(), now.date())
    for serial, document, template in zip(serials, checked, rotated, strict=True):
        lookup, document_id = document_look_up(vault, document), new_id()
        documents.append(
            NewDocument(
                id=document_id,
                kind=document.type,
                lookup=lookup,
                name_lookup=name_look_up(vault, lookup, document.name),
                number=document.number,
                name=document.name,
            )
        )
        references.append(
            NewReference(
                id=writer.next_reference_id(),
                document_id=document_id,
                enrollment_id=None,
                template=template,
                sequence=sequence,
            )
        )
        lines.append(_open_line(vault, make_msisdn(serial), document_id, now))
    return Changes(
        sequence=sequence,
        audit=(AuditEntry("bench", "holders.loaded", CARRIER, {"count": len(serials)}),),
        documents=documents,
        references=references,
        lines=lines,
    )


def _open_line(vault: Vault, msisdn: str, document_id: str, now: datetime) -> NewLine:
    return NewLine(
        id=new_id(),
        msisdn_lookup=vault.look_up("msisdn", msisdn),
        msisdn=msisdn,
        document_id=document_id,
        carrier=CARRIER,
        outlet=OUTLET,
        enrollment_id=None,
        opened_at=now,
    )
