"""The calls of fraud teams and operators, for asyncio."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from serving.client import calls, casework, oversight, sweeps, team_calls
from serving.client.requests import Face, KnownDocument, Options, SweepTerms

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
    ) -> casework.People:
        """Who has a face, a document or a number; exactly one of them."""
        return await self._carry(team_calls.search_people(probe, document, msisdn), options)

    async def read_document(self, document_id: str, options: Options = _DEFAULT) -> casework.Person:
        """What stands under a document, closed lines and cases too."""
        return await self._carry(team_calls.read_document(document_id), options)

    async def read_crops(self, enrollment_id: str, options: Options = _DEFAULT) -> casework.Crops:
        """The aligned faces of an enrollment, where they are kept."""
        return await self._carry(team_calls.read_crops(enrollment_id), options)

    async def list_cases(
        self,
        *,
        state: str | None = None,
        kind: str | None = None,
        assignee: str | None = None,
        after: str | None = None,
        limit: int = 50,
        options: Options = _DEFAULT,
    ) -> casework.CasePage:
        """A page of cases, the newest first; `assignee` may be "me"."""
        call = team_calls.list_cases(state, kind, assignee, after, limit)
        return await self._carry(call, options)

    async def read_case(self, case_id: str, options: Options = _DEFAULT) -> casework.CaseFile:
        """A case with its history and its documents."""
        return await self._carry(team_calls.read_case(case_id), options)

    async def assign_case(
        self, case_id: str, assignee: str | None = "me", options: Options = _DEFAULT
    ) -> casework.CaseRow:
        """Gives a case to a person, or with None back to the queue."""
        return await self._carry(team_calls.assign_case(case_id, assignee), options)

    async def note_case(
        self, case_id: str, text: str, options: Options = _DEFAULT
    ) -> casework.CaseRow:
        """Adds a remark; twice where a first answer was lost and the call is sent again."""
        return await self._carry(team_calls.note_case(case_id, text), options)

    async def propose_outcome(
        self,
        case_id: str,
        outcome: str,
        close_lines: Sequence[str] = (),
        *,
        seen_at: datetime | None = None,
        options: Options = _DEFAULT,
    ) -> casework.CaseRow:
        """Proposes an outcome, with the lines that another person is to close by it.

        `seen_at`: the case's `updated_at` as it was looked at; `ApiError` 409 if it has changed.
        """
        call = team_calls.propose_outcome(case_id, outcome, close_lines, seen_at)
        return await self._carry(call, options)

    async def withdraw_proposal(
        self, case_id: str, options: Options = _DEFAULT
    ) -> casework.CaseRow:
        """Takes a proposal back."""
        return await self._carry(team_calls.withdraw_proposal(case_id), options)

    async def close_case(
        self,
        case_id: str,
        outcome: str,
        close_lines: Sequence[str] = (),
        *,
        seen_at: datetime | None = None,
        options: Options = _DEFAULT,
    ) -> casework.CaseRow:
        """Closes a case; lines only by the same proposal of another person. `seen_at` as above."""
        call = team_calls.close_case(case_id, outcome, close_lines, seen_at)
        return await self._carry(call, options)

    async def measure_precision(
        self, sweep_id: str | None = None, options: Options = _DEFAULT
    ) -> sweeps.Precision:
        """How many of the pairs that one sweep, or any, found and people judged were fraud."""
        return await self._carry(team_calls.measure_precision(sweep_id), options)

    async def expect_sweep(
        self, terms: SweepTerms, options: Options = _DEFAULT
    ) -> sweeps.Expectation:
        """What a sweep would cost and bring."""
        return await self._carry(team_calls.expect_sweep(terms), options)

    async def start_sweep(self, terms: SweepTerms, options: Options = _DEFAULT) -> sweeps.Sweep:
        """Starts a sweep; `ApiError` 409 where one is alive."""
        return await self._carry(team_calls.start_sweep(terms), options)

    async def list_sweeps(self, limit: int = 50, options: Options = _DEFAULT) -> sweeps.Sweeps:
        """The newest sweeps."""
        return await self._carry(team_calls.list_sweeps(limit), options)

    async def read_sweep(self, sweep_id: str, options: Options = _DEFAULT) -> sweeps.Sweep:
        """A sweep with its progress of this moment."""
        return await self._carry(team_calls.read_sweep(sweep_id), options)

    async def pause_sweep(self, sweep_id: str, options: Options = _DEFAULT) -> sweeps.Sweep:
        """Stops a sweep where it is, to go on later."""
        return await self._carry(team_calls.steer_sweep(sweep_id, "pause"), options)

    async def resume_sweep(self, sweep_id: str, options: Options = _DEFAULT) -> sweeps.Sweep:
        """Goes on with a sweep that was paused."""
        return await self._carry(team_calls.steer_sweep(sweep_id, "resume"), options)

    async def cancel_sweep(self, sweep_id: str, options: Options = _DEFAULT) -> sweeps.Sweep:
        """Ends a sweep for good."""
        return await self._carry(team_calls.steer_sweep(sweep_id, "cancel"), options)

    async def list_groups(
        self, sweep_id: str, after: int = 0, limit: int = 50, options: Options = _DEFAULT
    ) -> sweeps.GroupPage:
        """A page of a sweep's groups, the riskiest first."""
        return await self._carry(team_calls.list_groups(sweep_id, after, limit), options)

    async def read_group(
        self, sweep_id: str, key: str, options: Options = _DEFAULT
    ) -> sweeps.Group:
        """A group with its members and the links between their faces."""
        return await self._carry(team_calls.read_group(sweep_id, key), options)

    async def read_thresholds(self, options: Options = _DEFAULT) -> oversight.CalibratedThresholds:
        """The deployment's thresholds, on their calibrated curves."""
        return await self._carry(team_calls.read_thresholds(), options)

    async def read_audit(
        self,
        *,
        after: int | None = None,
        limit: int = 50,
        action: str | None = None,
        actor: str | None = None,
        subject: str | None = None,
        options: Options = _DEFAULT,
    ) -> oversight.AuditPage:
        """Entries of the audit chain above a number, or the newest; for operators."""
        call = team_calls.read_audit(after, limit, action, actor, subject)
        return await self._carry(call, options)

    async def verify_audit(
        self, after: int = 0, options: Options = _DEFAULT
    ) -> oversight.ChainPart:
        """Verifies a part of the audit chain; go on from `next` until it is None."""
        return await self._carry(team_calls.verify_audit(after), options)

    @abstractmethod
    async def _carry(self, call: calls.Call[T], options: Options) -> T: ...
