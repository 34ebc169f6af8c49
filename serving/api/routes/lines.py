"""`/v1/lines`: the lines of a holder, disputes of them, their closing, and what happens to them."""

from __future__ import annotations

import asyncio

from engine.matching.lines import read_line
from engine.matching.liveness import name_document
from engine.registry.reader import Reader
from engine.registry.records import is_id
from schema.lines import LineEventKind
from serving.access.authorization import scope_of
from serving.api import serializers
from serving.api.request import Request, counting_liveness, known_document, note, take_holder_face
from serving.ingress.parts import Parts
from serving.registrar.protocol import LineTarget
from serving.wire import lines as wire
from serving.wire.fields import Moment, of_record


async def query_lines(parts: Parts, request: Request, body: wire.HolderRequest) -> wire.HolderLines:
    """The numbers under a document over all carriers, masked, to its holder's face; audited.

    Any other face gets one answer, whether or not somebody holds the document.
    """
    document = known_document(body.document)
    subject = name_document(document)
    shown = await take_holder_face(parts, request, body.probe, body.liveness, subject)
    given = (shown.vector, shown.liveness, shown.judged, request.context())
    with counting_liveness(parts, shown.liveness):
        found = await parts.registrar.read_lines(document, *given)
    return serializers.holder_lines(found)


async def dispute_line(
    parts: Parts, request: Request, body: wire.HolderRequest, line: str
) -> wire.Dispute:
    """Opens a case over a line that its holder did not open; the face must be the holder's. To
    another, or where nobody holds the document, it is REQUEST.HOLDER_MISMATCH.

    `line` is the number (+8613…) or the id that a list of lines shows.
    """
    document = known_document(body.document)
    subject = name_document(document)
    shown = await take_holder_face(parts, request, body.probe, body.liveness, subject)
    given = (shown.vector, shown.liveness, shown.judged, request.context())
    with counting_liveness(parts, shown.liveness):
        opened = await parts.registrar.dispute_line(LineTarget(line), document, *given)
    return wire.Dispute(opened.case_id, opened.line_id, Moment.of(opened.opened_at))


async def close_line(parts: Parts, request: Request, line: str) -> wire.ClosedLine:
    """Closes a line: its number may be given to somebody else. `line` is its number or id."""
    line_id = await parts.registrar.close_line(LineTarget(line), request.context())
    return wire.ClosedLine(line_id, "closed")


async def report_event(
    parts: Parts, request: Request, body: wire.EventReport, line: str
) -> wire.LineEvent:
    """Notes what has happened to a line in use, and does what the carrier's rules say to it, such
    as to ask for its holder. Sent again, with the same moment, it is the same event.

    `line` is its number or id. A moment in the future, before the line was opened or before what is
    known of the same kind is LINE.EVENT.
    """
    given = (LineTarget(line), LineEventKind(body.kind), body.at)
    made = await parts.registrar.report_event(*given, request.context())
    return serializers.line_event(made, is_tenant=True)


async def read_history(parts: Parts, request: Request, line: str) -> wire.LineHistory:
    """What happened to a line, why, and what it waits for; by its number in use, or its id also
    once it is closed. Audited."""
    carrier = scope_of(request.caller)
    shown = await asyncio.to_thread(_find_history, parts.store, line, carrier)
    await note(parts, request, "line.read", shown.line_id)
    return shown


def _find_history(store: Reader, text: str, carrier: str | None) -> wire.LineHistory:
    found = read_line(store, text, carrier=carrier)
    return serializers.line_history(store, found, is_tenant=carrier is not None)


async def exempt_document(
    parts: Parts, request: Request, body: wire.ExemptionRequest, document_id: str
) -> wire.Exemption:
    """No limit on lines, of a carrier or of a person, holds for a document any more, as for that of
    a firm. Audited."""
    made = await parts.registrar.exempt(document_id, body.cause, request.context())
    return of_record(wire.Exemption, made, is_exempt=True)


async def end_exemption(parts: Parts, request: Request, document_id: str) -> wire.Exemption:
    """The limits hold for a document again."""
    await parts.registrar.end_exemption(document_id, request.context())
    return wire.Exemption(document_id, is_exempt=False)


async def read_exemption(parts: Parts, request: Request, document_id: str) -> wire.Exemption:
    """Whether the limits hold for a document."""
    del request
    known = [document_id] if is_id(document_id) else []
    found = await asyncio.to_thread(parts.store.life.exemptions, known)
    if document_id not in found:
        return wire.Exemption(document_id, is_exempt=False)
    return of_record(wire.Exemption, found[document_id], is_exempt=True)
