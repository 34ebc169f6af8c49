"""The middleware around a handler, driven message by message."""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from starlette.types import Message, Receive, Scope, Send
from structlog.testing import CapturingLogger

from schema.actors import Role
from serving.access.authorization import Principal
from serving.api.app import RequestMiddleware
from serving.api.request import SCOPE_KEY, Request
from serving.api.request import Answer as Sent
from serving.settings.sections import ServeSettings
from serving.telemetry.metrics import IN_PROGRESS, REFUSALS, REQUESTS, Meter
from tests.serving.meters import RecordingMeter

Inner = Callable[[Request], Awaitable[Any]]
Headers = dict[str, str]


@dataclass
class Answer:
    """What a client saw."""

    status: int = 0
    headers: Headers = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class EdgeMeter(RecordingMeter):
    """Keeps what the edge says of its calls."""

    @property
    def requests(self) -> list[tuple[str, ...]]:
        return [labels for name, labels, _ in self.recorded if name == REQUESTS.name]

    @property
    def ongoing(self) -> float:
        return sum(self.values(IN_PROGRESS))

    @property
    def refusals(self) -> list[str]:
        return [labels[0] for name, labels, _ in self.recorded if name == REFUSALS.name]


class Rig:
    """The middleware around a handler, driven by hand."""

    def __init__(self, inner: Inner, meter: Meter | None = None, **settings: Any) -> None:
        self.meter = EdgeMeter()
        self.lines = CapturingLogger()
        self.inner = inner

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            del receive, send
            request = scope[SCOPE_KEY]
            shown = await self.inner(request)
            await request.answer(Sent(shown))

        self.middleware = RequestMiddleware(
            app,
            settings=ServeSettings(**settings),
            meter=meter or self.meter,
            log=structlog.wrap_logger(self.lines, processors=[]),
            direct={"/v1/match": app},
        )

    def ask(self, *chunks: bytes | float, **asked: Any) -> Answer:
        return asyncio.run(self.ask_later(*chunks, **asked))

    async def ask_later(
        self,
        *chunks: bytes | float,
        headers: Headers | None = None,
        path: str = "/v1/match",
        method: str = "POST",
        stays: bool = True,
        server: tuple[str, int] | None = None,
    ) -> Answer:
        """`chunks` are the body; a number is a pause in it. One that does not stay then leaves."""
        answer = Answer()
        answered = asyncio.Event()
        coming = list(chunks)

        async def receive() -> Message:
            while coming and isinstance(coming[0], float | int):
                await asyncio.sleep(float(coming.pop(0)))  # type: ignore[arg-type]
            if coming:
                chunk = coming.pop(0)
                return {"type": "http.request", "body": chunk, "more_body": bool(coming)}
            if stays:
                await answered.wait()
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                for name, value in message["headers"]:
                    assert name.decode() not in answer.headers, "a header is sent once"
                    answer.headers[name.decode()] = value.decode()
            else:
                answer.body += message["body"]
                answered.set()

        length = sum(len(chunk) for chunk in chunks if isinstance(chunk, bytes))
        given: Headers = {"content-length": str(length)} if chunks else {}
        given |= headers or {}
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "server": server,
            "headers": [
                (name.encode(), value.encode("latin-1"))
                for name, value in given.items()
                if value != "-"
            ],
        }
        await self.middleware(scope, receive, send)
        return answer

    @property
    def access(self) -> dict[str, Any]:
        """The one access line of the last request."""
        lines = [call.kwargs for call in self.lines.calls if call.kwargs.get("event") == "request"]
        return lines[-1]


def begin(request: Request, carrier: str = "blue") -> None:
    """Takes a place for its key, as every operation does once its body is in."""
    request.enter(Principal(request.key or "", Role.CARRIER, carrier))
    request.begin()


async def echo(request: Request) -> Any:
    return {"size": len(await request.read_body())}


async def idle(_: Request) -> Any:
    return {}


def raising(error: Exception) -> Inner:
    async def raise_it(_: Request) -> Any:
        raise error

    return raise_it
