"""The sandbox: the service in one process, over a home of its own, with no face looked at.

All is the real thing but two parts: photographs are decoded and not looked at, and what the
registrar gets of an enrollment's faces is what the document's serial asks for. Decisions, cases,
events and erasures follow from that as they do from faces.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

from engine.errors import (
    DeadlinePassed,
    ImageError,
    NotFound,
    RequestError,
    StorageFull,
    TooManyFailures,
)
from engine.faces.extractor import Extracted, Extraction, Extractor, Kinds, StageTimes
from engine.faces.images import Decoder
from engine.faces.quality import Quality
from engine.matching.bulk_enrollment import (
    HolderCache,
    OpenedLine,
    Subscriber,
    admit_planned,
    plan_admission,
)
from engine.matching.documents import Document
from engine.matching.holders import block_document, find_document, watch_face
from engine.matching.lines import close_line, find_line, normalise_line
from engine.matching.requests import EnrollmentRequest, Sample, idempotency_scope, normalise_msisdn
from engine.reasons import IMAGE_REASONS, PhotographKind, Reason
from engine.registry.records import ApiKey, Carrier, DocumentRecord, utc_now
from engine.registry.store import PERSONAL_ROLES
from engine.registry.writer import Writer
from serving.access.authentication import Authenticator, make_key
from serving.api.app import build_app
from serving.compose import Deployment, create_home
from serving.errors import Busy, Interrupted, NotReady
from serving.ingress.embedding import EmbedderStatus
from serving.ingress.extraction_queue import ExtractionQueue
from serving.ingress.http_authority import open_authority
from serving.ingress.templates import SealedTemplates
from serving.parts import Parts
from serving.registrar.operations import OpenRegistry
from serving.registrar.protocol import CallContext, LineTarget, RegistrarClient, Reply, Status
from serving.registrar.service import RegistrarService
from serving.sandbox import outcomes
from serving.sandbox.outcomes import (
    ANYBODY,
    MARK_FILE,
    RESIDENT,
    STRANGER,
    WATCHED,
    Outcome,
    Vector,
    draw_picture,
    find_outcome,
    make_face,
    make_near,
    make_number,
    make_pair,
    read_marker,
)
from serving.sections import LimitSettings, RegistrySettings
from serving.settings import Settings, load_settings
from serving.telemetry.logs import close_log, open_log
from serving.telemetry.metrics import Meter

LOG_FILE, PICTURE_FOLDER = "sandbox.jsonl", "pictures"
ACTOR = "sandbox"
WARNING = "a sandbox: no face is looked at, and document numbers say how an enrollment ends"
CARRIER, OUTLET, CLOSED_OUTLET = "sandbox", "sandbox-1", "sandbox-closed"
OTHER_CARRIER, OTHER_OUTLET = "other", "other-1"
LINE_LIMIT = Carrier("", "").line_limit
KEYS = {
    "outlet": ("outlet", CARRIER, OUTLET),
    "carrier": ("carrier", CARRIER, None),
    "other": ("carrier", OTHER_CARRIER, None),
    "fraud": ("fraud", None, None),
    "second": ("fraud", None, None),
    "operator": ("operator", None, None),
}
"""Role, carrier and outlet of each key; `second` is of another person than `fraud`."""
SLOW_S, READY_S = 3.0, 120.0
MOST_KEYS = 10_000
_RESIDENT = Document("cn-ric", make_number("cn-ric", 899), "Sandbox Resident")


def make_sandbox(home: Path) -> dict[str, str]:
    """Makes a sandbox in a new or empty folder; its keys by their names in `KEYS`."""
    create_home(home, Settings(registry=RegistrySettings()))
    keys = {}
    with Deployment(home, _load(home)) as deployment:
        store = deployment.store
        for carrier, outlets in (
            (CARRIER, (OUTLET, CLOSED_OUTLET)),
            (OTHER_CARRIER, (OTHER_OUTLET,)),
        ):
            store.add_carrier(Carrier(carrier, carrier), actor=ACTOR)
            for outlet in outlets:
                store.add_outlet(outlet, carrier, actor=ACTOR)
        store.close_outlet(CLOSED_OUTLET, actor=ACTOR)
        for name, (role, carrier_code, outlet_code) in KEYS.items():
            made = make_key(deployment.vault)
            fields = (made.id, made.digest, ACTOR, role, carrier_code, outlet_code, None, utc_now())
            person = f"{ACTOR} {name}" if role in PERSONAL_ROLES else None
            store.add_api_key(ApiKey(*fields, person=person), actor=ACTOR)
            keys[name] = made.text
        deployment_id = deployment.vault.deployment_id
    folder = home / PICTURE_FOLDER
    folder.mkdir()
    for number in range(1, 4):
        (folder / f"anybody-{number}.png").write_bytes(draw_picture(f"anybody {number}"))
    for marker in outcomes.PICTURES:
        path = folder / f"{marker.lower().replace('_', '-')}.png"
        path.write_bytes(draw_picture(marker, marker))
    # Last: a home without it is no sandbox.
    text = json.dumps({"sandbox": deployment_id, "keys": keys}, indent=2)
    descriptor = os.open(home / MARK_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    return keys


def read_keys(home: Path) -> dict[str, str]:
    """The keys of a sandbox; `RequestError` where the folder is something else."""
    refusal = f"{home} is no sandbox: a sandbox needs a folder of its own, new or empty"
    try:
        mark = json.loads((home / MARK_FILE).read_text("utf-8"))
        keys = {name: str(mark["keys"][name]) for name in KEYS}
        deployment_id = mark["sandbox"]
    except (OSError, ValueError, TypeError, KeyError):
        raise RequestError(refusal) from None
    with Deployment(home, _load(home)) as deployment:
        # A mark that was copied into a real home is of another key ring.
        if deployment.vault.deployment_id != deployment_id:
            raise RequestError(refusal)
    return keys


def prepare(home: Path) -> dict[str, str]:
    """The keys of the sandbox in this folder, which is made where there is none."""
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        return read_keys(home)
    return make_sandbox(home)


def _load(home: Path) -> Settings:
    """Its settings, whatever registry the environment names; what a test repeats is not bounded."""
    limits = LimitSettings(holder_failures=0, holder_shown=0, outlet_key_failures=0, key_failures=0)
    changes = {"registry": RegistrySettings(), "limits": limits}
    return load_settings(home).model_copy(update=changes)


class PictureReader(Extractor):
    """Decodes photographs as an extractor does, and takes the face from what they say."""

    def __init__(self, dimension: int) -> None:
        self.dim = dimension
        self.liveness_judge = None
        self._decoder = Decoder()

    def close(self) -> None:
        self._decoder.close()

    def extract(
        self, images: Sequence[bytes], kinds: Kinds = (), judged: Sequence[bool] = ()
    ) -> list[Extracted]:
        """An Extraction or ImageError for each, in order; nobody judges whether they are alive."""
        del judged
        told = kinds or [None] * len(images)
        return [self._read(data, kind) for data, kind in zip(images, told, strict=True)]

    def _read(self, data: bytes, kind: PhotographKind | None) -> Extracted:
        try:
            with self._decoder.decode(data) as image:
                size_px = image.size_px
        except ImageError as error:
            return error
        said = read_marker(data)
        problems = (Reason(said),) if said in IMAGE_REASONS else ()
        shown = Extraction(size_px, problems, StageTimes(), kind=kind or PhotographKind.LIVE)
        if Reason.NO_FACE in problems:
            return shown
        name = Sample.unseen(data).digest.hex()
        if said == STRANGER:
            vector = make_face(name, self.dim)
        else:
            who = RESIDENT if said == RESIDENT.upper() else ANYBODY
            vector = make_near(make_face(who, self.dim), name, outcomes.ALIKE)
        return replace(shown, vector=vector, quality=_QUALITY)


_QUALITY = Quality(80.0, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0, 0.9, 2000.0, 0.0)


class SandboxRegistrar(RegistrarClient):
    """The registrar in this process, which is asked about the faces that a serial stands for."""

    def __init__(self, service: RegistrarService) -> None:
        self._service = service
        self._asked: dict[str, None] = {}
        """Idempotency-Keys that were answered with an error once."""

    async def status(self) -> Status:
        return await self._service.status()

    async def carry(self, method: str, arguments: tuple[Any, ...], context: CallContext) -> Reply:
        if method == "enroll":
            return await self._enroll(arguments[0], context)
        if method in _SHOWN:
            arguments = await asyncio.to_thread(self._show, method, arguments)
        return await self._service.perform(method, arguments, context)

    async def settle(self) -> None:
        """Has the resident and the watched face known; waits until the registry is open."""
        give_up_at = time.monotonic() + READY_S
        while not (await self._service.status()).is_ready:
            if time.monotonic() > give_up_at:
                raise NotReady(f"not ready after {READY_S:g} s: see {LOG_FILE} in its folder")
            await asyncio.sleep(0.02)
        await asyncio.to_thread(self._settle)

    def _settle(self) -> None:
        opened = self._service.require()
        _admit(opened, _RESIDENT, _find_face(opened, RESIDENT))
        if not len(opened.registrar.watchlist):
            watched = _find_face(opened, WATCHED)
            watch_face(opened.registrar, watched, "the sandbox's own entry", ACTOR)

    async def _enroll(self, request: EnrollmentRequest, context: CallContext) -> Reply:
        outcome = find_outcome(outcomes.check(request.document))
        scope = f"{request.carrier}\0{request.idempotency_key}"
        is_first = scope not in self._asked
        self._asked[scope] = None
        while len(self._asked) > MOST_KEYS:
            del self._asked[next(iter(self._asked))]
        await _interrupt(outcome, is_first=is_first)
        known = await asyncio.to_thread(self._prepare, outcome, request)
        reply = await self._service.perform("enroll", (known,), context)
        if outcome.serial == outcomes.LOST_AFTER and is_first:
            raise Interrupted("lost after it was stored, as this serial says: ask again")
        return reply

    def _prepare(self, outcome: Outcome, request: EnrollmentRequest) -> EnrollmentRequest:
        """The request with the faces that lead to the outcome, in a registry where they do."""
        opened = self._service.require()
        checked = outcomes.check(request.document)
        if not checked.is_well_formed or not _is_new(opened, request):
            return request
        name = f"{checked.type} {checked.number}"
        own = make_face(name, opened.gallery.dim)
        _PREPARATIONS.get(outcome.reason, _free)(opened, request, own)
        live, portrait = make_pair(_choose_face(opened, outcome, own, name), name)
        if outcome.reason is Reason.FACE_MISMATCH:
            portrait = make_near(live, f"{name} portrait", 0.05)
        if _is_anybody(opened, request.live):
            request = replace(request, live=_show_face(request.live, live, outcome.reason))
        if _is_anybody(opened, request.portrait):
            request = replace(request, portrait=_show_face(request.portrait, portrait))
        return request

    def _show(self, method: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The call with the holder's own face in place of anybody's."""
        opened = self._service.require()
        place = _SHOWN[method]
        probe = arguments[place]
        record = _find_holder(opened, method, arguments)
        if record is None or not record.reference_ids or not _is_face(opened, probe, ANYBODY):
            return arguments
        reference = opened.gallery.vectors(np.array(record.reference_ids[:1], np.int64))[0]
        shown = make_near(reference, "probe", outcomes.ALIKE)
        return (*arguments[:place], shown, *arguments[place + 1 :])


_SHOWN = {"check_line": 1, "check_document": 1, "read_lines": 1, "dispute_line": 2}
"""Calls that hold a face against a holder, and the place of the face among their arguments."""


async def _interrupt(outcome: Outcome, *, is_first: bool) -> None:
    """Waits or raises what the serial asks for."""
    said = "as this serial says"
    match outcome.serial:
        case outcomes.SLOW:
            await asyncio.sleep(SLOW_S)
        case outcomes.SILENT:
            await asyncio.sleep(READY_S)
            raise DeadlinePassed(f"no time left, {said}: nothing was stored")
        case outcomes.NOT_READY:
            raise NotReady(f"not ready, {said}")
        case outcomes.BUSY:
            raise Busy(f"too busy, {said}: try again later")
        case outcomes.BUSY_ONCE if is_first:
            raise Busy(f"too busy for the first request, {said}: try again later")
        case outcomes.LOST_BEFORE if is_first:
            raise Interrupted(f"lost before it was stored, {said}: ask again")
        case outcomes.FULL:
            raise StorageFull(f"the storage is full, {said}: nothing was stored")
        case outcomes.BROKEN:
            raise RuntimeError(f"a fault, {said}")
        case outcomes.BOUNDED:
            raise TooManyFailures(f"too many failed checks, {said}")


def _is_new(opened: OpenRegistry, request: EnrollmentRequest) -> bool:
    """Whether it is to be judged: a stored answer asks for nothing to be prepared."""
    scope = idempotency_scope(opened.store.vault, request.carrier, request.idempotency_key)
    return scope not in opened.store.answers([scope])


def _find_face(opened: OpenRegistry, name: str) -> Vector:
    """A face as photographs of it are known here: rotated."""
    (face,) = opened.store.vault.rotate(make_face(name, opened.gallery.dim)[None])
    return np.asarray(face, np.float32)


def _is_face(opened: OpenRegistry, vector: Vector, name: str) -> bool:
    return bool(vector @ _find_face(opened, name) > 0.5)


def _is_anybody(opened: OpenRegistry, sample: Sample) -> bool:
    return sample.vector is not None and _is_face(opened, sample.vector, ANYBODY)


def _choose_face(opened: OpenRegistry, outcome: Outcome, own: Vector, name: str) -> Vector:
    thresholds = opened.thresholds
    match outcome.reason:
        case Reason.DUPLICATE_IDENTITY:
            return make_near(_find_face(opened, RESIDENT), name, (thresholds.certain + 1) / 2)
        case Reason.POSSIBLE_DUPLICATE:
            between = (thresholds.review + thresholds.certain) / 2
            return make_near(_find_face(opened, RESIDENT), name, between)
        case Reason.WATCHLISTED:
            return make_near(_find_face(opened, WATCHED), name, outcomes.ALIKE)
    return own


def _show_face(sample: Sample, vector: Vector, reason: Reason | None = None) -> Sample:
    """The sample with another face, and with what the serial says is wrong with it."""
    if reason not in IMAGE_REASONS:
        return replace(sample, vector=vector)
    assert reason is not None
    return replace(sample, vector=None if reason is Reason.NO_FACE else vector, problems=(reason,))


def _find_document(opened: OpenRegistry, document: Document) -> DocumentRecord | None:
    try:
        return find_document(opened.store, document, utc_now().date())
    except (NotFound, RequestError):
        return None


def _find_holder(
    opened: OpenRegistry, method: str, arguments: tuple[Any, ...]
) -> DocumentRecord | None:
    """Whom the call is about; None for nobody."""
    target = arguments[1] if method == "dispute_line" else arguments[0]
    if isinstance(target, Document):
        return _find_document(opened, target)
    if isinstance(target, LineTarget):
        line = find_line(opened.store, normalise_line(target.text))
        target = "" if line is None else line.document_id
    return opened.store.documents_by_id([target]).get(target)


Preparation = Callable[[OpenRegistry, EnrollmentRequest, Vector], None]
"""Brings the registry to where the outcome follows."""


def _free(opened: OpenRegistry, request: EnrollmentRequest, own: Vector) -> None:
    """A number that is in use, and a holder with all lines, are free again: tests repeat."""
    number = normalise_msisdn(request.msisdn)
    if find_line(opened.store, number) is not None:
        close_line(opened.registrar, opened.store, number, ACTOR)
    record = _find_document(opened, request.document)
    lines = [] if record is None else opened.store.lines_in_use_of([record.id]).get(record.id, [])
    if len(lines) >= LINE_LIMIT:
        for line in lines:
            close_line(opened.registrar, opened.store, line.id, ACTOR)
    del own


def _hold_by_another_name(opened: OpenRegistry, request: EnrollmentRequest, own: Vector) -> None:
    _free(opened, request, own)
    _admit(opened, replace(request.document, name="Sandbox Namesake"), own)


def _hold_by_another(opened: OpenRegistry, request: EnrollmentRequest, own: Vector) -> None:
    _free(opened, request, own)
    _admit(opened, request.document, make_near(own, "another holder", 0.05))


def _use_number(opened: OpenRegistry, request: EnrollmentRequest, own: Vector) -> None:
    del own
    number = normalise_msisdn(request.msisdn)
    line = OpenedLine(number, OTHER_CARRIER, OTHER_OUTLET, utc_now())
    _admit(opened, _RESIDENT, _find_face(opened, RESIDENT), [line])


def _fill_lines(opened: OpenRegistry, request: EnrollmentRequest, own: Vector) -> None:
    _free(opened, request, own)
    number = outcomes.check(request.document).number
    stem = int.from_bytes(number.encode()) % 10**7
    at = (request.carrier, request.outlet, utc_now())
    lines = [OpenedLine(f"+8619{stem:07d}{place:02d}", *at) for place in range(LINE_LIMIT)]
    _admit(opened, request.document, own, lines)


def _block(opened: OpenRegistry, request: EnrollmentRequest, own: Vector) -> None:
    record = _find_document(opened, request.document)
    if record is None or record.blocked_at is None:
        _admit(opened, request.document, own)
        block_document(opened.registrar, opened.store, request.document, ACTOR)


_PREPARATIONS: Mapping[Reason | None, Preparation] = {
    Reason.NAME_MISMATCH: _hold_by_another_name,
    Reason.DOCUMENT_HELD_BY_ANOTHER_FACE: _hold_by_another,
    Reason.LINE_IN_USE: _use_number,
    Reason.LINE_LIMIT_REACHED: _fill_lines,
    Reason.DOCUMENT_BLOCKED: _block,
}


def _admit(
    opened: OpenRegistry, document: Document, face: Vector, lines: Sequence[OpenedLine] = ()
) -> None:
    """Enters a holder, as an import does; what is there already stays."""
    checked = outcomes.check(document)
    subscribers = [
        Subscriber(name=document.name, document=checked, vector=face, line=line)
        for line in (lines or (None,))
    ]

    def perform(writer: Writer, _: datetime) -> None:
        store, gallery = opened.store, opened.gallery
        given = (store, gallery, HolderCache(), subscribers, opened.thresholds.same_document)
        plan = plan_admission(*given)
        if plan.referenced or plan.lines:
            admit_planned(writer, gallery, plan, actor=ACTOR, subject=ACTOR, detail={})

    opened.registrar.run(perform)


@contextmanager
def open_sandbox(home: Path) -> Iterator[Sandbox]:
    """The sandbox in this folder, open and ready for requests on the loop that is its."""
    settings = _load(home)
    serve = settings.serve
    with ExitStack() as opened:
        log = open_log(home / LOG_FILE, serve.log_level, ACTOR)
        opened.callback(close_log, log)
        reading = opened.enter_context(Deployment(home, settings))
        store, vault = reading.store, reading.vault
        if store.has_writer():
            raise RequestError(
                "another process has this sandbox open: use that one, or another DIR"
            )
        meter = Meter(None, log)
        service = RegistrarService(lambda: Deployment(home, settings), serve, meter, log)
        opened.callback(service.close)
        reader = PictureReader(vault.dim)
        opened.callback(reader.close)
        faces = ExtractionQueue(
            reader, vault, capacity=serve.photographs_waiting, meter=meter, log=log
        )
        opened.callback(faces.close)
        registrar = SandboxRegistrar(service)
        parts = Parts(
            settings=serve,
            registrar=registrar,
            store=store,
            vault=vault,
            thresholds=reading.thresholds,
            faces=faces,
            templates=SealedTemplates(vault, store.model_digest, serve.template_ttl_h),
            authenticator=Authenticator(
                store,
                cache_s=serve.key_cache_s,
                rate_limit=serve.rate_limit,
                accounts=store.accounts,
            ),
            meter=meter,
            log=log,
            model_digest=store.model_digest,
            version=f"{version('sosie')}+sandbox",
            liveness=reading.liveness,
            authority=open_authority(settings.authority, vault, home, meter),
            calibration=reading.calibration,
            warnings=(WARNING,),
            is_sandbox=True,
            sim_changes=reading.sim_changes,
            embedder=_describe,
        )
        yield Sandbox(parts, registrar)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """An open sandbox: its application, for a server or for a test."""

    parts: Parts
    registrar: SandboxRegistrar

    def run(
        self, host: str, port: int, ready: Callable[[str], None], stop: threading.Event
    ) -> None:
        """Serves until `stop` is set; `ready` gets the address."""
        config = uvicorn.Config(
            build_app(self.parts),
            host=host,
            port=port,
            lifespan="off",
            # httptools loses the body of a request that offers HTTP/2, as Java's client does.
            http="h11",
            log_config=None,
            log_level="critical",
            access_log=False,
        )
        server = uvicorn.Server(config)

        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, port), family=family)
        except OSError as error:
            raise RequestError(
                f"{host}:{port} cannot be listened on ({error.strerror}): choose another --port"
            ) from None

        async def serve() -> None:
            await self.registrar.settle()
            served = asyncio.create_task(server.serve([listener]))
            while not server.started and not served.done():
                await asyncio.sleep(0.01)
            if server.started:
                shown = f"[{host}]" if ":" in host else host
                ready(f"http://{shown}:{listener.getsockname()[1]}")
                await asyncio.to_thread(stop.wait)
                server.should_exit = True
            await served
            if self.parts.authority is not None:
                await self.parts.authority.close()

        with listener:
            asyncio.run(serve())


async def _describe() -> EmbedderStatus:
    return EmbedderStatus("sandbox", "no face is looked at")
