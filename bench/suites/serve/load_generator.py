"""Sends a load and takes the time of every answer: a process of its own, some 30 us a request."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import time
from collections import deque
from concurrent.futures import Future
from contextlib import closing, suppress
from typing import cast

import httptools
import uvloop

from bench.suites.serve.load_requests import LOST, OVERDUE, Load, Record
from bench.suites.serve.process import Worker

NEVER = float("nan")


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, kept alive from request to request, and the request on it."""

    def __init__(self, owner: Sending) -> None:
        self._owner = owner
        self.transport: asyncio.Transport | None = None
        self.is_busy = False
        self.is_dropped = False
        self.intended = self.sent = NEVER
        self.request = self.serial = 0
        self._begin()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            # What is no HTTP answer is as good as none.
            if self.transport is not None:
                self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self.is_dropped:
            self._owner.lose(self)

    def drop(self) -> None:
        """Closes it at once; its loss is nothing to tell."""
        self.is_dropped = True
        if self.transport is not None:
            self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self.retry_after_s = float(value)

    def on_body(self, body: bytes) -> None:
        if self._owner.keeps_bodies:
            self.body += body

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.drop()
        self._owner.answer(self, self._parser.get_status_code())

    def send(self, data: bytes, intended: float, request: int, serial: int) -> None:
        assert self.transport is not None
        self.is_busy = True
        self.intended, self.request, self.serial = intended, request, serial
        self._begin()
        self.sent = time.perf_counter()
        self.transport.write(data)

    def _begin(self) -> None:
        self.body, self.retry_after_s = b"", NEVER


_NONBLOCK, _ABSOLUTE = os.O_NONBLOCK, 1


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Alarm:
    """A timerfd of Linux: its file can be read when the moment has come.

    Precise to the microsecond, where the timers of an event loop are to the millisecond. Moments
    are those of `time.perf_counter()`, which is CLOCK_MONOTONIC there.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, _NONBLOCK)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = _Itimerspec()

    def close(self) -> None:
        os.close(self.fd)

    def set(self, moment: float) -> None:
        """Rings once at `moment`, at once where that is past; replaces what was set before."""
        seconds = int(moment)
        self._spec.value.seconds = seconds
        # A value of zero would disarm it.
        self._spec.value.nanoseconds = max(1, int((moment - seconds) * 1e9))
        self._libc.timerfd_settime(self.fd, _ABSOLUTE, ctypes.byref(self._spec), None)

    def clear(self) -> None:
        """Clears the alarm after it rang."""
        with suppress(BlockingIOError):
            os.read(self.fd, 8)


RECONNECT_S = 0.02
CHECK_S = 0.05
_clock = time.perf_counter


class Generator(Worker):
    """The process that loads are sent from, one at a time; ends with the context."""

    def start(self, load: Load) -> Future[Record]:
        """Begins a load, or queues it behind the one that runs."""
        return self.submit(send_load, load)

    def run(self, load: Load) -> Record:
        return self.start(load).result()


def send_load(load: Load) -> Record:
    """Sends a load from this process; raises `ConnectionError` where no server listens."""
    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(Sending(load).perform())
    finally:
        gc.enable()


class Sending:
    """One load on its way."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self._rows: list[tuple[float, ...]] = []
        self._bodies: list[bytes] = []
        self._reconnects = 0
        self._next = 0
        self._free: deque[Connection] = deque()
        self._busy: set[Connection] = set()
        self._waiting: deque[float] = deque()
        self._left: float = float("inf") if load.count is None else load.count
        self._end = float("inf")
        self._is_closed_loop = load.rate is None
        self._has_arrivals = True
        self._done = asyncio.Event()
        self._opening: set[asyncio.Task[None]] = set()
        self._is_over = False
        self._last_sign = NEVER

    @property
    def keeps_bodies(self) -> bool:
        return self.load.keeps_bodies

    async def perform(self) -> Record:
        for _ in range(self.load.connections):
            self._free.append(await self._connect())
        start = self._last_sign = _clock()
        self._end = start + self.load.seconds
        checking = asyncio.create_task(self._check())
        with closing(Alarm()) as alarm:
            if self._is_closed_loop:
                opened, self._free = self._free, deque()
                for connection in opened:
                    self._go_on(connection)
            else:
                self._follow(alarm, start)
            await self._done.wait()
            asyncio.get_running_loop().remove_reader(alarm.fd)
        seconds = _clock() - start
        await self._shut(checking)
        return Record.of(
            self._rows, self._bodies, start, reconnects=self._reconnects, seconds=seconds
        )

    def answer(self, connection: Connection, status: int) -> None:
        """Handles a whole answer; one without a request says that the server closes."""
        if not connection.is_busy:
            connection.drop()
            self.lose(connection)
            return
        self._note(connection, status)
        if connection.is_dropped:
            self._reopen()
        else:
            self._go_on(connection)

    def lose(self, connection: Connection) -> None:
        """A connection was lost, with or without a request on it."""
        if self._is_over:
            return
        if connection.is_busy:
            self._note(connection, LOST)
        elif connection in self._free:
            self._free.remove(connection)
        self._reconnects += 1
        self._reopen()

    def _follow(self, alarm: Alarm, start: float) -> None:
        """Lets requests arrive by the schedule."""
        schedule = (self.load.schedule() + start).tolist()
        place = 0

        def ring() -> None:
            nonlocal place
            alarm.clear()
            now = _clock()
            while place < len(schedule) and schedule[place] <= now:
                self._arrive(schedule[place])
                place += 1
            if place < len(schedule):
                alarm.set(schedule[place])
            else:
                self._has_arrivals = False
                self._finish_if_idle()

        asyncio.get_running_loop().add_reader(alarm.fd, ring)
        alarm.set(schedule[0] if schedule else start)

    def _arrive(self, moment: float) -> None:
        if self._free:
            # The one idle longest, so that none is idle for so long that the server closes it.
            self._send(self._free.popleft(), moment)
        else:
            self._waiting.append(moment)

    def _go_on(self, connection: Connection) -> None:
        """Gives an idle connection its next request, or puts it with the free ones."""
        if self._is_closed_loop and self._left > 0 and _clock() < self._end:
            self._send(connection, NEVER)
        elif self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._free.append(connection)
            self._finish_if_idle()

    def _send(self, connection: Connection, intended: float) -> None:
        requests = self.load.requests
        number = self._next
        self._next += 1
        self._left -= 1
        place, serial = number % len(requests), self.load.serial + number
        self._busy.add(connection)
        connection.send(requests[place].fill(serial), intended, place, serial)

    def _note(self, connection: Connection, status: int) -> None:
        now = _clock()
        connection.is_busy = False
        self._busy.discard(connection)
        self._last_sign = now
        intended = connection.sent if self._is_closed_loop else connection.intended
        self._rows.append(
            (
                intended,
                connection.sent,
                now,
                status,
                connection.retry_after_s,
                connection.request,
                connection.serial,
            )
        )
        if self.load.keeps_bodies:
            self._bodies.append(connection.body)

    def _reopen(self) -> None:
        task = asyncio.create_task(self._connect_again())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        self._finish_if_idle()

    async def _connect_again(self) -> None:
        while not self._is_over:
            with suppress(OSError):
                self._go_on(await self._connect())
                return
            await asyncio.sleep(RECONNECT_S)

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: Connection(self), self.load.host, self.load.port
        )
        return connection

    async def _check(self) -> None:
        """Gives up what waits too long, on a connection or for one."""
        while True:
            await asyncio.sleep(CHECK_S)
            now = _clock()
            for connection in tuple(self._busy):
                if now - connection.sent > self.load.timeout_s:
                    self._note(connection, OVERDUE)
                    connection.drop()
                    self._reopen()
            while self._waiting and now - self._waiting[0] > self.load.timeout_s:
                self._give_up(self._waiting.popleft())
            if not self._busy and now - self._last_sign > self.load.timeout_s:
                self._done.set()  # No server listens any more.
            self._finish_if_idle()

    def _give_up(self, intended: float) -> None:
        """An arrival that never found a connection."""
        connection = Connection(self)
        connection.intended = intended
        self._note(connection, OVERDUE)

    def _finish_if_idle(self) -> None:
        if self._busy or self._waiting:
            return
        is_spent = self._left <= 0 or _clock() >= self._end
        if is_spent if self._is_closed_loop else not self._has_arrivals:
            self._done.set()

    async def _shut(self, checking: asyncio.Task[None]) -> None:
        self._is_over = True
        for task in (checking, *self._opening):
            task.cancel()
        for connection in (*self._free, *self._busy):
            connection.drop()
        # Transports close themselves in the loop's next turn.
        await asyncio.sleep(0)
