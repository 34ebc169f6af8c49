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
from engine.sweeps.sweep_model import Group, GroupKind, Identity

MOST_ROWS = 200
"""Groups in the table; the others are only counted, and are in `groups.parquet`."""

MOST_CARDS = 24
"""Groups shown with graph and members."""

_MOST_DOCUMENTS = 30
_MOST_NAMES = 4
_FACES_BYTES = 2_000_000
_PICTURES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}


@dataclass(frozen=True, slots=True)
class Row:
    """A group in the table; `opened` is the first and the last opening."""

    rank: int
    key: str
    kind: GroupKind
    kind_name: str
    case: str | None
    risk: float
    reasons: tuple[Reason, ...]
    identities: int
    lines: int
    carriers: int
    outlets: int
    opened: tuple[str, str] | None
    highest: float | None
    weakest: float | None
    documents: tuple[str, ...]
    other_documents: int


@dataclass(frozen=True, slots=True)
class Member:
    """An identity in a card; `face` is a `data:` URI."""

    letter: str
    document: str
    references: int
    lines: int
    carriers: Sequence[str]
    outlets: Sequence[str]
    other_outlets: int
    opened: tuple[str, str] | None
    disputes: int
    face: str | None


@dataclass(frozen=True, slots=True)
class Card:
    """A group with its members; `weakest` names the two of its weakest link."""

    row: Row
    graph: Markup | None
    members: tuple[Member, ...]
    other_members: int
    weakest: tuple[str, str] | None
    severed: int


def list_rows(contents: ReportInput) -> list[Row]:
    """Rows of the first `MOST_ROWS` groups, in the order given."""
    return [
        _row(rank, group, contents.cases.get(group.key))
        for rank, group in enumerate(contents.groups[:MOST_ROWS], start=1)
    ]


def list_cards(contents: ReportInput, rows: Sequence[Row]) -> list[Card]:
    """Cards of the first `MOST_CARDS` groups, with faces up to two megabytes in total."""
    faces = _encode_faces(contents)
    groups = contents.groups[:MOST_CARDS]
    return [
        _card(row, group, faces, contents.carrier_names)
        for row, group in zip(rows, groups, strict=False)
    ]


def _row(rank: int, group: Group, case: str | None) -> Row:
    lines = [line for one in group.identities for line in one.lines]
    documents = [one.document_id for one in group.identities]
    return Row(
        rank=rank,
        key=group.key,
        kind=group.kind,
        kind_name=KIND_NAMES[group.kind],
        case=case,
        risk=group.risk,
        reasons=tuple(describe_term(term, group.kind) for term in group.terms if term.points),
        identities=len(group.identities),
        lines=len(lines),
        carriers=len({line.carrier for line in lines}),
        outlets=len({(line.carrier, line.outlet) for line in lines}),
        opened=_span(line.opened_at for line in lines),
        highest=max((link.score for link in group.links), default=None),
        weakest=group.weakest.score if group.weakest else None,
        documents=tuple(documents[:_MOST_DOCUMENTS]),
        other_documents=max(len(documents) - _MOST_DOCUMENTS, 0),
    )


def _card(row: Row, group: Group, faces: Mapping[str, str], names: Mapping[str, str]) -> Card:
    shown = group.identities[:MOST_NODES]
    members = tuple(
        _member(letter(number), one, faces.get(one.document_id), names)
        for number, one in enumerate(shown)
    )
    letters = {one.document: one.letter for one in members}
    weakest = group.weakest and (letters.get(group.weakest.left), letters.get(group.weakest.right))
    return Card(
        row=row,
        graph=draw_group(group) if group.links else None,
        members=members,
        other_members=len(group.identities) - len(shown),
        weakest=(weakest[0], weakest[1]) if weakest and weakest[0] and weakest[1] else None,
        severed=len(group.severed),
    )


def _member(name: str, identity: Identity, face: str | None, names: Mapping[str, str]) -> Member:
    outlets = sorted({line.outlet for line in identity.lines})
    return Member(
        letter=name,
        document=identity.document_id,
        references=len(identity.reference_ids),
        lines=len(identity.lines),
        carriers=sorted({names.get(line.carrier, line.carrier) for line in identity.lines}),
        outlets=outlets[:_MOST_NAMES],
        other_outlets=max(len(outlets) - _MOST_NAMES, 0),
        opened=_span(line.opened_at for line in identity.lines),
        disputes=identity.disputes,
        face=face,
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
