import asyncio
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from bench.suites.serve.load_generator import (
    LOST,
    OVERDUE,
    SERIAL_PLACE,
    Generator,
    Load,
    Record,
    RequestWriter,
    send_load,
)

HOST = "127.0.0.1"


def count_statuses(record: Record) -> Counter[int]:
    return Counter(record.rows.status.tolist())


Answer = Callable[[int, bytes, asyncio.WriteTransport], Coroutine[None, None, None]]


class Server:
    """A real server on loopback that answers as a test says, and counts what it has read."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.ready = threading.Event()
        self.requests: list[bytes] = []
        self.connections = self.port = 0

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    async def serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._talk, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        self.ready.set()
        await self._stop.wait()
        server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                [size] = re.findall(rb"Content-Length: (\d+)", head)
                self.requests.append(head + await reader.readexactly(int(size)))
                transport = writer.transport
                await self._answer(len(self.requests), self.requests[-1], transport)
        writer.transport.abort()


@contextmanager
def serving(answer: Answer) -> Iterator[Server]:
    server = Server(answer)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, server.serve())
        assert server.ready.wait(120)
        try:
            yield server
        finally:
            server.stop()


def reply(body: bytes, status: int = 200, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def echo(_number: int, request: bytes, writer: asyncio.WriteTransport) -> None:
    writer.write(reply(request.partition(b"\r\n\r\n")[2]))


def make_load(server: Server, **more: object) -> Load:
    caller = RequestWriter(HOST, server.port, "key")
    options: dict[str, object] = {"connections": 4, "requests": (caller.post("/e", {"a": 1}),)}
    return Load(host=HOST, port=server.port, **options | more)  # type: ignore[arg-type]


def test_a_closed_loop_sends_as_many_as_it_was_told_and_keeps_every_answer() -> None:
    with serving(echo) as server:
        caller = RequestWriter(HOST, server.port, "key")
        requests = (caller.post("/a", "one"), caller.post("/b", "second"))
        load = make_load(server, requests=requests, count=101, keeps_bodies=True)
        record = send_load(load)
    assert len(record) == len(server.requests) == 101
    assert count_statuses(record) == {200: 101}
    assert sorted(record.rows.serial) == list(range(101))
    assert (record.rows.request == record.rows.serial % 2).all()
    assert all(
        body == (b"\xa3one", b"\xa6second")[place]
        for body, place in zip(record.bodies, record.rows.request, strict=True)
    )
    assert (record.latency_s > 0).all()
    assert server.connections == 4
    assert b"Authorization: Bearer key" in server.requests[0]


def test_every_request_has_a_serial_number_of_its_own_in_head_and_body() -> None:
    with serving(echo) as server:
        caller = RequestWriter(HOST, server.port)
        request = caller.post("/e", f"+86{SERIAL_PLACE}", {"Idempotency-Key": f"k-{SERIAL_PLACE}"})
        send_load(make_load(server, requests=(request,), count=20, serial=77))
    numbers = {b"%09d" % number for number in range(77, 97)}
    assert {data[-9:] for data in server.requests} == numbers
    assert all(b"Idempotency-Key: k-" + data[-9:] in data for data in server.requests)


@pytest.mark.parametrize("pause_s", [0, 1e-3])
def test_an_open_loop_keeps_its_schedule(pause_s: float) -> None:
    with serving(echo) as server:
        record = send_load(make_load(server, rate=400, seconds=1.5, pause_s=pause_s))
    assert len(record) == 600
    np.testing.assert_allclose(np.sort(record.rows.intended_s), np.arange(600) / 400, atol=1e-6)
    assert (record.rows.sent_s >= record.rows.intended_s - 1e-3).all()


def test_a_server_that_stalls_shows_its_stall_in_the_latencies() -> None:
    async def stall_once(number: int, request: bytes, writer: asyncio.WriteTransport) -> None:
        if number == 100:
            time.sleep(0.5)
        await echo(number, request, writer)

    with serving(stall_once) as server:
        record = send_load(make_load(server, rate=200, seconds=2))
    assert count_statuses(record) == {200: 400}
    # These bounds hold on a machine of any speed: the stall begins once the hundredth request is
    # sent, so not before its due time, and only what is in flight by then, one request on each
    # connection, is not held up by it. Some 75 more fall due in its first 0.4 s.
    assert (record.latency_s > 0.1).sum() > 60
    assert record.quantile_ms(0.99) > 400


def test_refusals_are_told_from_answers_and_name_their_wait() -> None:
    async def refuse_odd(number: int, _request: bytes, writer: asyncio.WriteTransport) -> None:
        writer.write(reply(b"", 429, "retry-after: 3") if number % 2 else reply(b"fine"))

    with serving(refuse_odd) as server:
        record = send_load(make_load(server, count=40, connections=1))
    assert count_statuses(record) == {200: 20, 429: 20}
    assert (record.rows.retry_after_s[record.rows.status == 429] == 3).all()
    assert np.isnan(record.rows.retry_after_s[record.is_fine]).all()
    assert record.is_refused.sum() == 20


def test_lost_connections_are_counted_and_made_again() -> None:
    async def drop_some(number: int, request: bytes, writer: asyncio.WriteTransport) -> None:
        if number % 10 == 5:
            writer.abort()
        else:
            await echo(number, request, writer)

    with serving(drop_some) as server:
        record = send_load(make_load(server, count=100))
    assert len(record) == len(server.requests) == 100
    assert count_statuses(record) == {200: 90, LOST: 10}
    assert server.connections > 4


def test_a_server_that_closes_politely_loses_no_answer() -> None:
    async def close(_number: int, _request: bytes, writer: asyncio.WriteTransport) -> None:
        writer.write(reply(b"last", 200, "Connection: close"))

    with serving(close) as server:
        record = send_load(make_load(server, count=12))
    assert count_statuses(record) == {200: 12}


def test_chunked_answers_are_read_whole() -> None:
    async def chunk(_number: int, _request: bytes, writer: asyncio.WriteTransport) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await asyncio.sleep(0.001)
        writer.write(b"2\r\nde\r\n0\r\n\r\n")

    with serving(chunk) as server:
        record = send_load(make_load(server, count=8, keeps_bodies=True))
    assert record.bodies == (b"abcde",) * 8


def test_what_is_never_answered_is_overdue_and_the_load_goes_on() -> None:
    async def swallow(number: int, request: bytes, writer: asyncio.WriteTransport) -> None:
        if number != 3:
            await echo(number, request, writer)

    with serving(swallow) as server:
        record = send_load(make_load(server, count=30, timeout_s=3))
    assert count_statuses(record) == {200: 29, OVERDUE: 1}


def test_arrivals_that_find_no_connection_in_time_are_overdue() -> None:
    async def swallow(_number: int, _request: bytes, _writer: asyncio.WriteTransport) -> None:
        return

    with serving(swallow) as server:
        record = send_load(make_load(server, rate=100, seconds=0.3, timeout_s=0.3))
    assert len(record) == 30
    assert set(count_statuses(record)) == {OVERDUE}
    # Those that found no connection were not sent, and so not in time either.
    assert np.isnan(record.rows.sent_s).sum() == 30 - len(server.requests) > 0
    assert record.sent_share * 30 == pytest.approx(len(server.requests))


def test_nobody_listening_is_an_error_and_not_a_figure() -> None:
    with serving(echo) as server:
        load = make_load(server, count=3)
    with pytest.raises(ConnectionError):
        send_load(load)


def test_the_generator_is_another_process_and_answers_as_this_one() -> None:
    with serving(echo) as server, Generator() as generator:
        running = generator.start(make_load(server, count=50))
        record = running.result(timeout=120)
    assert count_statuses(record) == {200: 50}


def test_a_part_of_a_record_has_only_what_began_in_it() -> None:
    with serving(echo) as server:
        record = send_load(make_load(server, rate=200, seconds=1, keeps_bodies=True))
    part = record.within(0.25, 0.75)
    assert len(part) == len(part.bodies) == 100
    # Answers that came in it: of those sent before it and of its last some may be late.
    assert part.rate == pytest.approx(200, abs=40)
    assert part.rows.intended_s.min() >= 0.25


def test_an_answer_that_nobody_asked_for_is_no_request_of_ours() -> None:
    async def tire(_number: int, request: bytes, writer: asyncio.WriteTransport) -> None:
        await echo(0, request, writer)
        await asyncio.sleep(0.02)
        writer.write(reply(b"idle", 408, "Connection: close"))

    with serving(tire) as server:
        record = send_load(make_load(server, rate=3, count=4, connections=1))
    assert count_statuses(record) == {200: 4}
    assert not np.isnan(record.latency_s).any()
    assert server.connections > 1
