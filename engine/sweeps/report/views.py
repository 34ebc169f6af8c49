"""Groups as the page shows them: a row in the table, and a card for each of the first."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from engine.sweeps.report.contents import ReportInput
from engine.sweeps.report.network import MOST_NODES, draw_group
from engine.sweeps.report.words import KIND_NAMES, Reason, describe_term, format_day, letter
from engine.sweeps.sweep_model import Group, Identity

MOST_ROWS = 200
"""Groups in the table; the others are only counted, and are in `groups.parquet`."""

MOST_CARDS = 24
"""Groups shown with graph and members."""

_FACES_BYTES = 2_000_000
_PICTURES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}


@dataclass(frozen=True, slots=True)
class Row:
    """A group in the table; `opened` is the first and the last opening."""

    rank: int
    group: Group
    kind_name: str
    case: str | None
    reasons: tuple[Reason, ...]
    lines: int
    carriers: int
    outlets: int
    opened: tuple[str, str] | None
    highest: float | None
    weakest: float | None


@dataclass(frozen=True, slots=True)
class Member:
    """An identity in a card; `face` is a `data:` URI."""

    letter: str
    identity: Identity
    carriers: Sequence[str]
    outlets: Sequence[str]
    opened: tuple[str, str] | None
    face: str | None


@dataclass(frozen=True, slots=True)
class Card:
    """A group with its first members; `weakest` names the two of its weakest link."""

    row: Row
    graph: Markup | None
    members: tuple[Member, ...]
    weakest: tuple[str, str] | None


def list_rows(contents: ReportInput) -> list[Row]:
    """Rows of the first `MOST_ROWS` groups, in the order given."""
    return [
        _row(rank, group, contents.cases.get(group.key))
        for rank, group in enumerate(contents.groups[:MOST_ROWS], start=1)
    ]


def list_cards(contents: ReportInput, rows: Sequence[Row]) -> list[Card]:
    """Cards of the first `MOST_CARDS` groups, with faces up to two megabytes in total."""
    faces = _encode_faces(contents)
    return [_card(row, faces, contents.carrier_names) for row in rows[:MOST_CARDS]]


def _row(rank: int, group: Group, case: str | None) -> Row:
    lines = [line for one in group.identities for line in one.lines]
    return Row(
        rank=rank,
        group=group,
        kind_name=KIND_NAMES[group.kind],
        case=case,
        reasons=tuple(describe_term(term, group.kind) for term in group.terms if term.points),
        lines=len(lines),
        carriers=len({line.carrier for line in lines}),
        outlets=len({(line.carrier, line.outlet) for line in lines}),
        opened=_span(line.opened_at for line in lines),
        highest=max((link.score for link in group.links), default=None),
        weakest=group.weakest.score if group.weakest else None,
    )


def _card(row: Row, faces: Mapping[str, str], names: Mapping[str, str]) -> Card:
    group = row.group
    members = tuple(
        Member(
            letter=letter(number),
            identity=one,
            carriers=sorted({names.get(line.carrier, line.carrier) for line in one.lines}),
            outlets=sorted({line.outlet for line in one.lines}),
            opened=_span(line.opened_at for line in one.lines),
            face=faces.get(one.document_id),
        )
        for number, one in enumerate(group.identities[:MOST_NODES])
    )
    letters = {one.identity.document_id: one.letter for one in members}
    weakest = group.weakest and (letters.get(group.weakest.left), letters.get(group.weakest.right))
    return Card(
        row=row,
        graph=draw_group(group) if group.links else None,
        members=members,
        weakest=(weakest[0], weakest[1]) if weakest and weakest[0] and weakest[1] else None,
    )


def _span(moments: Iterable[datetime]) -> tuple[str, str] | None:
    ordered = sorted(moments)
    return (format_day(ordered[0]), format_day(ordered[-1])) if ordered else None


def _encode_faces(contents: ReportInput) -> Mapping[str, str]:
    """Data URIs by document, for the groups with cards."""
    faces: dict[str, str] = {}
    left_bytes = _FACES_BYTES
    for document in documents_with_cards(contents.groups):
        crop = contents.crops.get(document)
        kind = crop and next((k for head, k in _PICTURES.items() if crop.startswith(head)), None)
        if crop and kind and document not in faces and len(crop) <= left_bytes:
            left_bytes -= len(crop)
            faces[document] = f"data:{kind};base64,{base64.b64encode(crop).decode()}"
    return faces


def documents_with_cards(groups: Sequence[Group]) -> Iterator[str]:
    """Documents for whose faces a report has room; one may be in several groups."""
    for group in groups[:MOST_CARDS]:
        yield from (one.document_id for one in group.identities[:MOST_NODES])
