"""An application in this process, asked as clients ask it."""

import asyncio
import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import msgpack

from engine.registry.audit import AuditEntry
from schema.reasons import ADVICE
from serving.api.body import JSON, MSGPACK
from serving.ingress.parts import Parts
from serving.registrar.service import RegistrarService
from tests.serving.local_registrar import LocalRegistrar

KEYS = {
    "b1": ("outlet", "blue", "b1"),
    "b2": ("outlet", "blue", "b2"),
    "blue": ("carrier", "blue", None),
    "r1": ("outlet", "red", "r1"),
    "red": ("carrier", "red", None),
    "fraud": ("fraud", None, None),
    "second": ("fraud", None, None),
    "operator": ("operator", None, None),
    "metrics": ("metrics", None, None),
}
"""The keys of every service: role, carrier, outlet; `second` is for what needs two people."""
TYPES = ((JSON, MSGPACK), (MSGPACK, JSON), ("form", JSON))
"""Of a body, and of the answer that is asked for with it."""
CONFLICTS = {"CASE", "LIVENESS", "OUTLET", "SWEEP"}
"""With what somebody else has done: it does not pass with time."""


@dataclass
class Service:
    """An application, and clients of it."""

    parts: Parts
    registrar: LocalRegistrar
    match: RegistrarService
    app: Any
    loop: asyncio.AbstractEventLoop
    keys: dict[str, str]
    log_file: Path

    def run(self, coroutine: Any, timeout_s: float = 60) -> Any:
        """Its result, on the loop of the application."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout_s)

    def ask(
        self,
        method: str,
        path: str,
        *,
        key: str | None = "blue",
        body: Any = None,
        kind: str = JSON,
        accept: str | None = None,
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
        **more: Any,
    ) -> httpx.Response:
        """One request with the key of that name; `body` is encoded as `kind` says.

        Bytes in a body are base64 in JSON, binary in MessagePack, files of a form.
        """
        given = dict(headers or {}) | ({} if accept is None else {"accept": accept})
        if key is not None:
            given.setdefault("authorization", f"Bearer {self.keys.get(key, key)}")
        if body is not None:
            if kind == "form":
                more["files"] = to_form(body)
            else:
                content = to_json(body) if kind == JSON else msgpack.packb(body)
                given.setdefault("content-type", kind)
        return cast(
            httpx.Response,
            self.run(self._send(method, path, headers=given, content=content, **more)),
        )

    def enroll(self, body: Any, idempotency_key: str, **more: Any) -> httpx.Response:
        headers = {"idempotency-key": idempotency_key}
        return self.ask("POST", "/v1/enrollments", body=body, headers=headers, **more)

    def audited(self, before: int = 0) -> list[AuditEntry]:
        """The entries of the chain above a number."""
        return [record.entry for record in self.parts.store.audit_entries(before)]

    async def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://sosie.test") as client:
            return await client.request(method, path, **options)

    @staticmethod
    def read(response: httpx.Response) -> Any:
        """The body of an answer, as its content type says."""
        kind = response.headers["content-type"]
        assert kind in (JSON, MSGPACK), response.text
        as_msgpack = kind == MSGPACK
        return msgpack.unpackb(response.content) if as_msgpack else json.loads(response.content)

    def assert_refused(self, response: httpx.Response, status: int, code: str) -> str:
        """Its message; an error has one shape, whatever it is."""
        shown = self.read(response)
        assert (response.status_code, shown["code"]) == (status, code), shown
        assert shown.keys() - {"fields", "advice"} == {"status", "code", "message"}
        assert shown.get("advice") == ADVICE.get(code.removeprefix("MATCH."))
        assert shown["status"] == status
        assert "\n" not in shown["message"]
        waits = status in (409, 429, 503, 507) and code.partition(".")[0] not in CONFLICTS
        assert ("retry-after" in response.headers) == waits
        assert not waits or int(response.headers["retry-after"]) >= 1
        return str(shown["message"])

    @property
    def log_text(self) -> str:
        return self.log_file.read_text()


def to_json(body: Any) -> bytes:
    def write(value: object) -> Any:
        assert isinstance(value, bytes)
        return base64.b64encode(value).decode()

    return json.dumps(body, default=write).encode()


def to_form(body: dict[str, Any]) -> list[tuple[str, Any]]:
    """Files by their path, frames under one, and the rest as the part `request`."""
    files: list[tuple[str, Any]] = []

    def lift(value: Any, path: str) -> Any:
        if isinstance(value, list):
            return [lift(item, f"{path}.{place}") for place, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        kept = {}
        for name, item in value.items():
            place = f"{path}.{name}" if path else name
            frames = item if isinstance(item, list) else [item]
            if frames and all(isinstance(frame, bytes) for frame in frames):
                files.extend((place, (f"{name}.jpg", frame, "image/jpeg")) for frame in frames)
            else:
                kept[name] = lift(item, place)
        return kept

    rest = lift(body, "")
    return [*files, ("request", (None, json.dumps(rest).encode(), JSON))]
