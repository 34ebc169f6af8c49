"""Steps on a holder who is reported dead, each an audited transaction on the writer's thread.

One person reports it, and it holds at once: the document enrolls nobody, its lines are disputed,
its face goes on being searched. What cannot be undone, the closing of the lines, takes a second
person; so does taking a report back, which one contests and another lifts. That makes those lines
active again that the report has disputed and nobody has closed.
"""

from collections.abc import Mapping
from dataclasses import replace

from engine.errors import FourEyes, HolderMoved, NotFound
from engine.matching.holders import NOBODY
from engine.registry.audit import AuditEntry
from engine.registry.database import is_id
from engine.registry.lines import LineChange
from engine.registry.people import DeathRecord
from engine.registry.store import Reader, WriterCall, on_writer
from schema.actors import Actor
from schema.documents import DocumentStatus
from schema.lines import LineEventKind, LineStatus
from schema.people import DeathSource


def read_death(registry: Reader, document_id: str) -> DeathRecord:
    """The death reported of a holder; `NotFound` where none is."""
    found = registry.people.death(document_id) if is_id(document_id) else None
    if found is None:
        raise NotFound("nobody has reported the holder of this document dead")
    return found


@on_writer
def report(call: WriterCall, document_id: str, source: DeathSource, actor: Actor) -> DeathRecord:
    """Report a holder dead: from now on the document enrolls nobody, and its lines are disputed.

    `NotFound` for a document that nobody holds, `HolderMoved` where it is reported already.
    """
    registry = call.registry
    record = registry.document(document_id)
    if record.status in (DocumentStatus.ATTEMPTED, DocumentStatus.ERASED):
        raise NotFound(NOBODY)
    found = registry.people.death(record.id)
    if found is not None and found.lifted_at is None:
        raise HolderMoved("the holder is reported dead already: read it again")
    in_use = registry.lines_in_use_of([record.id])[record.id]
    disputed = tuple(one.id for one in in_use if one.status is LineStatus.ACTIVE)
    death = DeathRecord(
        document_id=record.id,
        source=source.value,
        reported_at=call.now,
        reported_by=actor.name,
        reported_person=actor.person,
        disputed_lines=disputed,
    )
    detail = {"source": source.value, "lines": list(disputed)}
    change = LineChange(disputed, LineEventKind.DISPUTED, "death", actor.name)
    return _commit(call, death, actor, "reported", detail, change)


@on_writer
def confirm(call: WriterCall, document_id: str, actor: Actor) -> DeathRecord:
    """Confirm what another person has reported: the lines in use are closed.

    `FourEyes` for the same person, `HolderMoved` where it is confirmed or contested.
    """
    death = _find_standing(call.registry, document_id)
    if death.confirmed_at is not None:
        raise HolderMoved("the death is confirmed already: read it again")
    if death.contested_at is not None:
        raise HolderMoved("the report is contested: lift it, or report it anew after that")
    if actor.is_person(death.reported_person):
        raise FourEyes("you reported this, with whichever key: another person must confirm")
    in_use = call.registry.lines_in_use_of([document_id])[document_id]
    closed = [one.id for one in in_use]
    changed = replace(death, confirmed_at=call.now, confirmed_by=actor.name)
    detail = {"reported_by": death.reported_by, "lines": closed}
    change = LineChange(closed, LineEventKind.CLOSED, "death", actor.name)
    return _commit(call, changed, actor, "confirmed", detail, change)


@on_writer
def contest(call: WriterCall, document_id: str, actor: Actor) -> DeathRecord:
    """Say that a report is wrong; another person must lift it. It holds until then."""
    death = _find_standing(call.registry, document_id)
    if death.contested_at is not None:
        raise HolderMoved("the report is contested already: another person may lift it")
    changed = replace(
        death, contested_at=call.now, contested_by=actor.name, contested_person=actor.person
    )
    return _commit(call, changed, actor, "contested", {"state": death.state})


@on_writer
def lift(call: WriterCall, document_id: str, actor: Actor) -> DeathRecord:
    """Lift a report that another person has contested: lines that it disputed are active again.

    `FourEyes` where nobody else has contested it.
    """
    death = _find_standing(call.registry, document_id)
    if death.contested_person is None:
        raise FourEyes("this takes two people: contest it, and let another person lift it")
    if actor.is_person(death.contested_person):
        raise FourEyes("you contested this, with whichever key: another person must lift it")
    lines = call.registry.lines_by_id(death.disputed_lines)
    restored = [
        key
        for key in death.disputed_lines
        if key in lines and lines[key].status is LineStatus.DISPUTED
    ]
    changed = replace(death, lifted_at=call.now, lifted_by=actor.name)
    detail = {"contested_by": death.contested_by, "lines": restored}
    change = LineChange(restored, LineEventKind.RESTORED, "death", actor.name)
    return _commit(call, changed, actor, "lifted", detail, change)


def _find_standing(registry: Reader, document_id: str) -> DeathRecord:
    death = read_death(registry, document_id)
    if death.lifted_at is not None:
        raise HolderMoved("the report was lifted: read it again")
    return death


def _commit(
    call: WriterCall,
    death: DeathRecord,
    actor: Actor,
    done: str,
    detail: Mapping[str, object],
    *lines: LineChange,
) -> DeathRecord:
    entry = AuditEntry(actor.name, f"death.{done}", death.document_id, detail)
    call.commit(entry, death, *lines)
    return death
