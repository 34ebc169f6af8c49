"""Enrollment requests: their answers, and what is refused unjudged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import phonenumbers

from engine.errors import (
    IdempotencyMismatch,
    OutletRefused,
    OutletRestricted,
    RequestError,
    SosieError,
)
from engine.formatting import LINES, MARKS, require_visible
from engine.matching.documents import (
    DEFAULT_TIME_ZONE,
    CheckedDocument,
    check_document,
    find_date,
    require_checkable,
)
from engine.matching.samples import ABSENT, Sample, is_same_photograph, require_unit
from engine.registry.accounts import ENROLLMENT_REFUSED, Outlet
from engine.registry.audit import AuditEntry
from engine.registry.documents import DocumentRecord
from engine.registry.enrollments import StoredAnswer
from engine.registry.store import Reader
from engine.registry.vault import Vault
from schema import frozen
from schema.actors import Caller
from schema.decisions import DecidedEnrollment, RecordedLiveness, RecordedProof
from schema.documents import AuthorityResult, Document, DocumentRole, DocumentStatus
from schema.people import MAX_CONSENT_LENGTH, NO_CONSENT, Consent, ExceptionCause
from schema.reasons import Decision, Reason

if TYPE_CHECKING:
    from engine.faces.liveness_judge import Judged

MAX_KEY_LENGTH = 255


@frozen(kw_only=True, eq=False)
class GuardianShown:
    """A minor's guardian: the document, and the face that came along. A portrait is needed of a
    document that nobody holds yet."""

    document: Document
    live: Sample = ABSENT
    portrait: Sample | None = None


@frozen(kw_only=True, eq=False)
class EnrollmentRequest:
    """One activation attempt as an outlet sent it; without a `caller` nothing is bounded.

    `guardian` comes with a minor; `exception` says why a photograph is missing or cannot be used;
    `replaces` is a document of the same person that this one takes the place of; `proof` came in
    place of the face.
    """

    idempotency_key: str
    carrier: str
    outlet: str
    document: Document
    msisdn: str = field(repr=False)
    live: Sample = ABSENT
    portrait: Sample = ABSENT
    consent: Consent = NO_CONSENT
    captured_at: datetime | None = None
    caller: Caller | None = None
    liveness: RecordedLiveness | None = field(default=None, repr=False)
    authority: Mapping[DocumentRole, AuthorityResult] = field(default_factory=dict)
    """What an authority said of the documents, where one is asked."""
    guardian: GuardianShown | None = None
    exception: ExceptionCause | None = None
    replaces: Document | None = None
    proof: RecordedProof | None = field(default=None, repr=False)

    @property
    def shows_nobody(self) -> bool:
        """True where no liveness is asked of it: two people look, or a guardian's frames are
        judged, and then a result came along."""
        return self.live.is_absent and self.liveness is None

    @property
    def is_faceless(self) -> bool:
        """True where neither photograph came."""
        return self.live.is_absent and self.portrait.is_absent

    @property
    def actor(self) -> str:
        """Who asked, for the audit."""
        return f"outlet:{self.outlet}" if self.caller is None else self.caller.actor

    @property
    def faces_judged(self) -> list[Judged | None]:
        """Judgements of each face that is shown, a guardian's too; where there is no face the
        photograph is what is wrong."""
        shown = [self.live, *([] if self.guardian is None else [self.guardian.live])]
        return [one.least_judged for one in shown if one.vector is not None]

    @property
    def pair(self) -> tuple[Sample, Sample]:
        """The photographs to be compared; where an exception leaves one that can be used, that one
        twice, so that it is searched for all the same."""
        fit = [one for one in (self.live, self.portrait) if one.is_usable]
        if self.exception is not None and len(fit) == 1:
            return fit[0], fit[0]
        return self.live, self.portrait


@frozen
class Answer:
    """A durable decision, as it was stored; `is_repeated` marks one decided before."""

    decided: DecidedEnrollment
    is_repeated: bool = False

    @property
    def enrollment_id(self) -> str:
        return self.decided.enrollment_id

    @property
    def decision(self) -> Decision:
        return self.decided.decision

    @property
    def reasons(self) -> tuple[Reason, ...]:
        return tuple(dict.fromkeys(one.reason for one in self.decided.reasons))


def normalise_msisdn(text: str) -> str:
    """The number in E.164 (`+8613800138000`); `RequestError` where it cannot be one.

    Only the length is held against the numbering plan: libphonenumber's list of ranges lags
    behind what operators open.
    """
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException:
        number = None
    if number is None or not phonenumbers.is_possible_number(number):
        raise RequestError("the number is not a telephone number: give it as +<country><number>")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def name_document(document: Document) -> str:
    """The text that `document_sha256` of a signed result is of: the document as it is sent."""
    return f"{document.type}:{document.number}"


def require_judgeable(request: EnrollmentRequest) -> str:
    """`RequestError` for a request that no decision could answer, before anything is looked up;
    its number in E.164."""
    key = request.idempotency_key
    if not key or len(key) > MAX_KEY_LENGTH or not key.isprintable():
        raise RequestError(
            f"the Idempotency-Key must be 1 to {MAX_KEY_LENGTH} printable characters: "
            "use a fresh UUID for each activation"
        )
    require_visible("carrier", request.carrier)
    require_visible("outlet", request.outlet)
    require_visible("document type", request.document.type)
    require_visible("document number", request.document.number, LINES)
    require_visible("name", request.document.name, MARKS, is_prose=True)
    require_visible("number", request.msisdn)
    record = {} if request.consent.given is None else request.consent.given.plain()
    for text in (request.consent.ref or "", *record.values()):
        require_visible("consent", text)
    if len(request.consent.ref or "") > MAX_CONSENT_LENGTH:
        raise RequestError(f"the consent reference is longer than {MAX_CONSENT_LENGTH} characters")
    require_units(request)
    if request.captured_at is not None and request.captured_at.tzinfo is None:
        raise RequestError("the capture time has no time zone: write it as 2026-01-31T12:00:00Z")
    require_checkable(request.document)
    if request.guardian is not None:
        _require_guardian(request.guardian)
    if request.replaces is not None:
        require_visible("replaced document's number", request.replaces.number, LINES)
        require_checkable(request.replaces)
        if request.exception is not None or request.proof is not None:
            # It is the face that shows whose the replaced document is.
            raise RequestError("without a face no document is replaced: ask for one of the two")
    is_alone = request.is_faceless and request.guardian is None and request.exception is None
    if request.proof is not None and not is_alone:
        raise RequestError("a proof stands in place of the face: send no photograph beside it")
    return normalise_msisdn(request.msisdn)


def _require_guardian(guardian: GuardianShown) -> None:
    require_visible("guardian's document number", guardian.document.number, LINES)
    require_visible("guardian's name", guardian.document.name, MARKS, is_prose=True)
    require_checkable(guardian.document)
    _require_units({"guardian's": guardian.live, "guardian's portrait's": guardian.portrait})


def require_units(request: EnrollmentRequest) -> None:
    """`VectorUnusable` unless both photographs' vectors, where there are any, are unit vectors."""
    _require_units({"live": request.live, "portrait": request.portrait})


def _require_units(samples: Mapping[str, Sample | None]) -> None:
    for what, sample in samples.items():
        for shown in () if sample is None else (sample, sample.second):
            if shown is not None and shown.vector is not None:
                require_unit(shown.vector, what)


def digest_payload(request: EnrollmentRequest, checked_number: str, msisdn: str) -> bytes:
    """SHA-256 over all that makes two requests the same: the input of a keyed digest.

    Evidence of liveness is about the photographs, which are in it, and may be signed anew.

    `checked_number` is the document's in its canonical form, `msisdn` the number in E.164.
    """
    document = request.document
    payload = {
        "outlet": request.outlet,
        "document": [document.type, checked_number, document.name, str(document.expires_on)],
        "msisdn": msisdn,
        **_describe_file("live", request.live),
        **_describe_file("portrait", request.portrait),
        "consent_ref": request.consent.ref,
        "captured_at": request.captured_at.isoformat() if request.captured_at else None,
    }
    if request.consent.given is not None:
        payload["consent"] = request.consent.given.plain()
    if document.born_on is not None:
        payload["born_on"] = document.born_on.isoformat()
    if request.guardian is not None:
        shown = request.guardian.document
        told = [shown.type, shown.number, shown.name, str(shown.expires_on), str(shown.born_on)]
        payload["guardian"] = told
        payload |= _describe_file("guardian_live", request.guardian.live)
        if request.guardian.portrait is not None:
            payload |= _describe_file("guardian_portrait", request.guardian.portrait)
    if request.exception is not None:
        payload["exception"] = request.exception.value
    if request.proof is not None:
        # It may be signed anew.
        payload["proof"] = True
    if request.replaces is not None:
        payload["replaces"] = [request.replaces.type, request.replaces.number]
    return hashlib.sha256(_encode(payload).encode()).digest()


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def _describe_file(name: str, sample: Sample) -> dict[str, Any]:
    """The image's digest and what was sent with it; of several frames a list, as they came;
    nothing where no photograph was sent."""
    if sample.frames:
        return {name: [_describe_file("frame", one) for one in sample.frames]}
    told = {
        name: sample.digest.hex(),
        f"{name}_kind": sample.kind and sample.kind.value,
        f"{name}_point": sample.point,
        f"{name}_record": sample.record_digest and sample.record_digest.hex(),
    }
    return {key: value for key, value in told.items() if value}


@frozen(eq=False)
class Attempt:
    """A request that will be judged, with the keyed look-ups under which the registry knows it.

    `document_lookup` and `name_lookup` are `None` for a document that is not well-formed; it was
    checked on the date `judged_on` in `time_zone`.
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
    is_same_photograph: bool
    judged_on: date | None = None
    time_zone: str | None = None
    guardian: Attempt | None = None
    """The guardian as if they were to be enrolled: so they are bound."""
    replaced: CheckedDocument | None = None
    """What it replaces, where that is well-formed."""
    replaced_lookup: bytes | None = None
    replaced_name_lookup: bytes | None = None
    """The name that came with this document, as the replaced one's would be known."""

    @property
    def guardian_pair(self) -> tuple[Sample, Sample]:
        """The photographs of this attempt as a guardian's: without a portrait the face alone."""
        portrait = self.request.portrait
        return self.request.live, self.request.live if portrait.is_absent else portrait

    def lacks_consent(self, documents: Mapping[bytes, DocumentRecord]) -> bool:
        """True where it shows a face and may not, that of the holder of its document, or of the
        one that it replaces."""
        named = [documents.get(one or b"") for one in (self.document_lookup, self.replaced_lookup)]
        held = [] if self.request.is_faceless else [one for one in named if one is not None]
        given = (self.outlet.carrier, self.request.consent)
        return any(one.refuses_face(*given) for one in held)

    @property
    def actor(self) -> str:
        """The outlet, by any of its keys; or who typed the command, at the home itself."""
        caller = self.request.caller
        is_command = caller is not None and caller.is_command
        return self.request.actor if is_command else f"outlet:{self.outlet.code}"

    @property
    def is_compared(self) -> bool:
        """Whether the intake has found nothing for which its faces are not compared."""
        return not self.document.findings and not self.is_same_photograph

    @property
    def lookups(self) -> list[bytes]:
        """Every document that the attempt names."""
        beside = None if self.guardian is None else self.guardian.document_lookup
        named = (self.document_lookup, beside, self.replaced_lookup)
        return [one for one in named if one is not None]


def find_unconsented(
    attempts: Sequence[Attempt], documents: Mapping[bytes, DocumentRecord]
) -> frozenset[int]:
    """The places of attempts, then of guardians, that show a face and may not."""
    shown = [*attempts, *(one.guardian for one in attempts if one.guardian is not None)]
    return frozenset(place for place, one in enumerate(shown) if one.lacks_consent(documents))


def restricted(restriction: str) -> str:
    """The message about a restricted outlet, in one line."""
    return f"the outlet is {restriction} and enrolls nobody: ask your carrier's fraud team"


class Intake:
    """Sorts a batch into stored answers, refusals and attempts to be judged; writes nothing."""

    def __init__(self, store: Reader, time_zone: str = DEFAULT_TIME_ZONE) -> None:
        """`time_zone` is that of outlets which have none, and whose carriers have none."""
        self._store, self._vault = store, store.vault
        self._time_zone = time_zone

    def sort(
        self, requests: Sequence[EnrollmentRequest], now: datetime
    ) -> list[Attempt | Answer | SosieError]:
        """One outcome for each request, in order; a document is judged on its outlet's date."""
        found: dict[int, Attempt | Answer | SosieError] = {}
        numbers: dict[int, str] = {}
        for place, request in enumerate(requests):
            try:
                given = request.consent.given
                if given is not None and given.given_at > now:
                    # It would outlive a withdrawal of before that.
                    raise RequestError("the consent is of a later time than now: check the clock")
                numbers[place] = require_judgeable(request)
            except SosieError as error:
                found[place] = error
        sound = [requests[place] for place in numbers]
        outlets = self._store.outlets(sorted({one.outlet for one in sound}))
        answers = self._store.answers([self._scope_of(one) for one in sound])
        for place, msisdn in numbers.items():
            try:
                found[place] = self._sort_one(requests[place], msisdn, outlets, answers, now)
            except SosieError as error:
                found[place] = error
        return [found[place] for place in range(len(requests))]

    def _scope_of(self, request: EnrollmentRequest) -> bytes:
        return idempotency_scope(self._vault, request.carrier, request.idempotency_key)

    def _sort_one(
        self,
        request: EnrollmentRequest,
        msisdn: str,
        outlets: Mapping[str, Outlet],
        answers: Mapping[bytes, StoredAnswer],
        now: datetime,
    ) -> Attempt | Answer:
        """Raises what refuses the request."""
        outlet, scope = outlets.get(request.outlet), self._scope_of(request)
        zone = (outlet.time_zone if outlet else None) or self._time_zone
        on = find_date(now, zone)
        document = check_document(request.document, on)
        payload = digest_payload(request, document.number, msisdn)
        payload_digest = self._vault.look_up("payload", payload.hex())
        if (stored := answers.get(scope)) is not None:
            if stored.payload_digest != payload_digest:
                raise IdempotencyMismatch(
                    "this Idempotency-Key was used with another payload: "
                    "use a fresh key for a new activation"
                )
            return Answer(stored.response, is_repeated=True)
        if outlet is None or not outlet.is_open or outlet.carrier != request.carrier:
            raise OutletRefused(
                "the outlet is unknown, closed or of another carrier: check the codes of both"
            )
        if outlet.restriction is not None:
            raise OutletRestricted(restricted(outlet.restriction))
        attempt = Attempt(
            **self._name(request, document),
            outlet=outlet,
            msisdn=msisdn,
            msisdn_lookup=self._vault.look_up("msisdn", msisdn),
            scope=scope,
            payload_digest=payload_digest,
            judged_on=on,
            time_zone=zone,
        )
        return self._name_others(attempt, on)

    def _name(self, request: EnrollmentRequest, document: CheckedDocument) -> dict[str, Any]:
        """What an attempt says of whom it is about."""
        lookup = document_look_up(self._vault, document) if document.is_well_formed else None
        return {
            "request": request,
            "document": document,
            "document_lookup": lookup,
            "name_lookup": lookup and name_look_up(self._vault, lookup, document.name),
            "is_same_photograph": is_same_photograph(self._vault, request.live, request.portrait),
        }

    def _name_others(self, attempt: Attempt, on: date) -> Attempt:
        """The attempt with the guardian who came along, and the document that it replaces."""
        request = attempt.request
        if (guardian := request.guardian) is not None:
            asked = replace(
                request,
                document=guardian.document,
                live=guardian.live,
                portrait=ABSENT if guardian.portrait is None else guardian.portrait,
                exception=None,
                guardian=None,
                replaces=None,
                # It is the minor's.
                consent=NO_CONSENT,
            )
            named = self._name(asked, check_document(guardian.document, on))
            attempt = replace(attempt, guardian=replace(attempt, **named))
        if request.replaces is not None:
            document = check_document(request.replaces, on)
            if document.is_well_formed:
                lookup = document_look_up(self._vault, document)
                name = name_look_up(self._vault, lookup, attempt.document.name)
                attempt = replace(
                    attempt, replaced=document, replaced_lookup=lookup, replaced_name_lookup=name
                )
        return attempt


def record_refused(
    requests: Sequence[EnrollmentRequest], outcomes: Sequence[Attempt | Answer | SosieError]
) -> tuple[AuditEntry, ...]:
    """An audit entry of each attempt at a restricted outlet."""
    return tuple(
        AuditEntry(one.actor, ENROLLMENT_REFUSED, one.outlet, {"cause": OutletRestricted.code})
        for one, outcome in zip(requests, outcomes, strict=True)
        if isinstance(outcome, OutletRestricted)
    )


def idempotency_scope(vault: Vault, carrier: str, key: str) -> bytes:
    """Key of a stored answer: one carrier's keys never meet another's."""
    return vault.look_up("idempotency", f"{carrier}\0{key}")


def document_look_up(vault: Vault, document: CheckedDocument) -> bytes:
    """The keyed digest under which the registry knows a well-formed document."""
    return vault.look_up(f"document:{document.type}", document.number)


def name_counted(lookup: bytes, record: DocumentRecord | None) -> str:
    """By what a document is counted: its id where it has or had a holder, else its look-up.

    One that is known from attempts alone is held by nobody: a count of its own would tell that an
    attempt has become a case.
    """
    if record is None or record.status is DocumentStatus.ATTEMPTED:
        return lookup.hex()
    return record.id


def name_look_up(vault: Vault, document_lookup: bytes, name: str) -> bytes:
    """Keyed digest of a name, bound to its document: two holders of one name stay unlinked."""
    return vault.look_up("name", f"{document_lookup.hex()}\0{name}")
