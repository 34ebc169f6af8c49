"""The client for asyncio."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import TypeVar

import httpx

from serving.client import calls, models
from serving.client.calls import Activation, Face, KnownDocument, MatchItem, Options, SweepTerms
from serving.client.transport import Done, Exchange, Wait

# The calls of fraud teams and operators, for asyncio.

T = TypeVar("T")

_DEFAULT = Options()


class AsyncTeam(ABC):
    """What `AsyncClient` has beside the calls of everybody."""

    async def search_people(
        self,
        *,
        probe: Face | None = None,
        document: KnownDocument | None = None,
        msisdn: str | None = None,
        options: Options = _DEFAULT,
    ) -> models.People:
        """Who has a face, a document or a number; exactly one of them."""
        return await self._carry(calls.search_people(probe, document, msisdn), options)

    async def read_document(self, document_id: str, options: Options = _DEFAULT) -> models.Person:
        """What stands under a document, closed lines and cases too."""
        return await self._carry(calls.read_document(document_id), options)

    async def read_crops(self, enrollment_id: str, options: Options = _DEFAULT) -> models.Crops:
        """The aligned faces of an enrollment, where they are kept."""
        return await self._carry(calls.read_crops(enrollment_id), options)

    async def list_cases(
        self,
        *,
        state: str | None = None,
        kind: str | None = None,
        assignee: str | None = None,
        after: str | None = None,
        limit: int = 50,
        options: Options = _DEFAULT,
    ) -> models.CasePage:
        """A page of cases, the newest first; `assignee` may be "me"."""
        call = calls.list_cases(state, kind, assignee, after, limit)
        return await self._carry(call, options)

    async def read_case(self, case_id: str, options: Options = _DEFAULT) -> models.CaseFile:
        """A case with its history and its documents."""
        return await self._carry(calls.read_case(case_id), options)

    async def assign_case(
        self, case_id: str, assignee: str | None = "me", options: Options = _DEFAULT
    ) -> models.CaseRow:
        """Gives a case to a person, or with None back to the queue."""
        return await self._carry(calls.assign_case(case_id, assignee), options)

    async def note_case(
        self, case_id: str, text: str, options: Options = _DEFAULT
    ) -> models.CaseRow:
        """Adds a remark; twice where a first answer was lost and the call is sent again."""
        return await self._carry(calls.note_case(case_id, text), options)

    async def propose_outcome(
        self,
        case_id: str,
        outcome: str,
        close_lines: Sequence[str] = (),
        *,
        seen_at: datetime | None = None,
        options: Options = _DEFAULT,
    ) -> models.CaseRow:
        """Proposes an outcome, with the lines that another person is to close by it.

        `seen_at`: the case's `updated_at` as it was looked at; `ApiError` 409 if it has changed.
        """
        call = calls.propose_outcome(case_id, outcome, close_lines, seen_at)
        return await self._carry(call, options)

    async def withdraw_proposal(self, case_id: str, options: Options = _DEFAULT) -> models.CaseRow:
        """Takes a proposal back."""
        return await self._carry(calls.withdraw_proposal(case_id), options)

    async def close_case(
        self,
        case_id: str,
        outcome: str,
        close_lines: Sequence[str] = (),
        *,
        seen_at: datetime | None = None,
        options: Options = _DEFAULT,
    ) -> models.CaseRow:
        """Closes a case; lines only by the same proposal of another person. `seen_at` as above."""
        call = calls.close_case(case_id, outcome, close_lines, seen_at)
        return await self._carry(call, options)

    async def measure_precision(
        self, sweep_id: str | None = None, options: Options = _DEFAULT
    ) -> models.Precision:
        """How many of the pairs that one sweep, or any, found and people judged were fraud."""
        return await self._carry(calls.measure_precision(sweep_id), options)

    async def expect_sweep(
        self, terms: SweepTerms, options: Options = _DEFAULT
    ) -> models.Expectation:
        """What a sweep would cost and bring."""
        return await self._carry(calls.expect_sweep(terms), options)

    async def start_sweep(self, terms: SweepTerms, options: Options = _DEFAULT) -> models.Sweep:
        """Starts a sweep; `ApiError` 409 where one is alive."""
        return await self._carry(calls.start_sweep(terms), options)

    async def list_sweeps(self, limit: int = 50, options: Options = _DEFAULT) -> models.Sweeps:
        """The newest sweeps."""
        return await self._carry(calls.list_sweeps(limit), options)

    async def read_sweep(self, sweep_id: str, options: Options = _DEFAULT) -> models.Sweep:
        """A sweep with its progress of this moment."""
        return await self._carry(calls.read_sweep(sweep_id), options)

    async def pause_sweep(self, sweep_id: str, options: Options = _DEFAULT) -> models.Sweep:
        """Stops a sweep where it is, to go on later."""
        return await self._carry(calls.steer_sweep(sweep_id, "pause"), options)

    async def resume_sweep(self, sweep_id: str, options: Options = _DEFAULT) -> models.Sweep:
        """Goes on with a sweep that was paused."""
        return await self._carry(calls.steer_sweep(sweep_id, "resume"), options)

    async def cancel_sweep(self, sweep_id: str, options: Options = _DEFAULT) -> models.Sweep:
        """Ends a sweep for good."""
        return await self._carry(calls.steer_sweep(sweep_id, "cancel"), options)

    async def list_groups(
        self, sweep_id: str, after: int = 0, limit: int = 50, options: Options = _DEFAULT
    ) -> models.GroupPage:
        """A page of a sweep's groups, the riskiest first."""
        return await self._carry(calls.list_groups(sweep_id, after, limit), options)

    async def read_group(
        self, sweep_id: str, key: str, options: Options = _DEFAULT
    ) -> models.Group:
        """A group with its members and the links between their faces."""
        return await self._carry(calls.read_group(sweep_id, key), options)

    async def read_thresholds(self, options: Options = _DEFAULT) -> models.CalibratedThresholds:
        """The deployment's thresholds, on their calibrated curves."""
        return await self._carry(calls.read_thresholds(), options)

    async def read_audit(
        self,
        *,
        after: int | None = None,
        limit: int = 50,
        action: str | None = None,
        actor: str | None = None,
        subject: str | None = None,
        options: Options = _DEFAULT,
    ) -> models.AuditPage:
        """Entries of the audit chain above a number, or the newest; for operators."""
        call = calls.read_audit(after, limit, action, actor, subject)
        return await self._carry(call, options)

    async def verify_audit(self, after: int = 0, options: Options = _DEFAULT) -> models.ChainPart:
        """Verifies a part of the audit chain; go on from `next` until it is None."""
        return await self._carry(calls.verify_audit(after), options)

    @abstractmethod
    async def _carry(self, call: calls.Call[T], options: Options) -> T: ...


class AsyncClient(AsyncTeam):
    """Calls the service at `base_url`; may be shared by the tasks of a loop.

    `timeout_s` is the time for one call with all its retries; a call whose time runs out, or that
    was tried `retries` times more in vain, is `Unavailable`. `transport`
    is httpx's, as for TLS of one's own.
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

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Gives the connections back."""
        await self._http.aclose()

    async def enroll(
        self, activation: Activation, options: Options = _DEFAULT
    ) -> models.Enrollment:
        """Decides an activation, once, however often it is sent."""
        return await self._carry(calls.enroll(activation), options)

    async def read_enrollment(
        self, enrollment_id: str, options: Options = _DEFAULT
    ) -> models.EnrollmentRecord:
        """What is on record of an enrollment."""
        return await self._carry(calls.read_enrollment(enrollment_id), options)

    async def find_enrollment(
        self, idempotency_key: str, options: Options = _DEFAULT
    ) -> models.Enrollment:
        """The answer that an activation with this key got; `ApiError` 404 where it got none."""
        return await self._carry(calls.find_enrollment(idempotency_key), options)

    async def match(
        self, items: Sequence[MatchItem], options: Options = _DEFAULT
    ) -> tuple[models.MatchResult, ...]:
        """Up to 256 items, each 1:1, 1:N or both; a result for each, in their order."""
        return (await self._carry(calls.match(items), options)).items

    async def make_templates(
        self, images: Sequence[bytes], options: Options = _DEFAULT
    ) -> models.Templates:
        """Templates of up to 256 photographs, for `match` until they expire."""
        return await self._carry(calls.make_templates(images), options)

    async def verify(
        self,
        probe: Face,
        *,
        reference: Face | None = None,
        line: str | None = None,
        document: KnownDocument | None = None,
        document_id: str | None = None,
        options: Options = _DEFAULT,
    ) -> models.Verification:
        """A face against exactly one of: another, the holder of a line, of a document."""
        call = calls.verify(
            probe, reference=reference, line=line, document=document, document_id=document_id
        )
        return await self._carry(call, options)

    async def identify(
        self, probe: Face, threshold: float | None = None, options: Options = _DEFAULT
    ) -> models.Identification:
        """Whose references look like this face; for fraud teams."""
        return await self._carry(calls.identify(probe, threshold), options)

    async def query_lines(
        self, document: KnownDocument, probe: Face, options: Options = _DEFAULT
    ) -> models.HolderLines:
        """The lines under a document, over all carriers, to its holder's face."""
        return await self._carry(calls.query_lines(document, probe), options)

    async def dispute(
        self, line: str, document: KnownDocument, probe: Face, options: Options = _DEFAULT
    ) -> models.Dispute:
        """Opens a case over a line, by its number or id, that the holder did not open.

        httpx logs paths at level INFO: give the id where such logs are kept.
        """
        return await self._carry(calls.dispute(line, document, probe), options)

    async def close_line(self, line: str, options: Options = _DEFAULT) -> models.ClosedLine:
        """Closes a line by its number or id; see `dispute` for logs."""
        return await self._carry(calls.close_line(line), options)

    async def erase(
        self, document_id: str, options: Options = _DEFAULT
    ) -> models.ErasureCertificate:
        """Erases the holder of a document."""
        return await self._carry(calls.erase(document_id), options)

    async def ready(self, options: Options = _DEFAULT) -> models.Readiness:
        """Whether the service decides and searches now; that it does not is an answer."""
        return await self._carry(calls.ready(), options)

    async def version(self, options: Options = _DEFAULT) -> models.Version:
        """Which version runs, and which model."""
        return await self._carry(calls.version(), options)

    async def whose_key(self, options: Options = _DEFAULT) -> models.KeyHolder:
        """What the key stands for."""
        return await self._carry(calls.whose_key(), options)

    async def _carry(self, call: calls.Call[T], options: Options) -> T:
        exchange = Exchange(
            call,
            options,
            api_key=self._api_key,
            timeout_s=self._timeout_s,
            retries=self._retries,
            now=time.monotonic,
        )
        while True:
            attempt = exchange.begin_attempt()
            try:
                response = await self._http.request(
                    attempt.method,
                    attempt.path,
                    headers=attempt.headers,
                    content=attempt.content,
                    timeout=attempt.timeout,
                )
            except httpx.TransportError as error:
                verdict: Done[T] | Wait = exchange.judge_failure(error)
            else:
                verdict = exchange.judge_response(response)
            if isinstance(verdict, Done):
                return verdict.answer
            await asyncio.sleep(verdict.seconds)
