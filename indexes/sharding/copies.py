"""A shard wherever it runs, and several copies of one that hold the same."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock, Thread
from typing import Any, Concatenate, ParamSpec, TypeVar

from indexes.errors import ShardFenced, ShardLost
from indexes.sharding.host import ShardHost
from indexes.sharding.shards import CHANGES

Asked = ParamSpec("Asked")
Value = TypeVar("Value")


def _call_of(
    method: Callable[Concatenate[ShardHost, Asked], Value],
) -> Callable[Concatenate[Shard, Asked], Future[Value]]:
    """The call that runs this method of the shard's host."""

    def call(shard: Shard, /, *arguments: Asked.args, **named: Asked.kwargs) -> Future[Value]:
        assert not named, "a call is sent with its arguments in order"
        return shard._call(method.__name__, *arguments)

    return call


class Shard(ABC):
    """One part of a gallery, wherever it runs; every call returns a future at once.

    A call runs the method of that name of its `ShardHost`. Calls may run in any order and
    concurrently: wait for the answer to a change before the next call that must see it. A future
    fails with an `IndexFault` where the index refused, with `ShardLost` where the shard is gone or
    closed, and else with the error itself.
    """

    @property
    def copies(self) -> Sequence[Shard]:
        """The shard itself, or those that hold the same."""
        return (self,)

    @property
    @abstractmethod
    def lost(self) -> str | None:
        """Why it is gone or closed, as far as known without a call; None while it works."""

    @property
    @abstractmethod
    def search_fault(self) -> str | None:
        """Why it searches more slowly than it was set up to, as far as known without a call."""

    @abstractmethod
    def close(self) -> None:
        """Ends the shard and frees its memory; does nothing the second time."""

    def drop(self, copy: Shard) -> None:
        """Ends a copy that is not used any more; another one remains."""
        assert copy is not self, "the only copy of a shard stays"

    def release(self) -> None:
        """Leaves the shard to the next writer, if it can outlive this process; else `close`."""
        self.close()

    @abstractmethod
    def _call(self, operation: str, *arguments: object) -> Future[Any]:
        """Sends the call to the host."""

    add = _call_of(ShardHost.add)
    remove = _call_of(ShardHost.remove)
    clear = _call_of(ShardHost.clear)
    receive = _call_of(ShardHost.receive)
    discard = _call_of(ShardHost.discard)
    take = _call_of(ShardHost.take)
    abandon = _call_of(ShardHost.abandon)
    state = _call_of(ShardHost.state)
    save = _call_of(ShardHost.save)
    load = _call_of(ShardHost.load)
    forget = _call_of(ShardHost.forget)
    search = _call_of(ShardHost.search)
    range_search = _call_of(ShardHost.range_search)
    vectors = _call_of(ShardHost.vectors)
    contains = _call_of(ShardHost.contains)
    held = _call_of(ShardHost.held)
    join = _call_of(ShardHost.join)
    digests = _call_of(ShardHost.digests)
    ids = _call_of(ShardHost.ids)
    ids_in = _call_of(ShardHost.ids_in)
    count = _call_of(ShardHost.count)
    account = _call_of(ShardHost.account)
    compact = _call_of(ShardHost.compact)


class ReplicatedShard(Shard):
    """A shard of which several copies hold the same, on different nodes.

    Every copy gets every change, in one order. A copy that is lost, or does not do what another one
    did, is ended, and its calls are answered by the others; the shard is lost with its last copy.
    `attach` adds a copy that holds what the others do.
    """

    def __init__(self, copies: Sequence[Shard]) -> None:
        assert copies
        self._lock = Lock()
        self._copies = tuple(copies)
        self._asked = 0
        self._why: str | None = None

    @property
    def copies(self) -> Sequence[Shard]:
        return self._copies

    @property
    def search_fault(self) -> str | None:
        found = (one.search_fault for one in self._copies)
        return next((fault for fault in found if fault is not None), None)

    @property
    def lost(self) -> str | None:
        for copy in self._copies:
            if copy.lost is not None:
                self.drop(copy)
        return None if self._copies else self._why

    def attach(self, copy: Shard) -> None:
        """Adds a copy; call it while nothing changes."""
        with self._lock:
            self._copies = (*self._copies, copy)

    def drop(self, copy: Shard) -> None:
        with self._lock:
            if copy not in self._copies:
                return
            self._copies = tuple(one for one in self._copies if one is not copy)
            self._why = copy.lost or "a copy of a shard did not do what another one did"
        # Beside the calls that wait for another copy: to end one that hangs takes a while.
        Thread(target=copy.close, name="close", daemon=True).start()

    def close(self) -> None:
        close_all(self._copies)

    def release(self) -> None:
        end_at_once(self._copies, lambda copy: copy.release())

    def _call(self, operation: str, *arguments: object) -> Future[Any]:
        if operation in CHANGES or operation == "compact":
            return self._change(operation, arguments)
        answer: Future[Any] = Future()
        answer.set_running_or_notify_cancel()  # a call of a shard cannot be cancelled
        self._ask(answer, operation, arguments)
        return answer

    def _ask(self, answer: Future[Any], operation: str, arguments: tuple[object, ...]) -> None:
        """Asks the copies by turns; where one is lost, the next."""
        copies = self._copies
        if not copies:
            answer.set_exception(ShardLost(self._why))
            return
        self._asked += 1
        copy = copies[self._asked % len(copies)]

        def pass_on(asked: Future[Any]) -> None:
            failure = asked.exception()
            if failure is None:
                answer.set_result(asked.result())
            elif isinstance(failure, ShardLost) and not isinstance(failure, ShardFenced):
                self.drop(copy)
                self._ask(answer, operation, arguments)
            else:
                answer.set_exception(failure)

        getattr(copy, operation)(*arguments).add_done_callback(pass_on)

    def _change(self, operation: str, arguments: tuple[object, ...]) -> Future[Any]:
        """Done when every copy has done it or is dropped; fails where no copy has done it."""
        answer: Future[Any] = Future()
        answer.set_running_or_notify_cancel()
        with self._lock:
            copies = self._copies
            asked = {copy: getattr(copy, operation)(*arguments) for copy in copies}
        if not copies:
            answer.set_exception(ShardLost(self._why))
            return answer
        waiting, counting = [len(asked)], Lock()

        def settle(_: Future[Any]) -> None:
            with counting:
                waiting[0] -= 1
                if waiting[0]:
                    return
            failures = {copy: failure for copy in copies if (failure := asked[copy].exception())}
            # A later writer has the copies: they are not ours to end.
            fenced = [one for one in failures.values() if isinstance(one, ShardFenced)]
            if fenced:
                answer.set_exception(fenced[0])
                return
            refusals = [one for one in failures.values() if not isinstance(one, ShardLost)]
            is_done = len(failures) < len(copies)
            for copy, failure in failures.items():
                if is_done or isinstance(failure, ShardLost):
                    self.drop(copy)
            if is_done:
                answer.set_result(None)
            else:
                answer.set_exception([*refusals, *failures.values()][0])

        for future in asked.values():
            future.add_done_callback(settle)
        return answer


def close_all(shards: Sequence[Shard]) -> None:
    """Closes the shards concurrently, for one that hangs takes a while."""
    end_at_once(shards, lambda shard: shard.close())


def end_at_once(shards: Sequence[Shard], end: Callable[[Shard], None]) -> None:
    with ThreadPoolExecutor(max(1, len(shards)), "close") as pool:
        list(pool.map(end, shards))
