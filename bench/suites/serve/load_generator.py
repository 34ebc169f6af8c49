"""A load and its requests as bytes, a process of its own that sends it and takes the time of every
answer, and the record of the answers."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections import deque
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import field
from itertools import compress, count
from typing import Any, cast

import httptools
import msgpack
import numpy as np
import uvloop

from bench.suites.serve.process import SEARCHER, Home, Person, Worker
from bench.suites.workload import OUTLET
from engine.accuracy.population import Population
from engine.registry.database import utc_now
from indexes.base import Doubles, Flags, Floats
from schema import frozen

SERIAL_PLACE = "#SERIAL##"
"""Stands in a text or a header for the serial number of the request, which is as long."""
MSGPACK = "application/msgpack"
_PLACE = SERIAL_PLACE.encode()


@frozen
class PreparedRequest:
    """The bytes of one HTTP/1.1 request; the serial number goes between its pieces."""

    pieces: tuple[bytes, ...]

    def fill(self, serial: int) -> bytes:
        """The whole request; serial numbers from 0 to 999,999,999."""
        pieces = self.pieces
        return pieces[0] if len(pieces) == 1 else (b"%09d" % serial).join(pieces)


@frozen
class RequestWriter:
    """Address of the service that requests go to, and the API key they carry."""

    host: str
    port: int
    key: str | None = None

    def post(
        self, path: str, value: Any, headers: Mapping[str, str] | None = None
    ) -> PreparedRequest:
        """A POST of MessagePack, which asks for MessagePack."""
        body: bytes = msgpack.packb(value)
        given = {"Content-Type": MSGPACK, "Content-Length": str(len(body)), **(headers or {})}
        key = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        fields = {"Host": f"{self.host}:{self.port}", "Accept": MSGPACK, **key, **given}
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {text}" for name, text in fields.items())]
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        return PreparedRequest(tuple((head + body).split(_PLACE)))


LOST, OVERDUE = 0, -1
"""Instead of a status: the connection was lost, or there was no answer in time."""
Seconds = Doubles


@frozen(kw_only=True)
class Load:
    """Requests in a cycle, numbered from `serial` on, for `seconds` or until `count` are sent.

    Closed loop where `rate` is None: each connection sends again when it is answered. Else open
    loop: `rate` arrivals a second, evenly spaced; one that finds no free connection waits for one,
    and its latency counts from its arrival. An open loop looks at its connections each `pause_s`,
    where it is given: to wake up for each arrival and answer takes three times what sending does.
    """

    host: str
    port: int
    requests: tuple[PreparedRequest, ...]
    connections: int
    seconds: float = float("inf")
    count: int | None = None
    rate: float | None = None
    pause_s: float = 0.0
    serial: int = 0
    timeout_s: float = 30.0
    keeps_bodies: bool = False

    def schedule(self) -> Seconds:
        """Arrivals in seconds after the start; of an open loop only."""
        assert self.rate is not None
        return np.arange(int(min(self.seconds * self.rate, self.count or np.inf))) / self.rate


ROW = np.dtype(
    [
        ("intended_s", "f8"),
        ("sent_s", "f8"),
        ("done_s", "f8"),
        ("status", "i2"),
        ("retry_after_s", "f8"),
        ("request", "i8"),
        ("serial", "i8"),
    ]
)


@frozen(eq=False)
class Record:
    """`rows` like `ROW`, one a request, in order of their ends, in seconds after the load's start.

    `retry_after_s` is NaN where the answer named none, `sent_s` where no connection became free in
    time; `request` is a place in the load's requests. `seconds` from the first arrival to the end.
    """

    rows: np.recarray[Any, Any]
    bodies: tuple[bytes, ...]
    seconds: float
    cpu_share: float = 0.0
    """Of a core, that sending took."""
    answered: int | None = None
    """How many good answers came in a span, whenever they were due; None of a whole load."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def latency_s(self) -> Seconds:
        """From the intended start to the end of the answer."""
        latency_s: Seconds = self.rows.done_s - self.rows.intended_s
        return latency_s

    @property
    def is_fine(self) -> Flags:
        fine: Flags = (self.rows.status >= 200) & (self.rows.status < 300)
        return fine

    @property
    def is_refused(self) -> Flags:
        """429 that says when to come again."""
        waits = ~np.isnan(self.rows.retry_after_s)
        refused: Flags = (self.rows.status == 429) & waits
        return refused

    @property
    def rate(self) -> float:
        """Requests answered well, a second."""
        return float(self.is_fine.sum() if self.answered is None else self.answered) / self.seconds

    @property
    def sent_share(self) -> float:
        """Of the requests that were due, those sent before `seconds` were over."""
        end_s = self.rows.intended_s.min(initial=np.inf) + self.seconds
        return float((self.rows.sent_s < end_s).sum()) / len(self)

    @property
    def late_ms(self) -> float:
        """By how much requests were sent after they were due, p99."""
        return float(np.nanquantile(self.rows.sent_s - self.rows.intended_s, 0.99)) * 1e3

    def within(self, start_s: float, end_s: float) -> Record:
        """Only what was meant to start in this span."""
        kept = (self.rows.intended_s >= start_s) & (self.rows.intended_s < end_s)
        came = self.is_fine & (self.rows.done_s >= start_s) & (self.rows.done_s < end_s)
        bodies = tuple(compress(self.bodies, kept.tolist()))
        rows, answered = self.rows[kept], int(came.sum())
        return Record(rows, bodies, end_s - start_s, self.cpu_share, answered)

    def quantile_ms(self, share: float, among: Flags | None = None) -> float:
        """Of the latencies of those well answered, or of these rows; NaN of none."""
        values_s = self.latency_s[self.is_fine if among is None else among]
        return float(np.quantile(values_s, share)) * 1e3 if len(values_s) else float("nan")


ENROLLMENTS_PATH = "/v1/enrollments"
KEY_HEADER = "Idempotency-Key"
CONSENT = "bench"


def write_visit(person: Person, msisdn: str) -> dict[str, Any]:
    """The body of an enrollment."""
    document = person.document
    return {
        "outlet": OUTLET,
        "document": {"type": document.type, "number": document.number, "name": document.name},
        "msisdn": msisdn,
        "live": person.live,
        "portrait": person.portrait,
        "consent_ref": CONSENT,
        "captured_at": utc_now().isoformat(),
    }


def write_visits(
    caller: RequestWriter, people: Sequence[Person], name: str
) -> tuple[PreparedRequest, ...]:
    """One enrollment request for each person, for another phone number each time it is sent; `name`
    keeps the keys of two loads apart."""
    headers = {KEY_HEADER: f"{name}-{SERIAL_PLACE}"}
    return tuple(
        caller.post(ENROLLMENTS_PATH, write_visit(person, f"+8613{SERIAL_PLACE}"), headers)
        for person in people
    )


MATCH_PATH = "/v1/match"
BATCH = 256
MATED_SHARE = 0.5
STRANGERS_SEED = 1_000_003


def pair_items(home: Home, count: int) -> list[dict[str, Any]]:
    """1:1 items: half of them two photographs of one person, half of two people."""
    population = Population.load("sface")
    people = population.people(count, home.seed)
    one = population.samples(people, home.seed, 2)
    other = population.samples(people, home.seed, 3)
    other[1::2] = np.roll(other[1::2], 1, axis=0)
    tokens = home.issue(np.concatenate([one, other]))
    return [
        {"probe": {"template": a}, "reference": {"template": b}}
        for a, b in zip(tokens[:count], tokens[count:], strict=True)
    ]


def pack(
    caller: RequestWriter, items: Sequence[dict[str, Any]], size: int
) -> tuple[PreparedRequest, ...]:
    """Requests of `size` items each."""
    return tuple(
        caller.post(MATCH_PATH, {"items": list(items[start : start + size])})
        for start in range(0, len(items) - size + 1, size)
    )


@frozen(eq=False)
class Probes:
    """1:N items, and the faces that they show."""

    items: tuple[dict[str, Any], ...]
    faces: Floats = field(repr=False)


def draw_probes(home: Home, count: int, seed: int) -> Probes:
    """Half of them mates of references, by two fresh photographs, and half strangers."""
    population = Population.load("sface")
    rng = np.random.default_rng([seed, 7])
    rows = np.where(
        rng.random(count) < MATED_SHARE, rng.integers(0, home.references, count), -1
    ).astype(np.int64)
    faces = population.references(count, STRANGERS_SEED + seed)
    mated = rows >= 0
    faces[mated] = population.mates(rows[mated], home.seed)
    tokens = home.issue(faces, SEARCHER)
    items = tuple({"probe": {"template": token}, "search": True} for token in tokens)
    return Probes(items, faces)


NEVER = float("nan")
RECONNECT_S = 0.02
SWITCH_S = 1e-4
"""For so long the thread of the schedule waits for a busy event loop, at most."""
_clock = time.perf_counter


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, kept alive from request to request, and the answer it waits for."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._status: asyncio.Future[int] | None = None
        self.is_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            # What is no HTTP answer is as good as none.
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.is_closed = True
        self._settle(LOST)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self.retry_after_s = float(value)

    def on_body(self, body: bytes) -> None:
        if self._load.keeps_bodies:
            self.body += body

    def on_message_complete(self) -> None:
        # One without a request says that the server closes.
        if self._status is None or not self._parser.should_keep_alive():
            self.close()
        self._settle(self._parser.get_status_code())

    def ask(self, data: bytes) -> asyncio.Future[int]:
        """Sends a request; the status of its answer."""
        self.body, self.retry_after_s = b"", NEVER
        loop = asyncio.get_running_loop()
        self._status = status = loop.create_future()
        self._timer = loop.call_later(self._load.timeout_s, self._give_up)
        self._transport.write(data)
        return status

    def close(self) -> None:
        self.is_closed = True
        self._transport.abort()

    def _give_up(self) -> None:
        self._settle(OVERDUE)
        self.close()

    def _settle(self, status: int) -> None:
        if self._status is not None:
            self._timer.cancel()
            self._status.set_result(status)
            self._status = None


class Generator(Worker):
    """The process that loads are sent from, one at a time; ends with the context."""

    def start(self, load: Load) -> Future[Record]:
        """Begins a load, or queues it behind the one that runs."""
        return self.submit(send_load, load)

    def run(self, load: Load) -> Record:
        return self.start(load).result()


def send_load(load: Load) -> Record:
    """Sends a load from this process; raises `ConnectionError` where no server listens."""
    interval_s = sys.getswitchinterval()
    gc.collect()
    gc.disable()
    sys.setswitchinterval(SWITCH_S)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(Sending(load).perform())
    finally:
        sys.setswitchinterval(interval_s)
        gc.enable()


class Sending:
    """One load on its way: a task for each connection sends one request after another."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self._rows: list[tuple[float, ...]] = []
        self._bodies: list[bytes] = []
        self._numbers = count()
        self._left = float("inf") if load.count is None else load.count
        self._end = float("inf")
        # Whoever waits longest gets the next one, so no connection is idle until the server closes
        # it.
        self._arrivals: asyncio.Queue[float | None] = asyncio.Queue()

    async def perform(self) -> Record:
        connections = [await self._connect() for _ in range(self.load.connections)]
        start, spent_s = _clock(), time.process_time()
        self._end = start + self.load.seconds
        work: list[Awaitable[None]] = [self._work(connection) for connection in connections]
        if self.load.rate is not None:
            schedule = (self.load.schedule() + start).tolist()
            arrivals = deque([*schedule, *[None] * len(connections)])
            follow = self._follow_in_pauses if self.load.pause_s else self._follow
            work.append(follow(arrivals))
        await asyncio.gather(*work)
        while not self._arrivals.empty():
            due = self._arrivals.get_nowait()
            if due is not None:
                self._note(due, NEVER, OVERDUE)
        seconds, rows = _clock() - start, np.array(self._rows, ROW)
        for name in ("intended_s", "sent_s", "done_s"):
            rows[name] -= start
        cpu_share = (time.process_time() - spent_s) / seconds
        return Record(rows.view(np.recarray), tuple(self._bodies), seconds, cpu_share)

    async def _follow(self, arrivals: Iterable[float | None]) -> None:
        """Lets requests arrive by the schedule, from a thread: the timers of an event loop are
        precise to the millisecond only."""
        loop = asyncio.get_running_loop()

        def follow() -> None:
            for moment in arrivals:
                if moment is not None and (wait_s := moment - _clock()) > 0:
                    time.sleep(wait_s)
                loop.call_soon_threadsafe(self._arrivals.put_nowait, moment)

        await asyncio.to_thread(follow)

    async def _follow_in_pauses(self, arrivals: deque[float | None]) -> None:
        """Lets those arrive that are due, and all that answers bring be done before it sleeps."""
        while arrivals:
            time.sleep(self.load.pause_s)
            now = _clock()
            while arrivals and (arrivals[0] or 0) <= now:
                self._arrivals.put_nowait(arrivals.popleft())
            for _ in range(2):
                await asyncio.sleep(0)

    async def _work(self, connection: Connection) -> None:
        load = self.load
        while (due := await self._take()) is not None:
            if connection.is_closed:
                again = await self._connect_again()
                if again is None:
                    self._note(due, NEVER, OVERDUE)
                    break  # No server listens any more.
                connection = again
            sent = _clock()
            if sent - due > load.timeout_s:
                # It found no connection in time.
                self._note(due, NEVER, OVERDUE)
                continue
            number = next(self._numbers)
            place, serial = number % len(load.requests), load.serial + number
            status = await connection.ask(load.requests[place].fill(serial))
            intended = sent if load.rate is None else due
            self._note(intended, sent, status, connection, place, serial)
        connection.close()

    async def _take(self) -> float | None:
        """When the next request is due; None where there is none any more."""
        if self.load.rate is not None:
            return await self._arrivals.get()
        now = _clock()
        if self._left <= 0 or now >= self._end:
            return None
        self._left -= 1
        return now

    def _note(
        self,
        intended: float,
        sent: float,
        status: int,
        connection: Connection | None = None,
        place: int = 0,
        serial: int = 0,
    ) -> None:
        wait_s = NEVER if connection is None else connection.retry_after_s
        self._rows.append((intended, sent, _clock(), status, wait_s, place, serial))
        if self.load.keeps_bodies:
            self._bodies.append(b"" if connection is None else connection.body)

    async def _connect(self) -> Connection:
        loop, load = asyncio.get_running_loop(), self.load
        _, connection = await loop.create_connection(lambda: Connection(load), load.host, load.port)
        return connection

    async def _connect_again(self) -> Connection | None:
        end = _clock() + self.load.timeout_s
        while _clock() < end:
            with suppress(OSError):
                return await self._connect()
            await asyncio.sleep(RECONNECT_S)
        return None
