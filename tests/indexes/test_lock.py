"""SharedLock: readers together, a writer alone and next."""

from __future__ import annotations

import threading
import time

import pytest

from indexes.lock import SharedLock

WAIT_S = 10.0
PAUSE_S = 0.05


def test_readers_share_it() -> None:
    lock, together = SharedLock(), threading.Barrier(3)

    def read() -> None:
        with lock.reading():
            together.wait(WAIT_S)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    # Passes only while both are inside.
    together.wait(WAIT_S)
    for thread in threads:
        thread.join()


def test_a_writer_is_alone() -> None:
    lock, inside, worst = SharedLock(), 0, 0

    def write() -> None:
        nonlocal inside, worst
        for _ in range(50):
            with lock.writing():
                inside += 1
                time.sleep(0)
                worst = max(worst, inside)
                inside -= 1

    def read() -> None:
        nonlocal worst
        for _ in range(50):
            with lock.reading():
                worst = max(worst, inside + 1)

    threads = [threading.Thread(target=work) for work in (write, write, read, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst == 1


def test_a_waiting_writer_goes_before_later_readers() -> None:
    lock, order = SharedLock(), []

    def write() -> None:
        with lock.writing():
            order.append("writer")

    def read() -> None:
        with lock.reading():
            order.append("reader")

    with lock.reading():
        writer = threading.Thread(target=write)
        writer.start()
        time.sleep(PAUSE_S)
        reader = threading.Thread(target=read)
        reader.start()
        time.sleep(PAUSE_S)
        # A reader may join the one inside but for the writer that waits.
        assert order == []
    writer.join(WAIT_S)
    reader.join(WAIT_S)
    assert order == ["writer", "reader"]


def test_an_exception_inside_lets_others_in() -> None:
    lock = SharedLock()
    for side in (lock.writing, lock.reading):
        with pytest.raises(KeyError), side():
            raise KeyError
    with lock.writing():
        pass
    with lock.reading():
        pass
