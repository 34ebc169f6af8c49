"""Concurrent calls: answers in order, the first exception raised."""

import gevent
import pytest

from loadtest.errors import LoadTestRefused
from loadtest.exchange import run_concurrently


def test_answers_are_in_the_order_of_the_items() -> None:
    def wait(item: int) -> int:
        gevent.sleep(0.01 if item % 2 else 0)
        return item * item

    assert run_concurrently(wait, range(9)) == [item * item for item in range(9)]


def test_a_fault_is_raised_and_not_printed(capfd) -> None:
    done = []

    def refuse(item: int) -> None:
        if item == 1:
            raise LoadTestRefused("no")
        done.append(item)

    with pytest.raises(LoadTestRefused, match="no"):
        run_concurrently(refuse, range(6))
    assert done == [0, 2, 3, 4, 5]
    assert capfd.readouterr().err == ""
