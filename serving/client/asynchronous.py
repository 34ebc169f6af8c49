"""The client for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TypeVar

import httpx

from serving.client import answers, calls, decisions
from serving.client.exchange import Done, Exchange, Wait
from serving.client.requests import (
    Activation,
    Face,
    KnownDocument,
    MatchItem,
    Options,
)
from serving.client.team_asynchronous import AsyncTeam

T = TypeVar("T")

_DEFAULT = Options()


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
    ) -> decisions.Enrollment:
        """Decides an activation, once, however often it is sent."""
        return await self._carry(calls.enroll(activation), options)

    async def read_enrollment(
        self, enrollment_id: str, options: Options = _DEFAULT
    ) -> decisions.EnrollmentRecord:
        """What is on record of an enrollment."""
        return await self._carry(calls.read_enrollment(enrollment_id), options)

    async def find_enrollment(
        self, idempotency_key: str, options: Options = _DEFAULT
    ) -> decisions.Enrollment:
        """The answer that an activation with this key got; `ApiError` 404 where it got none."""
        return await self._carry(calls.find_enrollment(idempotency_key), options)

    async def match(
        self, items: Sequence[MatchItem], options: Options = _DEFAULT
    ) -> tuple[answers.MatchResult, ...]:
        """Up to 256 items, each 1:1, 1:N or both; a result for each, in their order."""
        return (await self._carry(calls.match(items), options)).items

    async def make_templates(
        self, images: Sequence[bytes], options: Options = _DEFAULT
    ) -> answers.Templates:
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
    ) -> answers.Verification:
        """A face against exactly one of: another, the holder of a line, of a document."""
        call = calls.verify(
            probe, reference=reference, line=line, document=document, document_id=document_id
        )
        return await self._carry(call, options)

    async def identify(
        self, probe: Face, threshold: float | None = None, options: Options = _DEFAULT
    ) -> answers.Identification:
        """Whose references look like this face; for fraud teams."""
        return await self._carry(calls.identify(probe, threshold), options)

    async def query_lines(
        self, document: KnownDocument, probe: Face, options: Options = _DEFAULT
    ) -> answers.HolderLines:
        """The lines under a document, over all carriers, to its holder's face."""
        return await self._carry(calls.query_lines(document, probe), options)

    async def dispute(
        self, line: str, document: KnownDocument, probe: Face, options: Options = _DEFAULT
    ) -> answers.Dispute:
        """Opens a case over a line, by its number or id, that the holder did not open.

        httpx logs paths at level INFO: give the id where such logs are kept.
        """
        return await self._carry(calls.dispute(line, document, probe), options)

    async def close_line(self, line: str, options: Options = _DEFAULT) -> answers.ClosedLine:
        """Closes a line by its number or id; see `dispute` for logs."""
        return await self._carry(calls.close_line(line), options)

    async def erase(
        self, document_id: str, options: Options = _DEFAULT
    ) -> answers.ErasureCertificate:
        """Erases the holder of a document."""
        return await self._carry(calls.erase(document_id), options)

    async def ready(self, options: Options = _DEFAULT) -> answers.Readiness:
        """Whether the service decides and searches now; that it does not is an answer."""
        return await self._carry(calls.ready(), options)

    async def version(self, options: Options = _DEFAULT) -> answers.Version:
        """Which version runs, and which model."""
        return await self._carry(calls.version(), options)

    async def whose_key(self, options: Options = _DEFAULT) -> answers.KeyHolder:
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
