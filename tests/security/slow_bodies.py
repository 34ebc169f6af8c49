"""Enrollments whose bodies come slowly, or are as large as they may be, by many keys at once.

`python -m tests.security.slow_bodies PORT CONNECTIONS` reads keys from standard input and sends
until it is terminated, with so many connections for each key.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

from tests.security.unfinished_requests import begin

SLOW_BYTES_PER_S = 11 * 1024
"""Above what a service cuts off."""
PIECE_S = 0.25
LARGE_BYTES = 30 * 2**20
SLOW_BYTES = 400_000
LARGE_EVERY = 8
"""Of so many connections one sends large bodies as fast as they are taken."""


async def send_one(port: int, key: str, *, is_large: bool) -> int:
    """The status of one such enrollment; 0 where the connection was closed unanswered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = asyncio.create_task(reader.read())
    size = LARGE_BYTES if is_large else SLOW_BYTES
    piece = b" " * (2**18 if is_large else int(SLOW_BYTES_PER_S * PIECE_S))
    try:
        writer.write(begin(key, size_bytes=size))
        left = size - 1
        while left > 0 and not answer.done():
            await writer.drain()
            writer.write(piece[:left])
            left -= len(piece)
            # A client in the same process is to have a turn between two large pieces.
            await asyncio.wait([answer], timeout=0.01 if is_large else PIECE_S)
        first = (await answer).partition(b"\r\n")[0].split()
        return int(first[1]) if len(first) > 1 else 0
    except OSError:
        return 0
    finally:
        answer.cancel()
        with suppress(asyncio.CancelledError, OSError):
            await answer
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def send_all(
    port: int, keys: Sequence[str], each: int, is_over: Callable[[], bool]
) -> Counter[int]:
    """What is answered to so many connections of each key, until it is over."""
    seen: Counter[int] = Counter()

    async def repeat(key: str, number: int) -> None:
        while not is_over():
            status = await send_one(port, key, is_large=number % LARGE_EVERY == 0)
            seen[status] += 1
            if status != 408:
                # Refused at once: as fast as this is what one machine's attacker can do.
                await asyncio.sleep(0.2)

    tasks = [
        asyncio.create_task(repeat(key, place * each + number))
        for place, key in enumerate(keys)
        for number in range(each)
    ]

    async def watch() -> None:
        while not is_over():
            await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()

    await asyncio.gather(watch(), *tasks, return_exceptions=True)
    return seen


if __name__ == "__main__":
    given = [line.strip() for line in sys.stdin]
    asyncio.run(send_all(int(sys.argv[1]), given, int(sys.argv[2]), lambda: False))
