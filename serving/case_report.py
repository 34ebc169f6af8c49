"""The report of a case for police or a regulator: one HTML page with all that was seen and decided;
and pages for one person.

Names and numbers are masked unless the terms reveal them; what the page leaves out, it counts.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field, replace
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from engine.errors import RequestError
from engine.formatting import DASH, count, mask_name, mask_number, number, percent, plural
from engine.matching.calibration import Calibration
from engine.registry.audit import AuditRecord, read_about
from engine.registry.cases import CaseRecord
from engine.registry.damage import write_anchor
from engine.registry.database import utc_now
from engine.registry.documents import DocumentRecord, Identity
from engine.registry.enrollments import AttemptRecord
from engine.registry.lines import LineRecord
from engine.registry.queues import risk_of
from engine.registry.store import Reader
from engine.registry.sweeps import JudgedPair
from engine.sweeps.report.page import PageTemplates
from engine.sweeps.report.views import embed_picture
from schema import frozen
from schema.cases import CaseNote, NoteKind
from schema.decisions import Comparison, Interval
from schema.lines import LineStatus
from schema.reasons import ADVICE, Decision
from serving.api.people import find_faces
from serving.wire import cases as wire
from serving.wire.people import FaceSubject, ShownPhotograph

MOST_DOCUMENTS = 100
"""Documents that a report lists, suspects first."""
MOST_WITH_FACES = 12
"""Documents of these whose faces are compared."""
MOST_PAIRS = 6
"""Pairs shown side by side; the others stand in the table of scores."""
MOST_SCORES = 60
MOST_ENTRIES = 500
COMMON = 0.1
"""Of more pairs of strangers than this it is said in per cent."""
_MARGIN_S = 60
"""Entries of the chain may be dated a little before the rows that they speak of."""


@frozen(kw_only=True)
class ReportTerms:
    """Content of a report: faces that are kept, names and numbers in full; of several carriers what
    one may see, where `carrier` is given."""

    has_faces: bool = False
    is_revealed: bool = False
    carrier: str | None = None


@frozen(kw_only=True)
class ShownDocument:
    """A document as the page lists it; `name` and `number` as far as the terms allow."""

    place: int
    record: DocumentRecord
    is_suspect: bool
    name: str
    number: str
    lines: Sequence[tuple[LineRecord, str]] = field(repr=False)
    other_lines: int
    attempts: Sequence[AttemptRecord]


@frozen
class Side:
    """One of two who are compared; `source` is a `data:` URI, None where no face is shown."""

    label: str
    subject: FaceSubject
    photograph: ShownPhotograph | None = field(repr=False)
    source: str | None = field(repr=False)


@frozen
class Pair:
    """Two who were compared, and what their score means in words."""

    sides: tuple[Side, Side]
    score: float
    meaning: str


@frozen(kw_only=True, eq=False)
class ReportContent:
    """All that a page shows; `entries` of the audit chain are read last, so that they have the one
    about the report itself."""

    case: CaseRecord
    terms: ReportTerms
    documents: Sequence[ShownDocument]
    hidden_documents: int
    """Of other carriers alone."""
    left_out: int
    """Documents that there was no room for."""
    erased: int
    pairs: Sequence[Pair]
    alone: Sequence[Side]
    """Whose faces are shown without a pair."""
    judged: Sequence[JudgedPair]
    notes: Sequence[CaseNote]
    merged: Sequence[CaseRecord]
    persons: Mapping[str, str]
    calibration: Calibration

    @property
    def side_by_side(self) -> Sequence[Pair]:
        """The pairs shown with their faces."""
        return _side_by_side(self.pairs)

    @property
    def faces(self) -> int:
        """The number of pictures on the page."""
        shown = [one for pair in self.side_by_side for one in pair.sides]
        return sum(one.source is not None for one in (*shown, *self.alone))

    def describe(self) -> dict[str, Any]:
        """The description for the audit."""
        return {
            "documents": [one.record.id for one in self.documents],
            "faces": self.faces,
            "revealed": self.terms.is_revealed,
            "carrier": self.terms.carrier,
        }


def gather_case(
    store: Reader, calibration: Calibration, case_id: str, terms: ReportTerms
) -> ReportContent:
    """Everything about a case that the terms allow; `NotFound` for no case, `RequestError` for no
    carrier. The caller audits it (`case.reported`, `describe`) before anybody sees it."""
    case = store.cases.get(case_id)
    if terms.carrier is not None and terms.carrier not in store.carrier_names():
        raise RequestError("no carrier has this code: see sosie carrier list")
    ids = list(dict.fromkeys((*case.suspect_ids, *case.document_ids)))
    found = store.documents_by_id(ids)
    held = [found[key] for key in ids if key in found and not found[key].is_erased]
    known = _known_to(store, held, terms.carrier)
    visible = [one for one in held if one.id in known]
    documents = _list_documents(store, case, visible[:MOST_DOCUMENTS], terms)
    pairs, alone = _compare(store, calibration, documents, terms)
    judged = store.judged_between([one.record.id for one in documents])
    return ReportContent(
        case=case,
        terms=terms,
        documents=documents,
        hidden_documents=len(held) - len(visible),
        left_out=len(visible) - len(documents),
        erased=len(ids) - len(held),
        pairs=pairs,
        alone=alone,
        judged=sorted(judged, key=lambda one: -one.score),
        notes=store.cases.notes(case.id),
        merged=store.cases.merged_into(case.id),
        persons={f"key:{one.id}": one.person for one in store.api_keys() if one.person},
        calibration=calibration,
    )


def _known_to(store: Reader, held: Sequence[DocumentRecord], carrier: str | None) -> frozenset[str]:
    """The documents that a carrier knows: with a line of its own, or an attempt at it."""
    ids = [one.id for one in held]
    if carrier is None:
        return frozenset(ids)
    lines, attempts = store.lines_of_each(ids), store.attempts_of(ids)
    return frozenset(
        key
        for key in ids
        if carrier
        in {*(one.carrier for one in lines[key]), *(one.carrier for one in attempts[key])}
    )


def _list_documents(
    store: Reader, case: CaseRecord, held: Sequence[DocumentRecord], terms: ReportTerms
) -> list[ShownDocument]:
    ids = [one.id for one in held]
    lines, attempts = store.lines_of_each(ids), store.attempts_of(ids)
    identities = store.identities(ids)
    own = {
        key: [one for one in some if terms.carrier in (None, one.carrier)]
        for key, some in lines.items()
    }
    numbers = store.numbers([one.id for some in own.values() for one in some])

    def shown_number(number: str) -> str:
        return number if terms.is_revealed else mask_number(number)

    return [
        ShownDocument(
            place=place,
            record=one,
            is_suspect=one.id in case.suspect_ids,
            # Whoever tried a document out is not told whose it is.
            name=_name(
                identities.get(one.id), terms, is_known=bool(own[one.id] or not lines[one.id])
            ),
            number=shown_number(identities[one.id].number) if one.id in identities else "",
            lines=[(line, shown_number(numbers.get(line.id, ""))) for line in own[one.id]],
            other_lines=len(lines[one.id]) - len(own[one.id]),
            attempts=[each for each in attempts[one.id] if terms.carrier in (None, each.carrier)],
        )
        for place, one in enumerate(held, 1)
    ]


def _name(identity: Identity | None, terms: ReportTerms, *, is_known: bool) -> str:
    if identity is None:
        return ""
    return identity.name if terms.is_revealed and is_known else mask_name(identity.name)


def _compare(
    store: Reader, calibration: Calibration, documents: Sequence[ShownDocument], terms: ReportTerms
) -> tuple[list[Pair], list[Side]]:
    """The pairs that were compared, those of the highest scores first, and who has no pair."""
    faces = find_faces(store, calibration, [one.record.id for one in documents[:MOST_WITH_FACES]])
    sides = _find_sides(faces.subjects, documents, terms)
    lent = _lend_faces(sides)
    pairs = []
    for one in faces.likenesses:
        if one.left in sides and one.right in sides:
            both = sides[one.left], sides[one.right]
            # Of one document it is the attempt itself that the reference is compared with.
            if both[0].subject.document_id != both[1].subject.document_id:
                both = lent[one.left], lent[one.right]
            assert one.strangers is not None, "there is a calibration"
            pairs.append(Pair(both, one.score, describe_strangers(one.strangers)))
    pairs.sort(key=lambda one: -one.score)
    paired = {side.subject.subject_id for pair in _side_by_side(pairs) for side in pair.sides}
    alone = [one for key, one in sides.items() if one.source and key not in paired]
    return pairs, alone


def _find_sides(
    subjects: Iterable[FaceSubject], documents: Sequence[ShownDocument], terms: ReportTerms
) -> dict[str, Side]:
    """The subjects that the reader may see."""
    places = {one.record.id: one.place for one in documents}
    # An attempt at another carrier, or its import, shows somebody whom this one may not see.
    attempts = {each.id for one in documents for each in one.attempts}
    own = {one.record.id for one in documents if one.lines}
    return {
        one.subject_id: _side(one, places[one.document_id], terms)
        for one in subjects
        if terms.carrier is None
        or (one.document_id in own if one.enrollment_id is None else one.enrollment_id in attempts)
    }


def _side_by_side(pairs: Sequence[Pair]) -> list[Pair]:
    """The first pairs of which a face is shown: those of two documents and of two faces first."""

    def rank(one: Pair) -> tuple[bool, bool]:
        left, right = one.sides
        is_one = left.subject.document_id == right.subject.document_id
        return is_one, not (left.source and right.source)

    seen = (one for one in pairs if any(side.source for side in one.sides))
    return sorted(seen, key=rank)[:MOST_PAIRS]


def _lend_faces(sides: Mapping[str, Side]) -> dict[str, Side]:
    """The sides, of which a reference without a face of its own has that of an approved attempt
    under its document, and says so."""
    approved = {
        one.subject.document_id: one
        for one in sides.values()
        if one.source and one.subject.decision == Decision.APPROVED
    }
    lent = dict(sides)
    for key, one in sides.items():
        other = approved.get(one.subject.document_id)
        if one.source is None and one.subject.is_reference and other is not None:
            label = f"{one.label}, whose face is not kept; shown is an approved attempt under it"
            lent[key] = replace(other, label=label)
    return lent


def _side(subject: FaceSubject, place: int, terms: ReportTerms) -> Side:
    photographs = sorted(subject.photographs, key=lambda one: one.photograph != "live")
    photograph = photographs[0] if photographs and terms.has_faces else None
    kind = "reference" if subject.is_reference else f"attempt, {subject.decision}"
    what = (
        "" if photograph is None else f", {_WORDS[f'photograph.{photograph.photograph}'].lower()}"
    )
    source = None if photograph is None else embed_picture(photograph.image)
    return Side(f"Document {place}: {kind}{what}", subject, photograph, source)


def describe_strangers(strangers: Interval) -> str:
    """The meaning of a score: how many pairs of strangers score as high, measured or at most."""
    if strangers.is_bound:
        return (
            f"At most one of {_one_in(strangers.value)} pairs of strangers scores as high: "
            "the data go no further."
        )
    if strangers.value > COMMON:
        return f"So do {percent(strangers.value)} of all pairs of strangers: it says nothing."
    text = f"One of {_one_in(strangers.value)} pairs of strangers scores as high."
    if not (strangers.low and strangers.high):
        return text
    return (
        f"{text} With 95 % confidence one of {_one_in(strangers.high)} to {_one_in(strangers.low)}."
    )


def _one_in(share: float) -> str:
    return count(float(1 / share))


def write_case(report: ReportContent, store: Reader) -> wire.CaseReport:
    """The file, with the entries of the audit chain that speak of the case: to be written once the
    report itself stands in the chain."""
    entries, others = _find_entries(store, report)
    case = report.case
    page = _templates().render(
        "case_report.html",
        {"style": "case_report.css"},
        report=report,
        case=case,
        terms=report.terms,
        risk=risk_of(case),
        meaning=None
        if case.score is None
        else describe_strangers(report.calibration.fmr_at(case.score, Comparison.FUSED)),
        closing=next((one for one in reversed(report.notes) if one.kind is NoteKind.CLOSED), None),
        lines=sum(len(one.lines) for one in report.documents),
        curve=report.calibration.curve(Comparison.FUSED),
        entries=entries,
        other_entries=others,
        head=store.audit_head(),
        anchors=_write_anchors(store, entries),
        deployment_id=store.vault.deployment_id,
        made_at=utc_now(),
        carriers=store.carrier_names(),
    )
    return wire.CaseReport(
        case_id=report.case.id,
        file_name=f"case-{report.case.id}.html",
        # A lone surrogate in a name must not cost the file.
        html=page.encode(errors="replace"),
        faces=report.faces,
        documents=len(report.documents),
        left_out=report.left_out,
        audit_entries=len(entries),
    )


def _find_entries(store: Reader, report: ReportContent) -> tuple[list[AuditRecord], int]:
    case, merged = report.case, report.merged
    cases = [case.id, *(one.id for one in merged)]
    moments = [one.opened_at for one in (case, *merged)]
    attempts = [store.enrollment(one.enrollment_id) for one in (case, *merged) if one.enrollment_id]
    carrier = report.terms.carrier
    subjects = [*cases, *(one.id for one in attempts if carrier in (None, one.carrier))]
    moments += [one.created_at for one in attempts]
    if case.sweep_id is not None:
        subjects.append(case.sweep_id)
        moments.append(store.sweeps.get(case.sweep_id).created_at)
    since = datetime.fromtimestamp(min(moments).timestamp() - _MARGIN_S, UTC)
    # Entries that only name the case are about lines and outlets, of whichever carrier.
    named = cases if carrier is None else []
    return read_about(store, subjects, named, since, MOST_ENTRIES)


def _write_anchors(store: Reader, entries: Iterable[AuditRecord]) -> Markup:
    """Entries as lines that are read as they stand: ids, digits and moments have no markup."""
    deployment_id = store.vault.deployment_id
    lines = [write_anchor(deployment_id, one.number, one.hash, one.at) for one in entries]
    assert not any(set("<>&") & set(line) for line in lines)
    return Markup("\n".join(lines))  # noqa: S704 - see above


_WORDS: Mapping[str, str] = json.loads(
    files("serving.console").joinpath("static/i18n/en.json").read_text("utf-8")
)
"""The console's English texts: a report says the same words."""


def _moment(moment: datetime | None) -> str:
    return DASH if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _detail(entry: AuditRecord) -> str:
    """An entry's detail, for people: its hash is over the whole of it."""
    said = sorted(entry.entry.detail.items())
    return "; ".join(f"{name.replace('_', ' ')}: {_say(value)}" for name, value in said)


def _say(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_say(one)}" for name, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_say, value)) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:.3g}" if isinstance(value, float) else _told_moment(str(value))


def _told_moment(text: str) -> str:
    """A moment that was kept as text, as others are written; any other text as it is."""
    with suppress(ValueError):
        if _IS_MOMENT.match(text):
            return _moment(datetime.fromisoformat(text))
    return text


_IS_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d")


@cache
def _templates() -> PageTemplates:
    filters = {
        # A word of a closed vocabulary, as the console says it.
        "word": lambda value, family: _WORDS.get(f"{family}.{value}", str(value).replace("_", " ")),
        "moment": _moment,
        "figure": lambda value: number(round(value, 3)),
        "plural": plural,
        "format_count": count,
        "detail": _detail,
        "told_moment": _told_moment,
    }
    return PageTemplates(
        "serving", filters, {"CLOSED": LineStatus.CLOSED, "MOST_SCORES": MOST_SCORES}
    )


def write_page(template: str, language: str, **shown: Any) -> bytes:
    """A page for one person, in their language: of a decision, or of what
    `engine.registry.subjects` gathered."""

    def read(package: str, file: str) -> Any:
        return json.loads(files(package).joinpath(file).read_text("utf-8"))

    own = read("serving", "templates/subject.json")[language]
    page = _templates().render(
        template,
        {"style": "case_report.css"},
        words=read("serving.console", f"static/i18n/{language}.json") | own,
        language=language,
        advice=ADVICE,
        made_at=utc_now(),
        **shown,
    )
    # A lone surrogate in a name must not cost the page.
    return page.encode("utf-8", "replace")
