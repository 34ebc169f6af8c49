"""Whether an ingress can serve: one check for all who ask at a time."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from engine.errors import SosieError
from serving.parts import Parts
from serving.refusals import ServiceRefusal
from serving.service.desk import Status

CHECK_TIMEOUT_S = 2.0
READY_KEPT_S, UNREADY_KEPT_S = 0.5, 0.1
"""How long an answer serves for those who ask next: nobody needs a key to ask."""


class Readiness:
    """The checks behind `/health/ready`; for one event loop.

    However many ask, one check runs at a time, and one read of the store, in a thread of its own:
    a store that hangs takes no thread from the calls.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._reader = ThreadPoolExecutor(1, "readiness")
        self._reading: asyncio.Future[int] | None = None
        self._checking: asyncio.Task[dict[str, Any]] | None = None
        self._kept: tuple[float, dict[str, Any]] | None = None

    async def check(self) -> dict[str, Any]:
        """What the checks found, half a second ago at most."""
        now = asyncio.get_running_loop().time()
        if self._kept is not None and now < self._kept[0]:
            return self._kept[1]
        if self._checking is None:
            self._checking = asyncio.create_task(self._check_all())
        # A caller who leaves does not end the check of the others.
        return await asyncio.shield(self._checking)

    async def _check_all(self) -> dict[str, Any]:
        try:
            store, (status, registrar) = await asyncio.gather(
                self._check_store(), self._ask_status()
            )
            checks = {
                "store": store,
                "models": self._check_models(),
                "registrar": registrar,
                "gallery": _check_gallery(status),
            }
            is_ready = all(check["is_ok"] for check in checks.values())
            found = {
                "is_ready": is_ready,
                "phase": None if status is None else status.phase.value,
                "checks": checks,
            }
            kept_s = READY_KEPT_S if is_ready else UNREADY_KEPT_S
            self._kept = (asyncio.get_running_loop().time() + kept_s, found)
            return found
        finally:
            self._checking = None

    async def _check_store(self) -> dict[str, Any]:
        if self._reading is None or self._reading.done():
            loop = asyncio.get_running_loop()
            self._reading = loop.run_in_executor(self._reader, self._parts.store.sequence)
            # Nobody may be left to ask a slow read for its error.
            self._reading.add_done_callback(_hear)
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await asyncio.shield(self._reading)
        except TimeoutError:
            return _check(False, f"the store did not answer within {CHECK_TIMEOUT_S:g} s")
        except SosieError as error:
            return _check(False, str(error))
        return _check(True, "the store answers")

    def _check_models(self) -> dict[str, Any]:
        if not self._parts.faces.is_alive:
            return _check(False, "no photographs are turned into faces here")
        return _check(True, f"model {self._parts.model_digest[:12]} is loaded")

    async def _ask_status(self) -> tuple[Status | None, dict[str, Any]]:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                status = await self._parts.desk.status()
        except TimeoutError:
            return None, _check(False, f"the registrar did not answer within {CHECK_TIMEOUT_S:g} s")
        except (SosieError, ServiceRefusal) as error:
            return None, _check(False, str(error))
        return status, _check(status.is_ready, status.detail)


def _hear(read: asyncio.Future[int]) -> None:
    if not read.cancelled():
        read.exception()


def _check_gallery(status: Status | None) -> dict[str, Any]:
    if status is None or status.sequence is None or status.store_sequence is None:
        return _check(False, "the gallery's watermark is not known")
    behind = status.store_sequence - status.sequence
    if behind:
        return _check(False, f"the gallery is {behind} changes behind the store")
    return _check(True, f"the gallery is at the store's watermark, {status.sequence}")


def _check(is_ok: bool, detail: str) -> dict[str, Any]:
    return {"is_ok": is_ok, "detail": detail}
