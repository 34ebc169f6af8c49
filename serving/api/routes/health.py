"""What operators ask: health, version, metrics, thresholds, the audit chain, backups, imports."""

import asyncio
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import TypeVar

from engine.errors import SosieError
from engine.registry import audit
from engine.registry.database import is_id
from serving.api import serializers
from serving.api.request import Answer, Request, next_page, note
from serving.api.routes.sessions import key_holder
from serving.errors import Malformed, ServiceRefusal
from serving.ingress.embedding import EmbedderStatus
from serving.ingress.parts import Parts
from serving.registrar.protocol import Status
from serving.wire import oversight as wire
from serving.wire.fields import of_record
from serving.wire.oversight import Check

T = TypeVar("T")
CHECK_TIMEOUT_S = 2.0
READY_KEPT_S, UNREADY_KEPT_S = 0.5, 0.1
"""How long an answer serves for those who ask next: nobody needs a key to ask."""


async def read_liveness(_parts: Parts, _: Request) -> wire.Liveness:
    """This process answers."""
    return wire.Liveness("live")


async def read_readiness(parts: Parts, _: Request) -> Answer:
    """Whether it decides and searches now: store, models, registrar, gallery at the store's
    watermark. False while it starts, replays and stops.
    """
    found = await _readiness_of(parts).check()
    return Answer(found) if found.is_ready else Answer(found, 503, {"Retry-After": "2"})


async def read_version(parts: Parts, _: Request) -> wire.Version:
    """Which version runs, and which model."""
    status = await _readiness_of(parts).find_embedder()
    fault, runtime = ("", "") if status is None else (status.fault, status.runtime)
    warnings = (*parts.warnings, *filter(None, [fault]))
    return wire.Version(parts.version, "v1", parts.deployment.store.model_digest, warnings, runtime)


async def read_key(_: Parts, request: Request) -> wire.KeyHolder:
    """What the key or the session stands for."""
    return key_holder(request.caller)


async def read_thresholds(parts: Parts, _: Request) -> wire.CalibratedThresholds:
    """The deployment's thresholds, and the false match rate of every score as it was measured for
    its model: single photographs, references, and one against the other.
    """
    return serializers.calibrated_thresholds(
        parts.deployment.store.model_digest, await parts.read_thresholds(), parts.calibration
    )


def read_metrics(parts: Parts, _: Request) -> Answer:
    """The node's metrics as Prometheus reads them."""
    body, content_type = parts.meter.render()
    return Answer(body, content_type=content_type)


class ReadinessChecks:
    """The checks behind `/health/ready`; for one event loop.

    However many ask, one check runs at a time, and one read of the store, in a thread of its own:
    a store that hangs takes no thread from the calls.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._reader = ThreadPoolExecutor(1, "readiness")
        self._reading: asyncio.Future[tuple[int, bytes]] | None = None
        self._checking: asyncio.Task[wire.Readiness] | None = None
        self._kept: tuple[float, wire.Readiness] | None = None
        self._embedder: EmbedderStatus | None = None

    async def find_embedder(self) -> EmbedderStatus | None:
        """The embedder, as the last check found it."""
        if self._embedder is None:
            await self._check_models()
        return self._embedder

    async def check(self) -> wire.Readiness:
        """The findings of the checks, half a second old at most."""
        now = asyncio.get_running_loop().time()
        if self._kept is not None and now < self._kept[0]:
            return self._kept[1]
        if self._checking is None:
            self._checking = asyncio.create_task(self._check_all())
        # A caller who leaves does not end the check of the others.
        return await asyncio.shield(self._checking)

    async def _check_all(self) -> wire.Readiness:
        try:
            store, models, (status, registrar) = await asyncio.gather(
                self._check_store(), self._check_models(), self._ask_status()
            )
            checks = {
                "store": store,
                "models": models,
                "registrar": registrar,
                "gallery": _check_gallery(status),
            }
            is_ready = all(check.is_ok for check in checks.values())
            faults = {} if status is None else dict(status.faults)
            if self._embedder is not None and self._embedder.fault:
                # Faces are embedded, if more slowly.
                faults["accelerator"] = self._embedder.fault
            # They are to be mended, and stop no decision.
            checks |= {name: Check(False, told) for name, told in faults.items()}
            found = wire.Readiness(
                is_ready=is_ready, phase=None if status is None else status.phase, checks=checks
            )
            kept_s = READY_KEPT_S if found.is_ready else UNREADY_KEPT_S
            self._kept = (asyncio.get_running_loop().time() + kept_s, found)
            return found
        finally:
            self._checking = None

    async def _check_store(self) -> Check:
        if self._reading is None or self._reading.done():
            loop = asyncio.get_running_loop()
            self._reading = loop.run_in_executor(self._reader, self._parts.store.check_head)
            # Nobody may be left to ask a slow read for its error.
            self._reading.add_done_callback(lambda read: read.cancelled() or read.exception())
        found = await _await(asyncio.shield(self._reading), "the store did not answer")
        if isinstance(found, Check):
            return found
        return Check(True, "the store answers, and its audit chain ends at its head")

    async def _check_models(self) -> Check:
        if self._parts.faces.is_stuck:
            return Check(False, "photographs are not extracted: a worker is stuck")
        if not self._parts.faces.is_alive:
            return Check(False, "no photographs are turned into faces here")
        status = await _await(self._parts.embedder(), "no embedder answered")
        if isinstance(status, Check):
            return status
        self._embedder = status
        if status.failure:
            return Check(False, status.failure)
        model = self._parts.deployment.store.model_digest[:12]
        return Check(True, f"model {model} embeds, {status.runtime}")

    async def _ask_status(self) -> tuple[Status | None, Check]:
        status = await _await(self._parts.registrar.status(), "the registrar did not answer")
        if isinstance(status, Check):
            return None, status
        return status, Check(status.is_ready, status.detail)


async def _await(answer: Awaitable[T], late: str) -> T | Check:
    """The answer, or what is wrong where none came in time."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return await answer
    except TimeoutError:
        return Check(False, f"{late} within {CHECK_TIMEOUT_S:g} s")
    except (SosieError, ServiceRefusal) as error:
        return Check(False, str(error))


@lru_cache(maxsize=1)
def _readiness_of(parts: Parts) -> ReadinessChecks:
    """The readiness of the one ingress of a process."""
    return ReadinessChecks(parts)


def _check_gallery(status: Status | None) -> Check:
    if status is None or status.sequence is None or status.store_sequence is None:
        return Check(False, "the gallery's watermark is not known")
    behind = status.store_sequence - status.sequence
    if behind:
        return Check(False, f"the gallery is {behind} changes behind the store")
    return Check(True, f"the gallery is at the store's watermark, {status.sequence}")


MOST_VERIFIED = 20_000
"""About a second and a half of one core, which answers others meanwhile."""


async def read_audit(parts: Parts, request: Request, query: wire.AuditQuery) -> wire.AuditPage:
    """Entries of the chain that match exactly, in its order; without `after` the newest. That it
    was read stands in it, too.
    """
    found = await asyncio.to_thread(
        audit.read_audit,
        parts.store,
        query.after,
        query.limit,
        query.action,
        query.actor,
        query.subject,
    )
    head = (await asyncio.to_thread(parts.store.audit_head))[0]
    # Other texts may be somebody's name.
    about = query.subject if is_id(query.subject or "") else None
    seen = {"after": query.after, "entries": len(found)} | ({"about": about} if about else {})
    await note(request, "audit.read", "chain", **seen)
    is_newest = query.after is None
    return wire.AuditPage(
        entries=tuple(map(serializers.audit_entry, found)),
        head=head,
        next=None if is_newest else next_page(found, query.limit, lambda one: one.number),
    )


async def verify_audit(parts: Parts, request: Request, query: wire.ChainQuery) -> wire.ChainPart:
    """Recomputes the chain with the deployment's key, a part at a time, so that a long one outlives
    no request. A chain set back as a whole is consistent in itself: keep the head elsewhere to find
    that.
    """
    after = query.after
    head = (await asyncio.to_thread(parts.store.audit_head))[0]
    if after > head:
        raise Malformed("after: beyond the end of the chain")
    verify = partial(audit.verify_chain, parts.store, after=after, most=MOST_VERIFIED)
    report = await asyncio.to_thread(verify)
    told = {"after": after, "to": report.entries, "intact": report.intact}
    await note(request, "audit.verified", "chain", **told)
    return of_record(
        wire.ChainPart,
        report,
        after=after,
        verified_to=report.entries,
        head=head,
        next=report.entries if report.intact and report.entries < head else None,
    )


async def start_backup(_: Parts, request: Request) -> wire.Backup:
    """Begins a backup beside all decisions, into the home's folder `backups`: it is copied, checked
    as a whole, and audited. One at a time: where one runs, this is it.
    """
    return serializers.backup(await request.registrar.start_backup())


async def list_backups(_: Parts, request: Request) -> wire.Backups:
    """Every backup of the home, and the one that runs or has failed last; the newest first."""
    found = await request.registrar.list_backups()
    return wire.Backups(tuple(map(serializers.backup, found)))


async def admit_rows(_: Parts, request: Request, body: wire.ImportChunk) -> wire.AdmittedChunk:
    """Plans a part of an import, or stores what was planned; `sosie import` sends it where a
    service runs.

    A part is sealed with the deployment's key ring. Where an enrollment has changed what becomes
    of a row since the plan, nothing is stored and the answer is the new plan. It may be sent
    again.
    """
    found = await request.registrar.admit_chunk(body.sealed, body.planned)
    return of_record(wire.AdmittedChunk, found)
