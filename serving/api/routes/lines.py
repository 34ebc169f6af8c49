"""`/v1/lines`: the lines of a holder, disputes of them, and their closing."""

from __future__ import annotations

from serving.api import serializers
from serving.api.request import Request, known_document, take_face
from serving.parts import Parts
from serving.registrar.protocol import LineTarget
from serving.wire import lines as wire
from serving.wire.fields import Moment


async def query_lines(parts: Parts, request: Request, body: wire.HolderRequest) -> wire.HolderLines:
    """The numbers under a document over all carriers, masked, to its holder's face; audited.

    Any other face gets one answer, whether or not somebody holds the document.
    """
    probe = await take_face(parts, request, body.probe)
    document = known_document(body.document)
    found = await parts.registrar.read_lines(document, probe.vector, request.context())
    return serializers.holder_lines(found)


async def dispute_line(
    parts: Parts, request: Request, body: wire.HolderRequest, line: str
) -> wire.Dispute:
    """Opens a case over a line that its holder did not open; the face must be the holder's. To
    another, or where nobody holds the document, it is REQUEST.HOLDER_MISMATCH.

    `line` is the number (+8613…) or the id that a list of lines shows.
    """
    probe = await take_face(parts, request, body.probe)
    opened = await parts.registrar.dispute_line(
        LineTarget(line), known_document(body.document), probe.vector, request.context()
    )
    return wire.Dispute(opened.case_id, opened.line_id, Moment.of(opened.opened_at))


async def close_line(parts: Parts, request: Request, line: str) -> wire.ClosedLine:
    """Closes a line: its number may be given to somebody else. `line` is its number or id."""
    line_id = await parts.registrar.close_line(LineTarget(line), request.context())
    return wire.ClosedLine(line_id, "closed")
