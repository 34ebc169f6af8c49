"""The client: a method for each endpoint of the service."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, TypeVar

import httpx
from msgspec.structs import replace

from schema.actors import Restriction
from schema.cases import CaseSort, Outcome
from schema.lines import CampaignLineState, ExemptionCause, ReportedKind
from schema.people import DeathSource, DeathStep
from serving.client.transport import (
    READY,
    VERSION,
    Activation,
    Asked,
    Body,
    Call,
    Erased,
    Exchange,
    Face,
    MatchItem,
    Options,
    Query,
    Wait,
    ask_camara,
    ask_erasure,
    delete,
    get,
    patch,
    post,
    post_once,
    write_face,
)
from serving.wire import cases, enrollments, lines, matching, oversight, people, sweeps, webhooks
from serving.wire.fields import KnownDocument, Moment

T = TypeVar("T")
_USUAL = Options()


class AsyncClient:
    """Calls the service at `base_url`; may be shared by the tasks of a loop, or by threads.

    `timeout_s` is the time for one call with all its retries; a call whose time runs out, or that
    was tried `retries` times more in vain, is `Unavailable`. `transport` is httpx's, as for TLS of
    one's own.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        timeout_s: float = 30,
        retries: int = 4,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._api_key, self._timeout_s, self._retries = api_key, timeout_s, retries
        self._http = httpx.AsyncClient(base_url=base_url, transport=transport)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Gives the connections back."""
        await self._http.aclose()

    async def enroll(
        self, activation: Activation, options: Options = _USUAL
    ) -> enrollments.Enrollment:
        """Decides an activation, once, however often it is sent."""
        body, key = activation.write(), activation.idempotency_key
        call = post(enrollments.Enrollment, "enrollments", body=body, key=key)
        return await self._send(call, options)

    async def read_enrollment(
        self, enrollment_id: str, options: Options = _USUAL
    ) -> enrollments.EnrollmentRecord:
        """Reads the record of an enrollment."""
        return await self._get(options, enrollments.EnrollmentRecord, "enrollments", enrollment_id)

    async def find_enrollment(
        self, idempotency_key: str, options: Options = _USUAL
    ) -> enrollments.Enrollment:
        """The answer that an activation with this key got; `ApiError` 404 where it got none."""
        call = get(enrollments.Enrollment, "enrollments", idempotency_key=idempotency_key)
        return await self._send(call, options)

    async def match(
        self, items: Sequence[MatchItem], options: Options = _USUAL
    ) -> tuple[matching.MatchResult, ...]:
        """Up to 256 items, each 1:1, 1:N or both; a result for each, in their order."""
        body = matching.MatchRequest(tuple(item.write() for item in items))
        return (await self._post(options, matching.MatchResults, body, "match")).items

    async def make_templates(
        self, images: Sequence[bytes], options: Options = _USUAL
    ) -> matching.Templates:
        """Templates of up to 256 photographs, for `match` until they expire."""
        body = matching.TemplatesRequest(tuple(matching.TemplateItem(image=one) for one in images))
        return await self._post(options, matching.Templates, body, "templates")

    async def verify(
        self,
        probe: Face | None = None,
        *,
        reference: Face | None = None,
        line: str | None = None,
        document: KnownDocument | None = None,
        document_id: str | None = None,
        liveness: str | None = None,
        portrait: Face | None = None,
        proof: str | None = None,
        options: Options = _USUAL,
    ) -> matching.Verification:
        """A face against one of these; with a `portrait` or `proof` a line and its document."""
        given = (probe, reference, portrait)
        face, other, own = (None if one is None else write_face(one) for one in given)
        named = (line, document, document_id, liveness)
        body = matching.VerificationRequest(face, other, *named, own, proof)
        return await self._post(options, matching.Verification, body, "verifications")

    async def identify(
        self, probe: Face, threshold: float | None = None, options: Options = _USUAL
    ) -> people.Identification:
        """Finds the people whose references look like this face; for fraud teams."""
        body = people.IdentificationRequest(write_face(probe), threshold)
        return await self._post(options, people.Identification, body, "identifications")

    async def query_lines(
        self,
        document: KnownDocument,
        probe: Face,
        options: Options = _USUAL,
        *,
        liveness: str | None = None,
    ) -> lines.HolderLines:
        """The lines under a document, over all carriers, to its holder's face."""
        body = lines.HolderRequest(document, write_face(probe), liveness)
        return await self._post(options, lines.HolderLines, body, "lines", "query")

    async def dispute(
        self,
        line: str,
        document: KnownDocument,
        probe: Face,
        options: Options = _USUAL,
        *,
        liveness: str | None = None,
    ) -> lines.Dispute:
        """Opens a case over a line, by its number or id, that the holder did not open. httpx logs
        paths at level INFO: give the id where such logs are kept."""
        body = lines.HolderRequest(document, write_face(probe), liveness)
        return await self._post(options, lines.Dispute, body, "lines", line, "dispute")

    async def close_line(self, line: str, options: Options = _USUAL) -> lines.ClosedLine:
        """Closes a line by its number or id; see `dispute` for logs."""
        return await self._send(delete(lines.ClosedLine, "lines", line), options)

    async def report_event(
        self, line: str, kind: ReportedKind, at: datetime, options: Options = _USUAL
    ) -> lines.LineEvent:
        """Reports what has happened to a line, by its number or id; again, it is the same event."""
        body = lines.EventReport(kind, Moment.of(at))
        return await self._post(options, lines.LineEvent, body, "lines", line, "events")

    async def read_line_history(self, line: str, options: Options = _USUAL) -> lines.LineHistory:
        """Reads the events of a line, and what it waits for."""
        return await self._get(options, lines.LineHistory, "lines", line, "events")

    async def exempt_document(
        self, document_id: str, cause: ExemptionCause, options: Options = _USUAL
    ) -> lines.Exemption:
        """No limit on lines holds for a document any more."""
        body, path = lines.ExemptionRequest(cause), ("documents", document_id, "exemption")
        return await self._post(options, lines.Exemption, body, *path)

    async def end_exemption(self, document_id: str, options: Options = _USUAL) -> lines.Exemption:
        """The limits hold for a document again."""
        call = delete(lines.Exemption, "documents", document_id, "exemption")
        return await self._send(call, options)

    async def read_exemption(self, document_id: str, options: Options = _USUAL) -> lines.Exemption:
        """Reads whether limits on lines hold for a document."""
        return await self._get(options, lines.Exemption, "documents", document_id, "exemption")

    async def start_campaign(
        self, campaign: lines.CampaignRequest, options: Options = _USUAL
    ) -> lines.Campaign:
        """Asks for the holders of many lines by a deadline."""
        return await self._post(options, lines.Campaign, campaign, "campaigns")

    async def add_to_campaign(
        self, campaign_id: str, numbers: Sequence[str], options: Options = _USUAL
    ) -> lines.AddedLines:
        """Adds up to 1,000 lines, by number or id."""
        body = lines.CampaignLinesRequest(tuple(numbers))
        return await self._post(options, lines.AddedLines, body, "campaigns", campaign_id, "lines")

    async def end_campaign(self, campaign_id: str, options: Options = _USUAL) -> lines.Campaign:
        """Ends a campaign before its deadline: nobody else is asked for."""
        return await self._post(options, lines.Campaign, None, "campaigns", campaign_id, "end")

    async def list_campaigns(self, options: Options = _USUAL) -> lines.Campaigns:
        """The newest campaigns."""
        return await self._get(options, lines.Campaigns, "campaigns")

    async def read_campaign(self, campaign_id: str, options: Options = _USUAL) -> lines.Campaign:
        """A campaign, and how far it is."""
        return await self._get(options, lines.Campaign, "campaigns", campaign_id)

    async def list_campaign_lines(
        self,
        campaign_id: str,
        *,
        state: CampaignLineState = CampaignLineState.OVERDUE,
        after: str | None = None,
        limit: int = 200,
        options: Options = _USUAL,
    ) -> lines.CampaignLines:
        """A page of a campaign's lines in one state."""
        page: Query = {"state": state, "after": after, "limit": limit}
        call = get(lines.CampaignLines, "campaigns", campaign_id, "lines", **page)
        return await self._send(call, options)

    async def retrieve_sim_swap_date(
        self, number: str, options: Options = _USUAL
    ) -> lines.SimSwapDate:
        """When a number got the SIM that it has (CAMARA)."""
        body = lines.SimSwapDateRequest(number)
        return await self._send(ask_camara(lines.SimSwapDate, "retrieve-date", body), options)

    async def check_sim_swap(
        self, number: str, max_age_h: int = 240, options: Options = _USUAL
    ) -> lines.SimSwapCheck:
        """Checks whether the number got another SIM within these hours (CAMARA)."""
        body = lines.SimSwapCheckRequest(number, max_age_h)
        return await self._send(ask_camara(lines.SimSwapCheck, "check", body), options)

    async def erase(self, document_id: str, options: Options = _USUAL) -> Erased:
        """Erases a document's holder; an `Erasure` where it waits for cases: see `read_erasure`."""
        return await self._send(ask_erasure("DELETE", document_id), options)

    async def withdraw_consent(self, document_id: str, options: Options = _USUAL) -> Erased:
        """Withdraws consent to a holder's face, which goes as by `erase`; the lines stay."""
        return await self._send(ask_erasure("POST", document_id, "withdrawal"), options)

    async def read_erasure(
        self, document_id: str, options: Options = _USUAL
    ) -> enrollments.Erasure:
        """Reads the state of a document's erasure."""
        return await self._get(options, enrollments.Erasure, "documents", document_id, "erasure")

    async def read_death(self, document_id: str, options: Options = _USUAL) -> people.Death:
        """Reads the report of a holder's death; `ApiError` 404 where there is none."""
        return await self._get(options, people.Death, "documents", document_id, "death")

    async def step_death(
        self,
        document_id: str,
        step: DeathStep,
        *,
        source: DeathSource | None = None,
        options: Options = _USUAL,
    ) -> people.Death:
        """Reports a holder dead (with a `source`), confirms or contests that, or lifts it."""
        body = people.DeathRequest(step, source)
        return await self._post(options, people.Death, body, "documents", document_id, "death")

    async def ready(self, options: Options = _USUAL) -> oversight.Readiness:
        """Reads whether the service decides and searches now; that it does not is an answer."""
        return await self._send(READY, options)

    async def version(self, options: Options = _USUAL) -> oversight.Version:
        """Which version runs, and which model."""
        return await self._send(VERSION, options)

    async def whose_key(self, options: Options = _USUAL) -> oversight.KeyHolder:
        """Reads the owner and the role of the key."""
        return await self._get(options, oversight.KeyHolder, "me")

    async def search_people(
        self,
        *,
        probe: Face | None = None,
        document: KnownDocument | None = None,
        msisdn: str | None = None,
        options: Options = _USUAL,
    ) -> people.People:
        """Finds the people with a face, a document or a number; exactly one of them."""
        body = people.PeopleRequest(None if probe is None else write_face(probe), document, msisdn)
        return await self._post(options, people.People, body, "people", "search")

    async def export_subject(
        self, asked: people.SubjectRequest, options: Options = _USUAL
    ) -> people.Subject:
        """All that is kept of a document's holder, as the holder may have it."""
        return await self._post(options, people.Subject, asked, "subjects", "export")

    async def read_document(self, document_id: str, options: Options = _USUAL) -> people.Person:
        """Reads everything under a document, closed lines and cases too."""
        return await self._get(options, people.Person, "documents", document_id)

    async def read_crops(self, enrollment_id: str, options: Options = _USUAL) -> enrollments.Crops:
        """The aligned faces of an enrollment, where they are kept."""
        return await self._get(options, enrollments.Crops, "enrollments", enrollment_id, "crops")

    async def read_faces(
        self, document_ids: Sequence[str], options: Options = _USUAL
    ) -> people.Faces:
        """The faces that are kept under up to 8 documents, and how alike each two are."""
        body = people.FacesRequest(document_ids=tuple(document_ids))
        return await self._post(options, people.Faces, body, "faces", "query")

    async def list_cases(
        self,
        *,
        sort: CaseSort = CaseSort.NEWEST,
        state: str | None = None,
        kind: str | None = None,
        assignee: str | None = None,
        carrier: str | Sequence[str] | None = None,
        outlet: str | Sequence[str] | None = None,
        id_end: str | None = None,
        overdue: bool = False,
        to_approve: bool = False,
        after: str | None = None,
        limit: int = 50,
        options: Options = _USUAL,
    ) -> cases.CasePage:
        """A page of the queue; `assignee` may be "me"."""
        query: Query = {"sort": sort, "state": state, "kind": kind, "assignee": assignee}
        query |= {"carriers": carrier, "outlets": outlet, "id_end": id_end, "after": after}
        query |= {"overdue": overdue, "to_approve": to_approve}
        return await self._get(options, cases.CasePage, "cases", limit=limit, **query)

    async def read_case(self, case_id: str, options: Options = _USUAL) -> cases.CaseFile:
        """A case with its history and its documents."""
        return await self._get(options, cases.CaseFile, "cases", case_id)

    async def assign_case(
        self, case_id: str, assignee: str | None = "me", options: Options = _USUAL
    ) -> cases.Case:
        """Gives a case to a person, or with None back to the queue."""
        body = cases.AssignRequest(assignee)
        return await self._post(options, cases.Case, body, "cases", case_id, "assign")

    async def note_case(self, case_id: str, text: str, options: Options = _USUAL) -> cases.Case:
        """Adds a remark; twice where a first answer was lost and the call is sent again."""
        body = cases.NoteRequest(text)
        return await self._post(options, cases.Case, body, "cases", case_id, "notes")

    async def reveal_case(
        self, case_id: str, reason: str, options: Options = _USUAL
    ) -> cases.RevealedCase:
        """Whom a case is about, names and numbers in full; its history has the reason."""
        body = cases.RevealRequest(reason)
        return await self._post(options, cases.RevealedCase, body, "cases", case_id, "reveal")

    async def propose_outcome(
        self,
        case_id: str,
        outcome: Outcome,
        close_lines: Sequence[str] = (),
        *,
        seen_at: datetime,
        keep_lines: bool = False,
        options: Options = _USUAL,
    ) -> cases.Case:
        """Proposes an outcome, with the lines to be closed by it; fraud that leaves numbers in use
        says so by `keep_lines`. `ApiError` 409 where `updated_at` is no longer `seen_at`."""
        body = cases.OutcomeRequest(outcome, Moment.of(seen_at), tuple(close_lines), keep_lines)
        return await self._post(options, cases.Case, body, "cases", case_id, "propose")

    async def withdraw_proposal(self, case_id: str, options: Options = _USUAL) -> cases.Case:
        """Takes a proposal back."""
        return await self._post(options, cases.Case, None, "cases", case_id, "withdraw")

    async def close_case(
        self,
        case_id: str,
        outcome: Outcome,
        close_lines: Sequence[str] = (),
        *,
        seen_at: datetime,
        keep_lines: bool = False,
        options: Options = _USUAL,
    ) -> cases.Case:
        """Closes a case by the same proposal of another person; the rest as above."""
        body = cases.OutcomeRequest(outcome, Moment.of(seen_at), tuple(close_lines), keep_lines)
        return await self._post(options, cases.Case, body, "cases", case_id, "close")

    async def end_cases(
        self, step: cases.CaseStep, endings: Sequence[cases.CaseEnding], options: Options = _USUAL
    ) -> cases.EndedCases:
        """Takes a step of up to 100 cases, each for itself: `error` says why one was refused."""
        body = cases.EndingsRequest(step, tuple(endings))
        return await self._post(options, cases.EndedCases, body, "cases", "outcomes")

    async def reopen_case(
        self, case_id: str, reason: str, *, seen_at: datetime, options: Options = _USUAL
    ) -> cases.CaseFile:
        """Asks that a closed case be opened again, and by another person opens it."""
        body = cases.ReopenRequest(reason, Moment.of(seen_at))
        return await self._post(options, cases.CaseFile, body, "cases", case_id, "reopen")

    async def list_outlets(
        self,
        *,
        carrier: str | None = None,
        restriction: Restriction | None = None,
        after: str | None = None,
        limit: int = 50,
        options: Options = _USUAL,
    ) -> cases.OutletList:
        """A page of the outlets that may enroll nobody, those with most refused attempts first."""
        query: Query = {"carrier": carrier, "restriction": restriction, "after": after}
        return await self._get(options, cases.OutletList, "outlets", limit=limit, **query)

    async def count_exceptions(
        self, *, days: int = 30, carrier: str | None = None, options: Options = _USUAL
    ) -> cases.ExceptionCounts:
        """The outlets that have asked for exceptions of late, those with most first."""
        call = get(cases.ExceptionCounts, "exceptions", "outlets", days=days, carrier=carrier)
        return await self._send(call, options)

    async def read_outlet(self, outlet: str, options: Options = _USUAL) -> cases.OutletState:
        """Reads whether an outlet may enroll."""
        return await self._get(options, cases.OutletState, "outlets", outlet)

    async def suspend_outlet(
        self, outlet: str, case_id: str, reason: str, options: Options = _USUAL
    ) -> cases.OutletState:
        """Lets an outlet enroll nobody, at once."""
        body = cases.RestrictRequest(case_id, reason)
        return await self._post(options, cases.OutletState, body, "outlets", outlet, "suspend")

    async def bar_outlet(
        self, outlet: str, case_id: str, reason: str, options: Options = _USUAL
    ) -> cases.OutletState:
        """Bars an outlet that another person has suspended."""
        body = cases.RestrictRequest(case_id, reason)
        return await self._post(options, cases.OutletState, body, "outlets", outlet, "bar")

    async def lift_restriction(
        self, outlet: str, restriction: Restriction, reason: str, options: Options = _USUAL
    ) -> cases.OutletState:
        """Lets an outlet enroll again; `restriction` is the one that was seen."""
        body = cases.LiftRequest(restriction, reason)
        return await self._post(options, cases.OutletState, body, "outlets", outlet, "lift")

    async def list_past_enrollments(
        self,
        outlet: str,
        *,
        sort: Literal["newest", "oldest"] = "newest",
        decision: str | None = None,
        state: str | None = None,
        kind: str | None = None,
        assignee: str | None = None,
        id_end: str | None = None,
        overdue: bool = False,
        after: str | None = None,
        limit: int = 50,
        options: Options = _USUAL,
    ) -> cases.PastEnrollments:
        """A page of what was attempted at an outlet; `state` and `kind` are of its case."""
        query: Query = {"sort": sort, "decision": decision, "state": state, "kind": kind}
        query |= {"assignee": assignee, "id_end": id_end, "overdue": overdue, "after": after}
        call = get(cases.PastEnrollments, "outlets", outlet, "enrollments", limit=limit, **query)
        return await self._send(call, options)

    async def report_case(
        self,
        case_id: str,
        *,
        faces: bool = False,
        reveal: bool = False,
        carrier: str | None = None,
        options: Options = _USUAL,
    ) -> cases.CaseReport:
        """A case as one file for police or a regulator: `html` is the page."""
        body = cases.CaseReportRequest(faces=faces, reveal=reveal, carrier=carrier)
        return await self._post(options, cases.CaseReport, body, "cases", case_id, "report")

    async def measure_precision(
        self, sweep_id: str | None = None, *, wanted: float | None = None, options: Options = _USUAL
    ) -> sweeps.Precision:
        """The share of fraud in judged pairs, and the threshold at which it is as `wanted`."""
        call = get(sweeps.Precision, "precision", sweep_id=sweep_id, wanted=wanted)
        return await self._send(call, options)

    async def expect_sweep(
        self, terms: sweeps.SweepRequest, options: Options = _USUAL
    ) -> sweeps.Expectation:
        """Estimates the cost and the yield of a sweep."""
        return await self._post(options, sweeps.Expectation, replace(terms, dry_run=True), "sweeps")

    async def start_sweep(
        self, terms: sweeps.SweepRequest, options: Options = _USUAL
    ) -> sweeps.SweepReport:
        """Starts a sweep; `ApiError` 409 where one is alive."""
        return await self._post(options, sweeps.SweepReport, terms, "sweeps")

    async def list_sweeps(self, limit: int = 50, options: Options = _USUAL) -> sweeps.Sweeps:
        """The newest"""
        return await self._get(options, sweeps.Sweeps, "sweeps", limit=limit)

    async def read_sweep(self, sweep_id: str, options: Options = _USUAL) -> sweeps.SweepReport:
        """A sweep with its progress of this moment."""
        return await self._get(options, sweeps.SweepReport, "sweeps", sweep_id)

    async def pause_sweep(self, sweep_id: str, options: Options = _USUAL) -> sweeps.SweepReport:
        """Stops a sweep where it is, to go on later."""
        return await self._post(options, sweeps.SweepReport, None, "sweeps", sweep_id, "pause")

    async def resume_sweep(self, sweep_id: str, options: Options = _USUAL) -> sweeps.SweepReport:
        """Goes on with a sweep that was paused."""
        return await self._post(options, sweeps.SweepReport, None, "sweeps", sweep_id, "resume")

    async def cancel_sweep(self, sweep_id: str, options: Options = _USUAL) -> sweeps.SweepReport:
        """Ends a sweep for good."""
        return await self._post(options, sweeps.SweepReport, None, "sweeps", sweep_id, "cancel")

    async def list_groups(
        self, sweep_id: str, after: int = 0, limit: int = 50, options: Options = _USUAL
    ) -> sweeps.GroupPage:
        """A page of a sweep's groups, the riskiest first."""
        call = get(sweeps.GroupPage, "sweeps", sweep_id, "groups", after=after, limit=limit)
        return await self._send(call, options)

    async def read_group(self, sweep_id: str, key: str, options: Options = _USUAL) -> sweeps.Group:
        """A group with its members and the links between their faces."""
        return await self._get(options, sweeps.Group, "sweeps", sweep_id, "groups", key)

    async def read_thresholds(self, options: Options = _USUAL) -> oversight.CalibratedThresholds:
        """The deployment's thresholds, on their calibrated curves."""
        return await self._get(options, oversight.CalibratedThresholds, "thresholds")

    async def read_audit(
        self,
        *,
        after: int | None = None,
        limit: int = 50,
        action: str | None = None,
        actor: str | None = None,
        subject: str | None = None,
        options: Options = _USUAL,
    ) -> oversight.AuditPage:
        """Entries of the audit chain above a number, or the newest; for operators."""
        query: Query = {"after": after, "action": action, "actor": actor, "subject": subject}
        return await self._get(options, oversight.AuditPage, "audit", limit=limit, **query)

    async def start_backup(self, options: Options = _USUAL) -> oversight.Backup:
        """Begins a backup in the service's home; where one runs, it is that one."""
        return await self._post(options, oversight.Backup, None, "backups")

    async def list_backups(self, options: Options = _USUAL) -> oversight.Backups:
        """The backups in the service's home, and the one that runs."""
        return await self._get(options, oversight.Backups, "backups")

    async def admit_rows(
        self, sealed: bytes, planned: str | None = None, options: Options = _USUAL
    ) -> oversight.AdmittedChunk:
        """Plans a part of an import, or stores what was planned: `sosie import` sends it."""
        body = oversight.ImportChunk(sealed=sealed, planned=planned)
        return await self._post(options, oversight.AdmittedChunk, body, "imports")

    async def read_events(
        self,
        after: str = "0",
        *,
        limit: int = 100,
        type: str | None = None,  # noqa: A002 - as the interface calls it
        options: Options = _USUAL,
    ) -> webhooks.Events:
        """Reads the events beyond a place in the feed, in order; keep `next` and give it back."""
        query: Query = {"after": after, "limit": limit, "type": type}
        return await self._get(options, webhooks.Events, "events", **query)

    async def create_webhook(
        self,
        sink: str,
        types: Sequence[str] = (),
        *,
        carrier: str | None = None,
        options: Options = _USUAL,
    ) -> webhooks.WebhookSecret:
        """Has events sent to an address, of these types or of all; the secret is told here alone,
        so the call is not repeated: where no answer came, look at `list_webhooks` first."""
        body = webhooks.NewWebhook(sink, tuple(types), carrier)
        return await self._send(post_once(webhooks.WebhookSecret, "webhooks", body=body), options)

    async def list_webhooks(self, options: Options = _USUAL) -> webhooks.Webhooks:
        """The webhooks of the key's carrier, or all."""
        return await self._get(options, webhooks.Webhooks, "webhooks")

    async def read_webhook(self, webhook_id: str, options: Options = _USUAL) -> webhooks.Webhook:
        """A webhook, with what waits for it."""
        return await self._get(options, webhooks.Webhook, "webhooks", webhook_id)

    async def change_webhook(
        self,
        webhook_id: str,
        *,
        sink: str | None = None,
        types: Sequence[str] | None = None,
        state: Literal["active", "paused"] | None = None,
        options: Options = _USUAL,
    ) -> webhooks.Webhook:
        """Changes what is given."""
        body = webhooks.ChangedWebhook(sink, None if types is None else tuple(types), state)
        return await self._send(patch(webhooks.Webhook, "webhooks", webhook_id, body=body), options)

    async def remove_webhook(
        self, webhook_id: str, options: Options = _USUAL
    ) -> webhooks.RemovedWebhook:
        """Ends a webhook."""
        return await self._send(delete(webhooks.RemovedWebhook, "webhooks", webhook_id), options)

    async def rotate_secret(
        self, webhook_id: str, options: Options = _USUAL
    ) -> webhooks.WebhookSecret:
        """A new secret, told here alone; not repeated, since each call makes another."""
        call = post_once(webhooks.WebhookSecret, "webhooks", webhook_id, "rotate")
        return await self._send(call, options)

    async def replay_events(
        self, webhook_id: str, after: str, options: Options = _USUAL
    ) -> webhooks.Webhook:
        """Has every event after a place of the feed sent again."""
        body = webhooks.Replay(after)
        return await self._post(options, webhooks.Webhook, body, "webhooks", webhook_id, "replay")

    async def test_webhook(
        self, webhook_id: str, event_type: str, options: Options = _USUAL
    ) -> webhooks.SentExample:
        """Sends an example of this type to a webhook, once."""
        body = webhooks.AskedExample(event_type)
        call = post_once(webhooks.SentExample, "webhooks", webhook_id, "test", body=body)
        return await self._send(call, options)

    async def list_dead_letters(
        self, webhook_id: str, after: str = "0", *, limit: int = 100, options: Options = _USUAL
    ) -> webhooks.DeadLetters:
        """The events that are tried no more."""
        path = ("webhooks", webhook_id, "dead-letters")
        return await self._get(options, webhooks.DeadLetters, *path, after=after, limit=limit)

    async def retry_dead_letters(
        self, webhook_id: str, events: Sequence[str] = (), options: Options = _USUAL
    ) -> webhooks.Revived:
        """Has these events tried again, or all that were given up."""
        body, path = webhooks.AskedAgain(tuple(events)), ("webhooks", webhook_id, "dead-letters")
        return await self._post(options, webhooks.Revived, body, *path, "retry")

    async def verify_audit(self, after: int = 0, options: Options = _USUAL) -> oversight.ChainPart:
        """Verifies a part of the audit chain; go on from `next` until it is None."""
        return await self._get(options, oversight.ChainPart, "audit", "verification", after=after)

    async def _get(self, options: Options, answer: type[T], *steps: str, **query: Asked) -> T:
        return await self._send(get(answer, *steps, **query), options)

    async def _post(self, options: Options, answer: type[T], body: Body, *steps: str) -> T:
        return await self._send(post(answer, *steps, body=body), options)

    async def _send(self, call: Call[T], options: Options) -> T:
        exchange = Exchange(call, options, self._api_key, self._timeout_s, self._retries)
        while True:
            headers, timeout = exchange.begin_attempt()
            try:
                response = await self._http.request(
                    call.method, call.path, content=call.content, headers=headers, timeout=timeout
                )
            except httpx.TransportError as error:
                verdict: T | Wait = exchange.judge_failure(error)
            else:
                verdict = exchange.judge_response(response)
            if not isinstance(verdict, Wait):
                return verdict
            await asyncio.sleep(verdict.seconds)
