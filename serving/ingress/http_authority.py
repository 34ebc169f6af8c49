"""Look-ups of documents at an authority's HTTP service (docs/authority.md): one POST of JSON each.
A look-up ends in its time with a result, never an exception; no number, name or date of birth is in
a URL, a log line or an error."""

import asyncio
import base64
import json
import socket
import ssl
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
import msgspec
from msgspec import Meta, structs

from engine.errors import RequestError
from engine.matching.checks.document import (
    MAX_REFERENCE_LENGTH,
    Authority,
    AuthorityQuestion,
    AuthorityRecord,
    ListedAuthority,
    ask_of,
    judge_records,
)
from engine.matching.documents import CheckedDocument
from engine.matching.requests import Attempt, EnrollmentRequest
from engine.registry.database import utc_now
from engine.registry.vault import Vault
from schema.decoding import Value
from schema.documents import AuthorityCode, AuthorityResult, Difference, DocumentRole, Standing
from serving.deployment.deployment import Deployment
from serving.settings.terms import AuthoritySettings
from serving.telemetry.metrics import AUTHORITY_BREAKER, STAGE_SECONDS, Meter

MOST_RECORDS = 16
MOST_KEPT = 10_000
STAGE = "authority"
_OUTAGES = frozenset(
    {
        AuthorityCode.TIMEOUT,
        AuthorityCode.UNREACHABLE,
        AuthorityCode.FAILED,
        AuthorityCode.REDIRECTED,
        AuthorityCode.TOO_LARGE,
        AuthorityCode.MALFORMED,
        AuthorityCode.MISBOUND,
    }
)
"""What opens the breaker: not a refusal, which may be of one document."""


class _Record(Value):
    """Others' fields are ignored."""

    standing: Standing | Annotated[list[Standing], Meta(min_length=1, max_length=8)]
    differs: Annotated[tuple[Difference, ...], Meta(max_length=8)] = ()
    number: Annotated[str, Meta(max_length=200)] | None = None
    reference: Annotated[str, Meta(max_length=MAX_REFERENCE_LENGTH, pattern="^[!-~]*$")] | None = (
        None
    )
    face_score: Annotated[float, Meta(ge=0, le=1)] | None = None


class _Answer(Value):
    request_id: str
    records: Annotated[list[_Record], Meta(max_length=MOST_RECORDS)]


class _LookUpFailed(Exception):
    """Why there is no answer; its text is the code alone."""

    def __init__(self, code: AuthorityCode) -> None:
        super().__init__(code.value)
        self.code = code


def write_question(question: AuthorityQuestion, request_id: str) -> bytes:
    """The body that is sent."""
    document = question.document
    body: dict[str, Any] = {
        "request_id": request_id,
        "document": {
            "type": document.type,
            "number": document.number,
            "name": question.name,
            "expires_on": _write_date(document.expires_on),
            "born_on": _write_date(document.born_on),
        },
        "on": question.on.isoformat(),
    }
    if question.live is not None:
        body["live"] = base64.b64encode(question.live).decode()
    return json.dumps(body, ensure_ascii=False).encode()


def _write_date(on: date | None) -> str | None:
    return None if on is None else on.isoformat()


def read_answer(
    body: bytes, document: CheckedDocument, request_id: str
) -> tuple[AuthorityRecord, ...]:
    """The records of an answer; `_LookUpFailed` for what is none, or answers another question."""
    try:
        # A key that stands twice says two things, and one of them would be lost.
        given = json.loads(body, object_pairs_hook=_read_object, parse_constant=_refuse_constant)
        answer = msgspec.convert(given, _Answer)
    except (ValueError, RecursionError, msgspec.ValidationError):
        raise _LookUpFailed(AuthorityCode.MALFORMED) from None
    numbers = {one.number for one in answer.records if one.number is not None}
    if answer.request_id != request_id or not numbers <= {document.number}:
        raise _LookUpFailed(AuthorityCode.MISBOUND)
    return tuple(
        AuthorityRecord(
            frozenset(one.standing if isinstance(one.standing, list) else [one.standing]),
            frozenset(one.differs),
            one.reference,
            one.face_score,
        )
        for one in answer.records
    )


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found


def _refuse_constant(_: str) -> None:
    # NaN is in no range, and below none.
    raise ValueError


class CircuitBreaker:
    """Spares a service that fails: after `failures` in a row nobody asks it for `pause_s`, then one
    look-up tries whether it answers. For one event loop."""

    def __init__(
        self, failures: int, pause_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = failures
        self._pause_s = pause_s
        self._clock = clock
        self._failures = 0
        self._closes_at = 0.0
        self._is_tried = False

    @property
    def is_open(self) -> bool:
        return self._failures >= self._most

    def enter(self) -> bool:
        """True where the service may be asked now; then `leave` follows."""
        if not self.is_open:
            return True
        if self._is_tried or self._clock() < self._closes_at:
            return False
        self._is_tried = True
        return True

    def leave(self, has_failed: bool | None) -> None:
        """Notes the result; None of a look-up that nobody waited for."""
        self._is_tried = False
        if has_failed is None:
            return
        self._failures = self._failures + 1 if has_failed else 0
        if self.is_open:
            self._closes_at = self._clock() + self._pause_s


class AnswerCache:
    """Answers of an authority in memory, each for as long as its kind is kept, by keyed digests of
    what was asked."""

    def __init__(
        self, vault: Vault, keep_s: Mapping[str, float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._vault = vault
        self._keep_s = keep_s
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[float, AuthorityResult]] = OrderedDict()
        self._by_document: OrderedDict[bytes, tuple[float, AuthorityResult]] = OrderedDict()

    def find(self, question: AuthorityQuestion) -> AuthorityResult | None:
        """The answer to this very question, where it still holds."""
        found = self._find(self._kept, self._name(question))
        return None if found is None else structs.replace(found, is_kept=True)

    def add(self, question: AuthorityQuestion, result: AuthorityResult) -> AuthorityResult:
        """Keeps a new answer; one that says another thing of the document than an answer that still
        holds is `INCONSISTENT`, and neither holds any more."""
        if not self._keep_s or not result.code.is_answer:
            return result
        document = self._name_document(question)
        earlier = self._find(self._by_document, document)
        if earlier is not None and _stands(earlier) != _stands(result):
            self._forget(document)
            return structs.replace(result, code=AuthorityCode.INCONSISTENT)
        keep_s = self._keep_s.get(_KIND_KEPT.get(result.code, ""), 0.0)
        if keep_s > 0:
            ends = self._clock() + keep_s
            for kept, key in ((self._kept, self._name(question)), (self._by_document, document)):
                kept[key] = (ends, result)
                kept.move_to_end(key)
                if len(kept) > MOST_KEPT:
                    kept.popitem(last=False)
        return result

    def _find(
        self, kept: OrderedDict[bytes, tuple[float, AuthorityResult]], key: bytes
    ) -> AuthorityResult | None:
        found = kept.get(key)
        if found is None:
            return None
        if found[0] <= self._clock():
            del kept[key]
            return None
        return found[1]

    def _forget(self, document: bytes) -> None:
        self._by_document.pop(document, None)
        for key in [one for one in self._kept if one.startswith(document)]:
            del self._kept[key]

    def _name_document(self, question: AuthorityQuestion) -> bytes:
        document = question.document
        asked = f"{question.carrier}\0{document.number}"
        return self._vault.look_up(f"authority:{document.type}", asked)

    def _name(self, question: AuthorityQuestion) -> bytes:
        about = question.document
        asked = f"{question.name}\0{about.expires_on}\0{about.born_on}"
        document = self._name_document(question)
        return document + self._vault.look_up("authority", f"{document.hex()}\0{asked}")


_KIND_KEPT = {
    AuthorityCode.CONFIRMED: "confirmed",
    AuthorityCode.UNKNOWN_DOCUMENT: "unknown",
    AuthorityCode.NOT_VALID: "contradicts",
    AuthorityCode.DIFFERS: "contradicts",
}
"""An answer that says two things is never kept."""


def _stands(result: AuthorityResult) -> object:
    """The part of a result that is about the document alone, for comparison."""
    return result.code is AuthorityCode.UNKNOWN_DOCUMENT, result.standings


class HttpAuthority:
    """The operator's look-up service; for one event loop. It asks nobody before it is used."""

    kind = "http"

    def __init__(
        self, settings: AuthoritySettings, vault: Vault, home: Path, meter: Meter | None = None
    ) -> None:
        """`RequestError` where a certificate, a key or the token's file cannot be read."""
        self._settings = settings
        self._meter = meter
        self._token = _read_token(settings, home)
        self._context = open_tls(settings, home)
        self._cache = AnswerCache(vault, settings.kept_s())
        self._breaker = CircuitBreaker(settings.breaker_failures, settings.breaker_pause_s)
        self._places = asyncio.Semaphore(settings.concurrency)
        self._client: httpx.AsyncClient | None = None

    async def look_up(self, question: AuthorityQuestion) -> AuthorityResult:
        """Its answer, or the one that is kept. `timeout_s` bounds the wait for a place, and again
        the service. A caller with less time gets no result, or it could choose not to be looked
        up."""
        if not self._settings.sends_photograph:
            question = replace(question, live=None)
            kept = self._cache.find(question)
            if kept is not None:
                return kept
        at = utc_now()
        try:
            try:
                async with asyncio.timeout(self._settings.timeout_s):
                    await self._places.acquire()
            except TimeoutError:
                raise _LookUpFailed(AuthorityCode.BUSY) from None
            try:
                records = await self._ask(question)
            finally:
                self._places.release()
        except _LookUpFailed as error:
            return AuthorityResult(self.kind, error.code, at)
        result = judge_records(self.kind, records, at)
        if not self._settings.sends_photograph:
            result = self._cache.add(question, result)
        return result

    async def close(self) -> None:
        """Closes its connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _ask(self, question: AuthorityQuestion) -> tuple[AuthorityRecord, ...]:
        """The service's records, where the breaker lets it be asked."""
        if not self._breaker.enter():
            raise _LookUpFailed(AuthorityCode.BREAKER_OPEN)
        # Stays so where nobody waits for it any more, which is no fault of the service.
        has_failed: bool | None = None
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                records = await self._post(question)
            has_failed = False
        except TimeoutError:
            has_failed = True
            raise _LookUpFailed(AuthorityCode.TIMEOUT) from None
        except _LookUpFailed as error:
            has_failed = error.code in _OUTAGES
            raise
        finally:
            self._breaker.leave(has_failed)
            if self._meter is not None:
                self._meter.set(AUTHORITY_BREAKER, self._breaker.is_open)
                self._meter.observe(STAGE_SECONDS, time.perf_counter() - began, STAGE)
        return records

    async def _post(self, question: AuthorityQuestion) -> tuple[AuthorityRecord, ...]:
        request_id = str(uuid.uuid4())
        # The type alone: a number in a URL would stand in the logs of every proxy.
        url = self._settings.url.replace("{type}", question.document.type)
        try:
            async with self._open_client().stream(
                "POST",
                url,
                content=write_question(question, request_id),
                headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
            ) as answer:
                if answer.is_redirect:
                    raise _LookUpFailed(AuthorityCode.REDIRECTED)
                if answer.is_client_error:
                    raise _LookUpFailed(AuthorityCode.REFUSED)
                if answer.status_code != httpx.codes.OK:
                    raise _LookUpFailed(AuthorityCode.FAILED)
                # What is packed could unpack to any size.
                if answer.headers.get("content-encoding", "identity") != "identity":
                    raise _LookUpFailed(AuthorityCode.MALFORMED)
                body = bytearray()
                async for part in answer.aiter_raw():
                    body += part
                    if len(body) > self._settings.max_answer_kib * 1024:
                        raise _LookUpFailed(AuthorityCode.TOO_LARGE)
        except httpx.TimeoutException:
            raise _LookUpFailed(AuthorityCode.TIMEOUT) from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError):
            raise _LookUpFailed(AuthorityCode.UNREACHABLE) from None
        return read_answer(bytes(body), question.document, request_id)

    def _open_client(self) -> httpx.AsyncClient:
        if self._client is None:
            settings = self._settings
            headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
            self._client = httpx.AsyncClient(
                verify=self._context,
                headers=headers,
                timeout=httpx.Timeout(settings.timeout_s, connect=settings.connect_timeout_s),
                limits=httpx.Limits(max_connections=settings.concurrency),
                follow_redirects=False,
                # A proxy of the environment would be asked with what only the authority may see.
                trust_env=False,
            )
        return self._client


def open_tls(settings: AuthoritySettings, home: Path) -> ssl.SSLContext:
    """Opens the TLS context: the service's proof and our own; `RequestError` for unusable files."""
    what = "ca_file"
    try:
        ca = str(home / settings.ca_file) if settings.ca_file else None
        context = ssl.create_default_context(cafile=ca) if ca else httpx.create_ssl_context()
        what = "client_certificate"
        if settings.client_certificate:
            key = str(home / settings.client_key) if settings.client_key else None
            # Without this a key with a passphrase would ask at the terminal, and wait for ever.
            context.load_cert_chain(home / settings.client_certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        kind = type(error).__name__
        raise RequestError(
            f"[authority] {what} cannot be used ({kind}): give a readable PEM file without a "
            "passphrase"
        ) from None
    return context


def _read_token(settings: AuthoritySettings, home: Path) -> str:
    if not settings.token_file:
        return settings.token.get_secret_value()
    try:
        return (home / settings.token_file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise RequestError(
            "[authority] token_file cannot be read: mend the setting or the file"
        ) from None


def open_authority(
    settings: AuthoritySettings, vault: Vault, home: Path, meter: Meter | None = None
) -> Authority | None:
    """Opens the authority of the settings; None where a document's form is enough."""
    if settings.kind == "form":
        return None
    if settings.kind == "listed":
        return ListedAuthority(home / settings.list_file, vault)
    return HttpAuthority(settings, vault, home, meter)


def look_up_once(
    deployment: Deployment,
    request: EnrollmentRequest,
    live: bytes | None,
    guardian_live: bytes | None,
) -> dict[DocumentRole, AuthorityResult]:
    """Looks the documents of a request up, in a process without a service; nothing of one that is
    answered already."""
    found = deployment.judge.intake().sort([request], utc_now())[0]
    if not isinstance(found, Attempt):
        return {}
    given = (deployment.store, found, live, guardian_live)
    questions = ask_of(*given, deployment.liveness.terms, deployment.settings.people)

    async def ask() -> list[AuthorityResult]:
        settings = deployment.settings.authority
        authority = open_authority(settings, deployment.vault, deployment.home)
        assert authority is not None, "its kind is not form"
        try:
            return await asyncio.gather(*map(authority.look_up, questions.values()))
        finally:
            await authority.close()

    return dict(zip(questions, asyncio.run(ask()), strict=True))


def reach(settings: AuthoritySettings, home: Path, timeout_s: float = 5.0) -> str:
    """Opens a connection to the service, with its TLS, and asks nothing; `RequestError` where it
    cannot be opened. What it says for people has the host alone."""
    found = urlsplit(settings.url)
    host, port = found.hostname or "", found.port or (443 if found.scheme == "https" else 80)
    _read_token(settings, home)
    context = open_tls(settings, home)
    try:
        with socket.create_connection((host, port), timeout_s) as plain:
            if found.scheme != "https":
                return f"{host}:{port} takes connections"
            with context.wrap_socket(plain, server_hostname=host) as secured:
                return f"{host}:{port} takes connections, {secured.version()}"
    except (OSError, ValueError) as error:
        kind = type(error).__name__
        raise RequestError(
            f"{host}:{port} does not answer ({kind}): look at the service, or mend [authority]"
        ) from None
