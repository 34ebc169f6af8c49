"""One request: its headers, key, body, faces, answer and deadline, and its audit entry."""

import asyncio
import os
import re
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from enum import Enum
from functools import lru_cache, partial
from itertools import chain
from typing import Any, TypeVar
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from engine.errors import (
    DeadlinePassed,
    ImageError,
    ImageTooCostly,
    LivenessRefused,
    LivenessReplayed,
    RequestError,
    SosieError,
)
from engine.faces.liveness_judge import Judged
from engine.matching.checks.liveness import REPLAYED
from engine.matching.checks.picture import FaceVector, fuse_frames
from engine.matching.samples import Sample, is_same_photograph
from engine.registry.audit import AuditEntry
from engine.registry.database import utc_now
from schema import frozen
from schema.decisions import RecordedLiveness
from schema.documents import Document
from schema.reasons import LivenessUse, Reason, ToldKind, shows_another
from serving.access.authentication import Places
from serving.access.authorization import NOBODY, Principal, scope_of, tenant_of
from serving.api.body import (
    JSON,
    LEAST_BYTES,
    BodyBudget,
    choose_type,
    decode,
    decode_query,
    encode,
    read_length,
    too_large,
    work_apart,
)
from serving.errors import (
    CrossSite,
    FaceUnusable,
    Malformed,
    NotAcceptable,
    SessionEnded,
    TemplateInvalid,
)
from serving.ingress.extraction_queue import FRAMES_WORK, decode_work
from serving.ingress.parts import Parts
from serving.registrar.protocol import CallContext, HolderFace, RegistrarCalls, RegistrarClient
from serving.settings.sections import MAX_TIMEOUT_MS, ServeSettings
from serving.telemetry.metrics import LIVENESS, LIVENESS_JUDGED
from serving.wire.fields import KnownDocument, QueryString, list_frames
from serving.wire.matching import Face

T = TypeVar("T")
N = TypeVar("N")

SCOPE_KEY = "sosie.request"
WATCH_AFTER_S = 0.05
"""A quicker request is over before it would matter that its client has gone."""

_CORRELATOR = re.compile(rb"[a-zA-Z0-9\-_:;./<>{}]{1,256}")
ADMITTED = b"x-key-admitted"
"""A header for the proxy in front, which counts by carrier and key what brings a key in force: a
number for its carrier."""
UNREAD = (b"x-body-unread", 1)
"""Another one: what comes on this connection is the rest of a body that nobody will read."""
SAMPLED = b"x-sampled-ms"
"""How long photographs have waited and taken: what it refuses more for, where that is long."""
ARRIVED = b"x-arrived-ms"
"""When the request came to the proxy of this machine, by its clock, in milliseconds."""
MOST_WAITED_S = 30.0
"""No request waits in the proxy for longer: a clock was set."""
LOCAL = ("127.0.0.1", "::1")
BODY_GRACE_S = 2.0
"""So long a body may come at any rate."""
_FIXED_HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


@frozen
class Answer:
    """The answer to a request: a wire type, or bytes of a content type of their own."""

    body: object
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = None


class Stop(Enum):
    """Why a request was stopped: out of time, its body too slow, its client gone."""

    LATE = "late"
    SLOW = "slow"
    GONE = "gone"


class Request:
    """One HTTP request, made by the middleware and kept in the scope; its repr shows nothing.
    `principal` is None until its key is admitted; `traceparent` is the client's until the
    middleware has a span."""

    __slots__ = (
        "_arrived", "_budget", "_deadline", "_extra", "_has_place", "_headers", "_held_bytes",
        "_holder", "_is_received", "_loop", "_places", "_reads_since", "_receive",
        "_received_bytes", "_registrar", "_send", "_settings", "_stop", "_task", "_timer",
        "_watcher", "answer_type", "correlator", "principal", "scope", "started", "status",
        "traceparent",
    )  # fmt: skip

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        settings: ServeSettings,
        budget: BodyBudget,
        places: Places,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.started = self._loop.time()
        self._headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name == b"content-length" and name in self._headers:
                self._headers[name] = b"several"  # refused where the body is read
            else:
                self._headers.setdefault(name, value)
        given = self._headers.get(b"x-correlator")
        is_sound = given is not None and _CORRELATOR.fullmatch(given) is not None
        correlator = given if is_sound and given else os.urandom(16).hex().encode()
        self.correlator = correlator.decode()
        self._extra = [(b"x-correlator", correlator), *_FIXED_HEADERS]
        self.scope = scope
        self._receive, self._send, self._settings = receive, send, settings
        self._budget, self._held_bytes, self._received_bytes = budget, 0, 0
        self._places, self._has_place, self._holder = places, False, NOBODY
        self.answer_type = JSON
        self.principal: Principal | None = None
        self.traceparent = self._text(b"traceparent")
        self.status = 0
        self._reads_since: float | None = None
        self._stop: Stop | None = None
        length = self._headers.get(b"content-length")
        self._is_received = b"transfer-encoding" not in self._headers and length in {None, b"0"}
        self._arrived = self.started - self._read_wait()
        self._deadline = self._arrived + settings.request_timeout_s
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None

    def check(self, is_strict: bool) -> None:
        """Reads what every request may ask: `Malformed`, and where it is strict `NotAcceptable`,
        else JSON."""
        try:
            self.answer_type = choose_type(self._text(b"accept"), self._text(b"content-type"))
        except NotAcceptable:
            if is_strict:
                raise
        given = self._headers.get(b"x-correlator")
        if given and given.decode("latin-1") != self.correlator:
            raise Malformed("x-correlator has up to 256 letters, digits and -_:;./<>{}")
        timeout = self._headers.get(b"x-timeout-ms")
        if timeout is not None:
            if not (timeout.isdigit() and len(timeout) <= 9 and int(timeout) > 0):
                raise Malformed("x-timeout-ms is a whole number of milliseconds above 0")
            self._deadline = self._arrived + min(int(timeout), MAX_TIMEOUT_MS) / 1e3
        if self._deadline <= self.started:
            raise DeadlinePassed("the time for this request was over before its turn came")

    def _read_wait(self) -> float:
        """Seconds since it came to the proxy; 0 where that is on another machine, whose clock may
        be another, or gives no time."""
        given = self._headers.get(ARRIVED, b"")
        server = self.scope.get("server")
        if not (given.isdigit() and len(given) < 16 and server and server[0] in LOCAL):
            return 0.0
        waited_s = time.time() - int(given) / 1e3
        return waited_s if 0 < waited_s < MOST_WAITED_S else 0.0

    def accepts(self, media_type: str) -> bool:
        return media_type in (self._text(b"accept") or "").lower()

    @property
    def elapsed_s(self) -> float:
        return self._loop.time() - self.started

    @property
    def receive(self) -> Receive:
        return self._receive

    @property
    def key(self) -> str | None:
        """The API key as given: `Authorization: Bearer`, else `X-API-Key`."""
        given = self._text(b"authorization")
        if given is None:
            return self._text(b"x-api-key")
        scheme, _, key = given.partition(" ")
        return key.strip() if scheme.lower() == "bearer" else None

    @property
    def has_key(self) -> bool:
        """True where a header for a key is there, with any content: then no cookie counts."""
        return b"authorization" in self._headers or b"x-api-key" in self._headers

    def cookie(self, name: str) -> str | None:
        """The content of a cookie; None where there is none, or more than one."""
        found = [
            value
            for header, line in self.scope["headers"]
            if header == b"cookie"
            for given, _, value in (
                part.strip().partition("=") for part in line.decode("latin-1").split(";")
            )
            if given == name
        ]
        return found[0] if len(found) == 1 else None

    def is_from(self, origin: str) -> bool:
        """True where a page of that origin made this call, as the browser says of every call to an
        address that is https or on loopback; one that says nothing is not believed."""
        site = self._headers.get(b"sec-fetch-site")
        given = self._text(b"origin")
        is_same = site == b"same-origin" if site is not None else given is not None
        return is_same and (given is None or given.lower() == origin)

    @property
    def session_id(self) -> str | None:
        """The session by which a page says that it was opened."""
        return self._text(b"x-session")

    @property
    def enrolls(self) -> bool:
        """True where it is one of those that the proxy sends to some of the ingresses alone."""
        return (self.scope["method"], self.scope["path"]) == ("POST", "/v1/enrollments")

    @property
    def is_unattended(self) -> bool:
        """True where a page asked by itself: nobody uses their session by it."""
        return b"x-unattended" in self._headers

    @property
    def is_visit(self) -> bool:
        """True where no other site's page has sent the browser here."""
        return self._headers.get(b"sec-fetch-site", b"none") in (b"none", b"same-origin")

    @property
    def idempotency_key(self) -> str | None:
        return self._text(b"idempotency-key")

    @property
    def remaining_s(self) -> float:
        """The rest of its time, never below a millisecond."""
        return max(self._deadline - self._loop.time(), 1e-3)

    @property
    def caller(self) -> Principal:
        """The owner of its key, once that is admitted."""
        assert self.principal is not None, "its key is admitted first"
        return self.principal

    def context(self) -> CallContext:
        """The context that travels to the registrar with this request."""
        return CallContext(
            actor=self.caller.actor,
            correlator=self.correlator,
            carrier=scope_of(self.caller),
            timeout_s=self.remaining_s,
            traceparent=self.traceparent,
            outlet=self.caller.outlet,
            person=self.caller.person,
        )

    @property
    def registrar(self) -> RegistrarCalls:
        """What it may ask of the registrar."""
        assert self._registrar is not None, "its key is admitted first"
        return self._registrar.by(self.context())

    def read_query(self, kind: type[QueryString]) -> QueryString:
        """The query string as this type; `Malformed`."""
        text = self.scope.get("query_string", b"").decode("latin-1")
        given = parse_qs(text, keep_blank_values=True)
        asked = {name: of if name in kind.repeated else of[-1] for name, of in given.items()}
        return decode_query(asked, kind)

    async def read(self, kind: type[T]) -> T:
        """The body as this type; see `body.decode`."""
        body = await self.read_body()
        return await work_apart(len(body), decode, self._text(b"content-type"), body, kind)

    async def read_body(self) -> bytes:
        """The whole body, once; the guard stops a slow one. `BodyTooLarge` before it is read where
        its length is known, `Busy` where too many are held, `Malformed` for a wrong length,
        `TypeUnsupported` for a compressed one."""
        limit = int(self._settings.max_body_mib * 2**20)
        length = read_length(self._headers, limit)
        chunks: list[bytes] = []
        size = 0
        self._reads_since = self._loop.time()
        self._hold(min(LEAST_BYTES, limit))
        while not self._is_received:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            self._received_bytes = size = size + len(chunk)
            if size > limit:
                raise too_large(limit)
            self._hold(size)
            chunks.append(chunk)
            self._is_received = not message.get("more_body", False)
        if length is not None and size != length:
            raise Malformed("the body is not as long as its Content-Length says")
        if self._timer is not None and self.idempotency_key is not None:
            # What stores is dropped when its client goes, however quick it is.
            self._watch_client()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def answer(self, answer: Answer) -> None:
        """Sends the answer, in the type that the client asked for."""
        content_type, body = answer.content_type, answer.body
        if content_type is None:
            content_type, body = self.answer_type, encode(body, self.answer_type)
        assert isinstance(body, bytes)
        headers = [
            (b"content-type", content_type.encode()),
            (b"content-length", b"%d" % len(body)),
            *((name.lower().encode(), value.encode()) for name, value in answer.headers.items()),
        ]
        await self.send(
            {"type": "http.response.start", "status": answer.status, "headers": headers}
        )
        await self.send({"type": "http.response.body", "body": body})

    async def send(self, message: Message) -> None:
        """Passes an answer on with every answer's headers; one that leaves a body unread closes the
        connection."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.principal is not None:
                self.tell_proxy(ADMITTED, _number(self._holder.tenant))
            if not self._is_received:
                self._extra.append((b"connection", b"close"))
                self.tell_proxy(*UNREAD)
            message["headers"] = [*message["headers"], *self._extra]
        await self._send(message)

    def tell_proxy(self, header: bytes, value: int) -> None:
        """Adds a header to its answer, which the proxy takes away; none where there is no proxy."""
        if ARRIVED in self._headers:
            self._extra.append((header, b"%d" % value))

    def guard(self) -> None:
        """Stops the task that runs now when its time is over or its client has gone."""
        self._task = asyncio.current_task()
        wake = min(self.started + WATCH_AFTER_S, self._deadline)
        self._timer = self._loop.call_at(wake, self._wake)

    def release(self) -> None:
        """Ends the guard, and gives back what the body took; to be called once or more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._held_bytes:
            self._budget.give_back(self._held_bytes, self._holder)
            self._held_bytes = 0

    def enter(self, principal: Principal, registrar: RegistrarClient | None = None) -> None:
        """It is a request of this key, from now on, which may ask this registrar."""
        self.principal, self._holder = principal, principal.holder
        self._registrar = registrar

    def begin(self) -> None:
        """Takes a place, until it is over: while its body comes it has none, only memory. `Busy`
        where too many requests of the key, of its carrier or of all run."""
        self._places.take(self._holder)
        self._has_place = True

    def leave(self) -> None:
        """It is over."""
        self.release()
        if self._has_place:
            self._places.give_back(self._holder)
            self._has_place = False

    def _hold(self, size_bytes: int) -> None:
        """Holds memory for so much of the body, if it does not yet."""
        more = size_bytes - self._held_bytes
        if more > 0:
            self._budget.take(more, self._holder)
            self._held_bytes = size_bytes

    def settle(self) -> Stop | None:
        """After a cancellation: why this guard caused it, or None where it did not."""
        if self._stop is not None and self._task is not None:
            self._task.uncancel()
        return self._stop

    def _halt(self, stop: Stop) -> None:
        # An answer that has begun is not taken back.
        if not self.status and self._stop is None and self._task is not None:
            self._stop = stop
            self._task.cancel()

    def _wake(self) -> None:
        # One timer for all: most calls end before it.
        now = self._loop.time()
        if now >= self._deadline:
            self._halt(Stop.LATE)
            return
        wait_s = self._deadline - now
        if not self._is_received:
            # A route that reads no body waits for none.
            if self._is_slow(now - (self._reads_since or now)):
                self._halt(Stop.SLOW)
                return
            wait_s = min(wait_s, WATCH_AFTER_S)
        else:
            self._watch_client()
        self._timer = self._loop.call_later(wait_s, self._wake)

    def _is_slow(self, reading_s: float) -> bool:
        if reading_s >= self._settings.body_timeout_s:
            return True
        wanted = self._settings.body_kib_per_s * 1024 * reading_s
        return reading_s >= BODY_GRACE_S and self._received_bytes < wanted

    def _watch_client(self) -> None:
        if self._watcher is None:
            self._watcher = self._loop.create_task(self._watch())

    async def _watch(self) -> None:
        # The body is read: what comes now is the end of the connection, or of the answer.
        try:
            while (await self._receive())["type"] != "http.disconnect":
                pass
        except Exception:  # noqa: BLE001 - whatever a server says with it, nobody has gone
            return
        self._halt(Stop.GONE)

    def _text(self, name: bytes) -> str | None:
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")


@lru_cache(maxsize=1024)
def _number(tenant: str) -> int:
    """A number for a carrier, as the proxy keeps one beside each key; never 0."""
    return zlib.crc32(tenant.encode()) or 1


async def admit(parts: Parts, request: Request) -> None:
    """Finds whose key or session it is, before a body is read; `Unauthenticated`, `CrossSite`,
    `RateLimited`, `Busy`."""
    key = request.key
    if key is None and parts.sign_in is not None and not request.has_key:
        text = request.cookie(parts.sign_in.session_cookie)
        if text is not None:
            return await _admit_session(parts, request, text)
    authenticator, enrolls = parts.authenticator, request.enrolls
    known = authenticator.admit_known(key, enrolls=enrolls)
    caller = known or await authenticator.admit(key, enrolls=enrolls)
    request.enter(caller, parts.registrar)
    return None


async def _admit_session(parts: Parts, request: Request, text: str) -> None:
    assert parts.sign_in is not None
    if not request.is_from(parts.sign_in.origin):
        raise CrossSite("a session is for the console's own pages: anything else sends a key")
    caller = await parts.authenticator.admit_session(text, enrolls=request.enrolls)
    if request.session_id not in (None, caller.key_id):
        # Somebody has signed in beside it: what is done on this page would be theirs.
        raise SessionEnded("another session has taken the place of yours: sign in again")
    request.enter(caller, parts.registrar)
    if not request.is_unattended and parts.authenticator.is_to_be_touched(request.caller):
        await request.registrar.touch_session(request.caller.key_id)


async def note(request: Request, action: str, subject: str, **detail: object) -> None:
    """Keeps in the audit chain what the caller does, before it is answered."""
    entry = AuditEntry(request.caller.actor, action, subject, detail)
    await request.registrar.note([entry])


def known_document(document: KnownDocument) -> Document:
    """A document that is looked up: its holder's name says nothing."""
    return Document(document.type, document.number, "any holder")


def next_page(page: Sequence[T], limit: int, place_of: Callable[[T], N]) -> N | None:
    """The place where the next page begins, None on the last; after one that is just full an empty
    one may come."""
    return place_of(page[-1]) if len(page) == limit else None


def count_liveness(
    parts: Parts, result: RecordedLiveness | None, error: SosieError | None = None
) -> None:
    """Counts a result of a liveness check, once the call is answered, or ended in an error; an
    issuer that is not known has no name of its own."""
    if result is not None:
        told = "PASSED" if result.problem is None else result.problem.value
        if isinstance(error, LivenessReplayed):
            told = REPLAYED
        parts.meter.add(LIVENESS, result.issuer or "none", told)


def count_judged(parts: Parts, judged: Judged | None) -> None:
    """Counts what the judge of the picture itself found of a live face."""
    judge = parts.liveness.terms.judge
    if judge is not None:
        judgement = judge.weigh(judged)
        parts.meter.add(LIVENESS_JUDGED, judgement.found, judgement.band)


def charge_photographs(
    parts: Parts, request: Request, faces: Collection[Sequence[bytes]]
) -> list[float]:
    """Charges a call's large photographs, and the frames of a face after its first, to its key's
    rate, as the items that they cost; returns what decoding each costs (`decode_work`).

    `RateLimited` beyond it. What is no image costs nothing to decode: it is refused before that.
    """
    works = [decode_work(frame) for frames in faces for frame in frames]
    items = len(works) - len(faces) + sum(works)
    parts.authenticator.charge(request.caller, int(items), enrolls=request.enrolls)
    return works


Photographed = tuple[Sequence[bytes], ToldKind]
"""The frames of a face, and the kind of photograph that they are, where it was told, with the point
of the face that is meant."""


async def sample_faces(
    parts: Parts, request: Request, faces: Mapping[str, Photographed], judged: Collection[str] = ()
) -> Mapping[str, Sample]:
    """A sample of each face, fused where several frames show it; raises the first error, with the
    field that it speaks of. The liveness of the faces `judged` is judged, where there is a judge.

    `ImageTooCostly` where the frames of one face take more than `FRAMES_WORK` to decode,
    `RateLimited` where all exceed the key's rate.
    """
    images = {name: frames for name, (frames, _) in faces.items()}
    if not images:
        return {}
    for name, frames in images.items():
        if len(frames) > 1 and sum(map(decode_work, frames)) > FRAMES_WORK:
            raise ImageTooCostly(f"{name}: its frames have too many pixels: send fewer or smaller")
    works = charge_photographs(parts, request, images.values())
    names = [name for name, frames in images.items() for _ in frames]
    began_s = time.monotonic()
    with parts.tracer.span("extract", items=len(names)):
        samples = await parts.faces.sample(
            list(chain.from_iterable(images.values())),
            request.remaining_s,
            [faces[name][1] for name in names],
            is_one_attempt=True,
            works=works,
            judged=[name in judged for name in names],
            holder=request.caller.holder,
        )
    request.tell_proxy(SAMPLED, int(1e3 * (time.monotonic() - began_s)))
    sound: dict[str, list[Sample]] = {name: [] for name in images}
    for name, sample in zip(names, samples, strict=True):
        if isinstance(sample, ImageError):
            where = f"{name}.{len(sound[name])}" if len(images[name]) > 1 else name
            raise type(sample)(f"{where}: {sample}")
        sound[name].append(sample)
    return {name: fuse_frames(some, parts.thresholds.one_person) for name, some in sound.items()}


async def take_faces(parts: Parts, request: Request, **faces: Face) -> Sequence[FaceVector]:
    """Each face by the name of its field, fused where several frames show it. `FaceUnusable`,
    `TemplateInvalid`, an `ImageError`."""
    images = {
        name: (list_frames(face.image), face.told)
        for name, face in faces.items()
        if face.image is not None
    }
    samples = await sample_faces(parts, request, images)
    found = {name: _require_usable(name, sample) for name, sample in samples.items()}
    tokens = {name: face.template for name, face in faces.items() if face.template is not None}
    opened = parts.templates.open(list(tokens.values()), tenant_of(request.caller))
    for name, vector in zip(tokens, opened, strict=True):
        if isinstance(vector, TemplateInvalid):
            raise type(vector)(f"{name}: {vector}")
        found[name] = FaceVector(vector)
    return [found[name] for name in faces]


async def take_face(parts: Parts, request: Request, probe: Face) -> FaceVector:
    """The one face that a body names `probe`."""
    return (await take_faces(parts, request, probe=probe))[0]


async def take_holder_face(
    parts: Parts,
    request: Request,
    probe: Face,
    token: str | None,
    subject: str,
    portrait: Face | None = None,
) -> HolderFace:
    """The face of what a body names `probe`, with the evidence of liveness that came with it;
    `subject` is whom the call is about, as such evidence names it. Beside a `portrait` it is a
    photograph of its own, as at an enrollment."""
    frames = [] if probe.image is None else list_frames(probe.image)
    whose = (scope_of(request.caller), request.caller.outlet)
    made_for = (LivenessUse.VERIFICATION, subject, *whose, utc_now())
    check = partial(parts.liveness.check, token, frames, probe.point is not None, *made_for)
    # Only a signature takes a while.
    liveness = await asyncio.to_thread(check) if token else check()
    if not frames:
        if portrait is not None:
            raise RequestError("beside a portrait the probe is a photograph, not a template")
        return HolderFace(await take_face(parts, request, probe), liveness=liveness)
    shown = {"probe": (frames, probe.told)}
    if portrait is not None and portrait.image is not None:
        shown["portrait"] = (list_frames(portrait.image), portrait.told)
    taken = await sample_faces(parts, request, shown, ("probe",))
    sample, own = taken["probe"], taken.get("portrait")
    if own is not None and is_same_photograph(parts.vault, sample, own):
        raise FaceUnusable(
            "probe and portrait are one photograph: take one of the holder now",
            reason=Reason.SAME_PHOTOGRAPH,
        )
    face = _require_usable("probe", sample)
    beside = None if own is None else _require_usable("portrait", own)
    judged = sample.least_judged
    count_judged(parts, judged)
    return HolderFace(face, sample.second, liveness, judged, beside)


@contextmanager
def counting_liveness(parts: Parts, result: RecordedLiveness | None) -> Iterator[None]:
    """Counts a result once the call within is answered, or refused for it."""
    try:
        yield
    except (LivenessReplayed, LivenessRefused) as error:
        count_liveness(parts, result, error)
        raise
    count_liveness(parts, result)


def _require_usable(name: str, sample: Sample) -> FaceVector:
    if sample.is_usable and sample.vector is not None:
        return FaceVector(sample.vector, sample.length, shows_another(sample.quality))
    problems = [str(problem) for problem in sample.problems] or ["NO_FACE"]
    raise FaceUnusable(
        f"{name} cannot be matched ({', '.join(problems)}): take another photograph",
        reason=problems[0],
    )
