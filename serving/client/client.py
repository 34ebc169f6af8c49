"""The client for threads."""

from __future__ import annotations

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

# The calls of fraud teams and operators, for threads.

T = TypeVar("T")

_DEFAULT = Options()


class Team(ABC):
    """What `Client` has beside the calls of everybody."""

    def search_people(
        self,
        *,
        probe: Face | None = None,
        document: KnownDocument | None = None,
        msisdn: str | None = None,
        options: Options = _DEFAULT,
    ) -> models.People:
        """Who has a face, a document or a number; exactly one of them."""
        return self._carry(calls.search_people(probe, document, msisdn), options)

    def read_document(self, document_id: str, options: Options = _DEFAULT) -> models.Person:
        """What stands under a document, closed lines and cases too."""
        return self._carry(calls.read_document(document_id), options)

    def read_crops(self, enrollment_id: str, options: Options = _DEFAULT) -> models.Crops:
        """The aligned faces of an enrollment, where they are kept."""
        return self._carry(calls.read_crops(enrollment_id), options)

    def list_cases(
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
        return self._carry(call, options)

    def read_case(self, case_id: str, options: Options = _DEFAULT) -> models.CaseFile:
        """A case with its history and its documents."""
        return self._carry(calls.read_case(case_id), options)

    def assign_case(
        self, case_id: str, assignee: str | None = "me", options: Options = _DEFAULT
    ) -> models.CaseRow:
        """Gives a case to a person, or with None back to the queue."""
        return self._carry(calls.assign_case(case_id, assignee), options)

    def note_case(self, case_id: str, text: str, options: Options = _DEFAULT) -> models.CaseRow:
        """Adds a remark; twice where a first answer was lost and the call is sent again."""
        return self._carry(calls.note_case(case_id, text), options)

    def propose_outcome(
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
        return self._carry(call, options)

    def withdraw_proposal(self, case_id: str, options: Options = _DEFAULT) -> models.CaseRow:
        """Takes a proposal back."""
        return self._carry(calls.withdraw_proposal(case_id), options)

    def close_case(
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
        return self._carry(call, options)

    def measure_precision(
        self, sweep_id: str | None = None, options: Options = _DEFAULT
    ) -> models.Precision:
        """How many of the pairs that one sweep, or any, found and people judged were fraud."""
        return self._carry(calls.measure_precision(sweep_id), options)

    def expect_sweep(self, terms: SweepTerms, options: Options = _DEFAULT) -> models.Expectation:
        """What a sweep would cost and bring."""
        return self._carry(calls.expect_sweep(terms), options)

    def start_sweep(self, terms: SweepTerms, options: Options = _DEFAULT) -> models.Sweep:
        """Starts a sweep; `ApiError` 409 where one is alive."""
        return self._carry(calls.start_sweep(terms), options)

    def list_sweeps(self, limit: int = 50, options: Options = _DEFAULT) -> models.Sweeps:
        """The newest sweeps."""
        return self._carry(calls.list_sweeps(limit), options)

    def read_sweep(self, sweep_id: str, options: Options = _DEFAULT) -> models.Sweep:
        """A sweep with its progress of this moment."""
        return self._carry(calls.read_sweep(sweep_id), options)

    def pause_sweep(self, sweep_id: str, options: Options = _DEFAULT) -> models.Sweep:
        """Stops a sweep where it is, to go on later."""
        return self._carry(calls.steer_sweep(sweep_id, "pause"), options)

    def resume_sweep(self, sweep_id: str, options: Options = _DEFAULT) -> models.Sweep:
        """Goes on with a sweep that was paused."""
        return self._carry(calls.steer_sweep(sweep_id, "resume"), options)

    def cancel_sweep(self, sweep_id: str, options: Options = _DEFAULT) -> models.Sweep:
        """Ends a sweep for good."""
        return self._carry(calls.steer_sweep(sweep_id, "cancel"), options)

    def list_groups(
        self, sweep_id: str, after: int = 0, limit: int = 50, options: Options = _DEFAULT
    ) -> models.GroupPage:
        """A page of a sweep's groups, the riskiest first."""
        return self._carry(calls.list_groups(sweep_id, after, limit), options)

    def read_group(self, sweep_id: str, key: str, options: Options = _DEFAULT) -> models.Group:
        """A group with its members and the links between their faces."""
        return self._carry(calls.read_group(sweep_id, key), options)

    def read_thresholds(self, options: Options = _DEFAULT) -> models.CalibratedThresholds:
        """The deployment's thresholds, on their calibrated curves."""
        return self._carry(calls.read_thresholds(), options)

    def read_audit(
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
        return self._carry(call, options)

    def verify_audit(self, after: int = 0, options: Options = _DEFAULT) -> models.ChainPart:
        """Verifies a part of the audit chain; go on from `next` until it is None."""
        return self._carry(calls.verify_audit(after), options)

    @abstractmethod
    def _carry(self, call: calls.Call[T], options: Options) -> T: ...


class Client(Team):
    """Calls the service at `base_url`; may be shared by threads.

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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._api_key, self._timeout_s, self._retries = api_key, timeout_s, retries
        self._http = httpx.Client(base_url=base_url, transport=transport)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the connections back."""
        self._http.close()

    def enroll(self, activation: Activation, options: Options = _DEFAULT) -> models.Enrollment:
        """Decides an activation, once, however often it is sent."""
        return self._carry(calls.enroll(activation), options)

    def read_enrollment(
        self, enrollment_id: str, options: Options = _DEFAULT
    ) -> models.EnrollmentRecord:
        """What is on record of an enrollment."""
        return self._carry(calls.read_enrollment(enrollment_id), options)

    def find_enrollment(
        self, idempotency_key: str, options: Options = _DEFAULT
    ) -> models.Enrollment:
        """The answer that an activation with this key got; `ApiError` 404 where it got none."""
        return self._carry(calls.find_enrollment(idempotency_key), options)

    def match(
        self, items: Sequence[MatchItem], options: Options = _DEFAULT
    ) -> tuple[models.MatchResult, ...]:
        """Up to 256 items, each 1:1, 1:N or both; a result for each, in their order."""
        return self._carry(calls.match(items), options).items

    def make_templates(
        self, images: Sequence[bytes], options: Options = _DEFAULT
    ) -> models.Templates:
        """Templates of up to 256 photographs, for `match` until they expire."""
        return self._carry(calls.make_templates(images), options)

    def verify(
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
        return self._carry(call, options)

    def identify(
        self, probe: Face, threshold: float | None = None, options: Options = _DEFAULT
    ) -> models.Identification:
        """Whose references look like this face; for fraud teams."""
        return self._carry(calls.identify(probe, threshold), options)

    def query_lines(
        self, document: KnownDocument, probe: Face, options: Options = _DEFAULT
    ) -> models.HolderLines:
        """The lines under a document, over all carriers, to its holder's face."""
        return self._carry(calls.query_lines(document, probe), options)

    def dispute(
        self, line: str, document: KnownDocument, probe: Face, options: Options = _DEFAULT
    ) -> models.Dispute:
        """Opens a case over a line, by its number or id, that the holder did not open.

        httpx logs paths at level INFO: give the id where such logs are kept.
        """
        return self._carry(calls.dispute(line, document, probe), options)

    def close_line(self, line: str, options: Options = _DEFAULT) -> models.ClosedLine:
        """Closes a line by its number or id; see `dispute` for logs."""
        return self._carry(calls.close_line(line), options)

    def erase(self, document_id: str, options: Options = _DEFAULT) -> models.ErasureCertificate:
        """Erases the holder of a document."""
        return self._carry(calls.erase(document_id), options)

    def ready(self, options: Options = _DEFAULT) -> models.Readiness:
        """Whether the service decides and searches now; that it does not is an answer."""
        return self._carry(calls.ready(), options)

    def version(self, options: Options = _DEFAULT) -> models.Version:
        """Which version runs, and which model."""
        return self._carry(calls.version(), options)

    def whose_key(self, options: Options = _DEFAULT) -> models.KeyHolder:
        """What the key stands for."""
        return self._carry(calls.whose_key(), options)

    def _carry(self, call: calls.Call[T], options: Options) -> T:
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
                response = self._http.request(
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
            time.sleep(verdict.seconds)
