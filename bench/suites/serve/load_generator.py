"""Sends a load and takes the time of every answer: a process of its own."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from typing import cast

import httptools
import numpy as np
import uvloop

from bench.suites.serve.load_requests import LOST, OVERDUE, ROW, Load, Record
from bench.suites.serve.process import Worker

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
        start = _clock()
        self._end = start + self.load.seconds
        work = [self._work(connection) for connection in connections]
        if self.load.rate is None:
            await asyncio.gather(*work)
        else:
            loop = asyncio.get_running_loop()
            await asyncio.gather(*work, asyncio.to_thread(self._follow, loop, start))
        while not self._arrivals.empty():
            due = self._arrivals.get_nowait()
            if due is not None:
                self._note(due, NEVER, OVERDUE)
        seconds, rows = _clock() - start, np.array(self._rows, ROW)
        for name in ("intended_s", "sent_s", "done_s"):
            rows[name] -= start
        return Record(rows.view(np.recarray), tuple(self._bodies), seconds)

    def _follow(self, loop: asyncio.AbstractEventLoop, start: float) -> None:
        """Lets requests arrive by the schedule, from a thread: the timers of an event loop are
        precise to the millisecond only."""
        for moment in (self.load.schedule() + start).tolist():
            wait_s = moment - _clock()
            if wait_s > 0:
                time.sleep(wait_s)
            loop.call_soon_threadsafe(self._arrivals.put_nowait, moment)
        for _ in range(self.load.connections):
            loop.call_soon_threadsafe(self._arrivals.put_nowait, None)

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
