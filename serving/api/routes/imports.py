"""`/v1/imports`: an existing base, taken in beside all decisions."""

from __future__ import annotations

from serving.api.request import Request
from serving.ingress.parts import Parts
from serving.wire import oversight as wire
from serving.wire.fields import of_record


async def admit_rows(parts: Parts, request: Request, body: wire.ImportChunk) -> wire.AdmittedChunk:
    """Plans a part of an import, or stores what was planned; `sosie import` sends it where a
    service runs.

    A part is sealed with the deployment's key ring. Where an enrollment has changed what becomes
    of a row since the plan, nothing is stored and the answer is the new plan. It may be sent
    again.
    """
    found = await parts.registrar.admit_chunk(body.sealed, body.planned, request.context())
    rows = tuple(of_record(wire.AdmittedRow, one) for one in found.rows)
    return of_record(wire.AdmittedChunk, found, rows=rows)
