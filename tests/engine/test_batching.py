"""What every queue promises: bounds, order, deadlines, leavers, failures, and an end."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.batching import Batch, Batcher, Call, Lane, Refusals, share_out, weigh
from engine.errors import DeadlinePassed, Overloaded, RegistryError, SosieError

ANSWER_S = 20.0
LONG_S = 60.0
"""Nobody may wait for so long in these tests: whoever should not wait would be seen."""

REFUSALS = Refusals(
    full=Overloaded("full"),
    late=DeadlinePassed("late"),
    closed=RegistryError("closed"),
    ended=SosieError("ended"),
)


class Doubler:
    """Doubles numbers; held up while its gate is shut, and breaks on what it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.breaks_on: dict[int, BaseException] = {}

    def __call__(self, batch: Batch[list[int], list[int]]) -> list[Any]:
        numbers = [number for call in batch for number in call.payload]
        self.entered.release()
        assert self.gate.wait(ANSWER_S)
        self.batches.append(numbers)
        for number in numbers:
            if number in self.breaks_on:
                raise self.breaks_on[number]
        return share_out(batch, [2 * number for number in numbers])


def call(*numbers: int, **options: Any) -> Call[list[int], list[int]]:
    return Call(list(numbers), len(numbers), **options)


Open = Callable[..., Batcher[list[int], list[int]]]


@pytest.fixture
def doubler() -> Doubler:
    return Doubler()


@pytest.fixture
def open_batcher(doubler) -> Iterator[Open]:
    """`open_batcher(*lanes, **options)`: a batcher over `doubler`, closed after the test."""
    opened: list[Batcher[list[int], list[int]]] = []

    def open_one(*lanes: Lane, **options: Any) -> Batcher[list[int], list[int]]:
        perform = options.pop("perform", doubler)
        batcher = Batcher(perform, lanes or (Lane(8),), REFUSALS, name="test", **options)
        opened.append(batcher)
        return batcher

    yield open_one
    doubler.gate.set()
    for batcher in opened:
        batcher.close(ANSWER_S)
        assert not any(thread.is_alive() for thread in batcher._threads)


@contextmanager
def begun(
    batcher: Batcher[Any, Any], doubler: Doubler, *calls: Any, workers: int = 1
) -> Iterator[list[Any]]:
    """So many workers are inside these calls until the block ends."""
    doubler.gate.clear()
    asked = [batcher.submit(one) for one in calls]
    for _ in range(workers):
        assert doubler.entered.acquire(timeout=ANSWER_S)
    yield asked
    doubler.gate.set()


@contextmanager
def held(batcher: Batcher[Any, Any], doubler: Doubler, lane: int = 0) -> Iterator[None]:
    """One worker is inside a batch of its own until the block ends."""
    with begun(batcher, doubler, call(0, lane=lane, alone=True)) as (holding,):
        yield
    holding.result(ANSWER_S)


def test_what_gathers_during_a_batch_is_the_next_and_each_call_gets_its_own(
    open_batcher, doubler
) -> None:
    batcher = open_batcher()
    with held(batcher, doubler):
        calls = [batcher.submit(call(1)), batcher.submit(call(2, 3)), batcher.submit(call(4))]
        assert batcher.queued() == 4
    assert [one.result(ANSWER_S) for one in calls] == [[2], [4, 6], [8]]
    assert doubler.batches == [[0], [1, 2, 3, 4]]
    assert batcher.queued() == 0


def test_no_worker_takes_a_batch_before_it_may(open_batcher, doubler) -> None:
    may = threading.Event()
    asked = threading.Semaphore(0)

    def may_take() -> bool:
        asked.release()
        return may.is_set()

    batcher = open_batcher(workers=2, may_take=may_take)
    first = batcher.submit(call(1))
    assert asked.acquire(timeout=ANSWER_S)
    second = batcher.submit(call(2))
    assert asked.acquire(timeout=ANSWER_S)
    assert batcher.queued() == 2
    may.set()
    batcher.wake()
    assert [first.result(ANSWER_S), second.result(ANSWER_S)] == [[2], [4]]
    assert doubler.batches == [[1, 2]]


def test_a_call_that_would_not_fit_begins_the_next_batch_and_is_never_split(
    open_batcher, doubler
) -> None:
    batcher = open_batcher(Lane(3))
    with held(batcher, doubler):
        calls = [batcher.submit(call(*numbers)) for numbers in ((1, 2), (3, 4), (5, 6, 7, 8), (9,))]
    wait(calls, ANSWER_S)
    assert doubler.batches[1:] == [[1, 2], [3, 4], [5, 6, 7, 8], [9]]


def test_all_lanes_together_have_a_bound_of_their_own(open_batcher, doubler) -> None:
    batcher = open_batcher(Lane(4, capacity=2), Lane(4), capacity=4)
    with held(batcher, doubler):
        batcher.submit(call(1, 2))
        with pytest.raises(Overloaded):
            batcher.submit(call(3))
        batcher.submit(call(4, 5, lane=1))
        with pytest.raises(Overloaded):
            batcher.submit(call(6, lane=1))


@pytest.mark.parametrize("closes", [False, True])
def test_who_waits_for_room_is_let_in_when_there_is_some_and_refused_when_the_queue_closes(
    open_batcher, doubler, closes: bool
) -> None:
    batcher = open_batcher(Lane(1, capacity=1))
    with ThreadPoolExecutor(2) as pool:
        with held(batcher, doubler):
            first = batcher.submit(call(1))
            entering = pool.submit(batcher.submit, call(2), wait=True)
            assert not wait([entering], 0.05).done
            if closes:
                pool.submit(batcher.close)
                assert isinstance(entering.exception(ANSWER_S), RegistryError)
        assert closes or entering.result(ANSWER_S).result(ANSWER_S) == [4]
    assert first.result(0) == [2]


def test_what_is_cancelled_while_it_waits_is_never_done_and_frees_its_room(
    open_batcher, doubler
) -> None:
    left: list[int] = []

    class Leaving(Call[list[int], list[int]]):
        def leave(self) -> None:
            left.extend(self.payload)

    batcher = open_batcher(Lane(8, capacity=1))
    with held(batcher, doubler):
        gone = batcher.submit(Leaving([1]))
        assert gone.cancel()
        assert gone.cancel()
        assert (batcher.queued(), left) == (0, [1])
        stays = batcher.submit(Leaving([2]))
    assert stays.result(ANSWER_S) == [4]
    with pytest.raises(CancelledError):
        gone.result(0)
    assert doubler.batches == [[0], [2]]
    assert left == [1, 2]


def test_what_has_begun_cannot_be_cancelled(open_batcher, doubler) -> None:
    with begun(open_batcher(), doubler, call(1)) as (one,):
        assert not one.cancel()
    assert one.result(ANSWER_S) == [2]


def test_what_is_late_when_it_is_taken_is_dropped_beside_its_neighbours(
    open_batcher, doubler
) -> None:
    batcher = open_batcher()
    with held(batcher, doubler):
        late = batcher.submit(call(1, timeout_s=0.0))
        kept = batcher.submit(call(2, timeout_s=LONG_S))
    assert isinstance(late.exception(ANSWER_S), DeadlinePassed)
    assert kept.result(ANSWER_S) == [4]
    assert doubler.batches == [[0], [2]]


def test_lanes_take_turns_the_first_before_the_last(open_batcher, doubler) -> None:
    batcher = open_batcher(Lane(1), Lane(2))
    with held(batcher, doubler, lane=1):
        calls = [batcher.submit(call(number, lane=1)) for number in (10, 11, 12, 13, 14)]
        calls += [batcher.submit(call(number)) for number in (1, 2)]
    wait(calls, ANSWER_S)
    assert doubler.batches[1:] == [[1], [10, 11], [2], [12, 13], [14]]


def test_room_that_a_filled_lane_leaves_is_for_the_lanes_after_it_and_not_the_other_way(
    open_batcher, doubler
) -> None:
    batcher = open_batcher(Lane(3, filled=True), Lane(3))
    with held(batcher, doubler, lane=1):
        calls = [batcher.submit(call(number, lane=1)) for number in (10, 11, 12)]
        calls += [batcher.submit(call(number)) for number in (1, 2, 3, 4)]
    wait(calls, ANSWER_S)
    assert doubler.batches[1:] == [[1, 2, 3], [10, 11, 12], [4]]
    with held(batcher, doubler, lane=1):
        calls = [batcher.submit(call(20)), *(batcher.submit(call(n, lane=1)) for n in (30, 31, 32))]
    wait(calls, ANSWER_S)
    assert doubler.batches[-2:] == [[20, 30, 31], [32]]


def test_a_split_call_lets_others_in_after_each_batch_and_comes_whole(
    open_batcher, doubler
) -> None:
    batcher = open_batcher(Lane(2, splits=True))
    with held(batcher, doubler):
        long, short = batcher.submit(call(1, 2, 3, 4, 5)), batcher.submit(call(6))
    assert long.result(ANSWER_S) == [2, 4, 6, 8, 10]
    assert short.result(ANSWER_S) == [12]
    assert doubler.batches[1:] == [[1, 2], [6, 3], [4, 5]]


def test_a_split_call_counts_for_no_more_than_its_places(open_batcher, doubler) -> None:
    shown: list[int] = []
    batcher = open_batcher(Lane(2, capacity=4, places=3, splits=True), show=shown.append)
    with held(batcher, doubler):
        calls = [batcher.submit(call(*range(1, 10)))]
        assert batcher.queued() == 3
        with pytest.raises(Overloaded):
            batcher.submit(call(20, 21))
        calls.append(batcher.submit(call(20)))
    wait(calls, ANSWER_S)
    assert max(shown) == 4
    assert shown[-1] == 0


def test_of_a_split_call_that_leaves_midway_the_rest_is_not_done(open_batcher, doubler) -> None:
    batcher = open_batcher(Lane(2, splits=True))
    with begun(batcher, doubler, call(1, 2, 3, 4)) as (long,):
        assert long.cancel()
        assert batcher.queued() == 0
    assert batcher.submit(call(5)).result(ANSWER_S) == [10]
    assert doubler.batches == [[1, 2], [5]]


def test_of_a_split_call_that_fails_midway_the_rest_is_not_done(open_batcher, doubler) -> None:
    batcher = open_batcher(Lane(2, splits=True))
    doubler.breaks_on[1] = ValueError("one")
    with held(batcher, doubler):
        long = batcher.submit(call(1, 2, 3, 4))
    assert isinstance(long.exception(ANSWER_S), ValueError)
    assert batcher.submit(call(5)).result(ANSWER_S) == [10]
    assert doubler.batches == [[0], [1, 2], [5]]


def test_several_workers_carry_out_the_parts_of_one_call(open_batcher, doubler) -> None:
    batcher = open_batcher(Lane(2, splits=True), workers=3)
    with begun(batcher, doubler, call(*range(6)), workers=3) as (long,):
        pass
    assert long.result(ANSWER_S) == [0, 2, 4, 6, 8, 10]


def test_of_parts_that_fail_at_once_the_first_failure_is_told(open_batcher, doubler) -> None:
    batcher = open_batcher(Lane(1, splits=True), workers=3)
    doubler.breaks_on = {number: ValueError(str(number)) for number in range(3)}
    with begun(batcher, doubler, call(0, 1, 2), workers=3) as (long,):
        pass
    assert isinstance(long.exception(ANSWER_S), ValueError)
    assert batcher.submit(call(7)).result(ANSWER_S) == [14]
    assert batcher.is_alive


def test_those_who_fail_together_get_an_exception_each_and_the_next_batch_is_tried(
    open_batcher, doubler
) -> None:
    batcher = open_batcher()
    doubler.breaks_on[1] = ValueError("one")
    with held(batcher, doubler):
        calls = [batcher.submit(call(number)) for number in (1, 2, 3)]
    errors = [one.exception(ANSWER_S) for one in calls]
    assert [str(error) for error in errors] == ["one"] * 3
    assert len({id(error) for error in errors}) == 3
    assert batcher.submit(call(4)).result(ANSWER_S) == [8]


def test_a_result_that_is_an_exception_fails_its_call_alone(open_batcher) -> None:
    def perform(batch: Batch[list[int], list[int]]) -> Sequence[Any]:
        return [ValueError() if call.payload == [1] else call.payload for call in batch]

    batcher = open_batcher(perform=perform)
    bad, good = batcher.submit(call(1)), batcher.submit(call(2))
    assert isinstance(bad.exception(ANSWER_S), ValueError)
    assert good.result(ANSWER_S) == [2]


def test_results_for_too_few_fail_the_batch(open_batcher) -> None:
    batcher = open_batcher(perform=lambda _batch: [])
    assert isinstance(batcher.submit(call(1)).exception(ANSWER_S), ValueError)
    with pytest.raises(ValueError, match="2 items came to 1"):
        share_out([call(1, 2)], [1])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_last_worker_that_ends_answers_all_who_wait_and_shows(open_batcher, doubler) -> None:
    batcher = open_batcher(Lane(1), workers=2)
    doubler.breaks_on = {1: SystemExit(), 2: SystemExit()}
    with begun(batcher, doubler, call(1), call(2), workers=2) as calls:
        calls += [batcher.submit(call(number)) for number in (3, 4)]
    outcomes = [one.exception(ANSWER_S) for one in calls]
    assert [str(error) for error in outcomes] == ["ended"] * 4
    assert len({id(error) for error in outcomes}) == 4
    assert not batcher.is_alive
    assert batcher.queued() == 0
    with pytest.raises(SosieError, match="ended"):
        batcher.submit(call(5))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_ends_leaves_the_others_to_do_what_waits(open_batcher, doubler) -> None:
    batcher = open_batcher(Lane(1), workers=2)
    doubler.breaks_on[1] = SystemExit()
    assert str(batcher.submit(call(1)).exception(ANSWER_S)) == "ended"
    assert batcher.submit(call(2)).result(ANSWER_S) == [4]
    assert not batcher.is_alive


def test_a_failed_queue_tells_who_waits_and_who_comes_and_ends_what_has_begun(
    open_batcher, doubler
) -> None:
    batcher = open_batcher()
    with begun(batcher, doubler, call(1)) as (one,):
        waiting = batcher.submit(call(2))
        batcher.fail(Overloaded("gone"))
        assert str(waiting.exception(ANSWER_S)) == "gone"
        with pytest.raises(Overloaded, match="gone"):
            batcher.submit(call(3))
    assert one.result(ANSWER_S) == [2]
    assert str(batcher.failure) == "gone"


def test_a_closing_queue_does_what_waits_and_refuses_who_comes(open_batcher, doubler) -> None:
    batcher = open_batcher(Lane(1))
    with held(batcher, doubler), ThreadPoolExecutor(1) as pool:
        calls = [batcher.submit(call(number)) for number in (1, 2)]
        closing = pool.submit(batcher.close)
        while not batcher.is_closing:
            pass
        with pytest.raises(RegistryError, match="closed"):
            batcher.submit(call(3))
        assert not closing.done()
        doubler.gate.set()
    assert [one.result(0) for one in calls] == [[2], [4]]


def test_each_batch_is_observed_and_an_observer_that_fails_stops_nothing(
    open_batcher, doubler
) -> None:
    seen: list[int] = []

    def observe(batch: Any, seconds: float) -> None:
        assert seconds >= 0
        seen.append(weigh(batch))
        raise OSError("no space left")

    batcher = open_batcher(observe=observe)
    assert batcher.submit(call(1)).result(ANSWER_S) == [2]
    with held(batcher, doubler):
        calls = [batcher.submit(call(1, 2)), batcher.submit(call(3))]
    wait(calls, ANSWER_S)
    batcher.close()
    assert seen == [1, 1, 3]


def test_a_call_that_takes_errors_as_values_gets_them(open_batcher, doubler) -> None:
    class Valued(Call[list[int], Any]):
        def fail(self, error: Exception) -> None:
            self.set_result(error)

    batcher = open_batcher()
    doubler.breaks_on[1] = ValueError("one")
    assert isinstance(batcher.submit(Valued([1])).result(ANSWER_S), ValueError)
    late = batcher.submit(Valued([2], timeout_s=0.0))
    assert isinstance(late.result(ANSWER_S), DeadlinePassed)


def test_coroutines_ask_and_one_that_is_cancelled_takes_what_waits_along(
    open_batcher, doubler
) -> None:
    batcher = open_batcher()

    async def ask() -> None:
        with held(batcher, doubler):
            gone = asyncio.create_task(batcher.ask([1]))
            stays = [asyncio.create_task(batcher.ask([number])) for number in (2, 3)]
            await asyncio.sleep(0)
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            assert batcher.queued() == 2
        assert await asyncio.gather(*stays) == [[4], [6]]

    asyncio.run(ask())
    assert doubler.batches == [[0], [2, 3]]


def test_a_coroutine_hears_that_its_time_is_over_whether_or_not_its_call_has_begun(
    open_batcher, doubler
) -> None:
    batcher = open_batcher(Lane(1, splits=True))

    async def ask() -> None:
        doubler.gate.clear()
        begun = asyncio.create_task(batcher.ask([1, 2], 2, timeout_s=0.05))
        await asyncio.to_thread(doubler.entered.acquire)
        for call_late in (begun, batcher.ask([3], timeout_s=0.0)):
            with pytest.raises(DeadlinePassed):
                await call_late
        assert batcher.queued() == 0
        doubler.gate.set()
        assert await batcher.ask([4], timeout_s=LONG_S) == [8]

    asyncio.run(ask())
    assert doubler.batches == [[1], [4]]


def test_what_coroutines_ask_in_one_go_is_for_all_workers(open_batcher, doubler) -> None:
    batcher = open_batcher(Lane(1), workers=3)

    async def ask() -> None:
        doubler.gate.clear()
        calls = [asyncio.create_task(batcher.ask([number])) for number in range(3)]
        for _ in calls:
            assert await asyncio.to_thread(doubler.entered.acquire, timeout=ANSWER_S)
        doubler.gate.set()
        assert await asyncio.gather(*calls) == [[0], [2], [4]]

    asyncio.run(ask())


def test_a_coroutine_is_refused_and_told_what_fails(open_batcher, doubler) -> None:
    batcher = open_batcher(Lane(8, capacity=1))
    doubler.breaks_on[1] = ValueError("one")

    async def ask() -> None:
        with held(batcher, doubler):
            failing = asyncio.create_task(batcher.ask([1]))
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await batcher.ask([2])
        with pytest.raises(ValueError, match="one"):
            await failing

    asyncio.run(ask())


def test_a_worker_outlives_a_loop_that_is_gone(open_batcher, doubler) -> None:
    batcher = open_batcher()

    async def leave(number: int) -> None:
        asyncio.get_running_loop().call_soon(doubler.gate.clear)
        asyncio.ensure_future(batcher.ask([number]))  # noqa: RUF006 - nobody waits for it
        await asyncio.to_thread(doubler.entered.acquire)

    for number in (1, 2):
        if number == 2:
            doubler.breaks_on[2] = ValueError()
        asyncio.run(leave(number))
        doubler.gate.set()
        assert batcher.submit(call(5)).result(ANSWER_S) == [10]
        assert doubler.entered.acquire(timeout=ANSWER_S)


def test_many_threads_at_once_all_get_their_own(open_batcher) -> None:
    batcher = open_batcher(Lane(16, splits=True, filled=True), Lane(16), workers=3)

    def ask(number: int) -> bool:
        numbers = range(number, number + number % 40 + 1)
        pending = batcher.submit(call(*numbers, lane=number % 2), wait=True)
        if number % 7 == 0 and pending.cancel():
            return True
        return pending.result(ANSWER_S) == [2 * one for one in numbers]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(400)))
    assert batcher.queued(0) == batcher.queued(1) == 0


Submitted = st.tuples(st.integers(0, 1), st.integers(1, 9), st.booleans(), st.booleans())


@settings(max_examples=150, deadline=None)
@given(
    calls=st.lists(Submitted, max_size=25),
    batch_size=st.integers(1, 6),
    splits=st.booleans(),
    filled=st.booleans(),
    capacity=st.integers(1, 30),
)
def test_whatever_comes_each_item_is_done_once_in_order_within_the_bounds(
    calls: list[tuple[int, int, bool, bool]],
    batch_size: int,
    splits: bool,
    filled: bool,
    capacity: int,
) -> None:
    doubler = Doubler()
    lanes = (Lane(batch_size, capacity, splits=splits, filled=filled), Lane(batch_size, capacity))
    batcher = Batcher(doubler, lanes, REFUSALS, name="test")
    waiting: dict[int, list[Call[list[int], list[int]]]] = {0: [], 1: []}
    numbers = iter(range(1, 1000))
    try:
        with held(batcher, doubler):
            for lane, weight, alone, leaves in calls:
                room = batcher.queued(lane)
                one = call(*(next(numbers) for _ in range(weight)), lane=lane, alone=alone)
                try:
                    batcher.submit(one)
                except Overloaded:
                    assert room + weight > capacity
                    continue
                if leaves:
                    assert one.cancel()
                else:
                    waiting[lane].append(one)
                held_now = sum(len(each.payload) for each in waiting[lane])
                assert batcher.queued(lane) == held_now
                assert held_now <= max(capacity, max((c.weight for c in waiting[lane]), default=0))
        for one in (*waiting[0], *waiting[1]):
            assert one.result(ANSWER_S) == [2 * number for number in one.payload]
    finally:
        batcher.close(ANSWER_S)
    kept = {number: one for line in waiting.values() for one in line for number in one.payload}
    done = [number for batch in doubler.batches[1:] for number in batch]
    assert sorted(done) == sorted(kept)
    for lane, line in waiting.items():
        order = [number for number in done if kept[number].lane == lane]
        if not (splits and lane == 0):
            assert order == [number for one in line for number in one.payload]
    for batch in doubler.batches[1:]:
        owners = {id(kept[number]): kept[number] for number in batch}
        assert len(batch) <= batch_size or len(owners) == 1
        assert len(owners) == 1 or not any(one.alone for one in owners.values())
        assert filled or len({one.lane for one in owners.values()}) == 1
