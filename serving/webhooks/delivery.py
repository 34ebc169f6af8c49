"""Delivery of events to webhooks, at least once and in order for each queue: a document's events,
or a case's or a sweep's. A worker holds a webhook by its cursor and sends many at once; what fails
is tried again by `BACKOFF_S` and keeps back its queue alone. What was done is written every
`SAVE_EVERY_S`: a worker that is killed repeats at most that much, under the same ids."""

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from math import inf
from time import monotonic

from structlog.typing import FilteringBoundLogger

from engine.errors import SosieError
from engine.registry.database import new_id, utc_now
from engine.registry.events import (
    Cursor,
    CursorLost,
    Event,
    hold_cursor,
    read_cursors,
    read_events,
    read_these,
    release_cursor,
)
from engine.registry.webhooks import Progress, Undelivered, Webhook, Webhooks
from schema.events import WebhookState
from serving.settings.terms import WebhookSettings
from serving.webhooks.receiver import TAKEN, Receiver, show_event
from serving.wire.fields import encode_json

ACTOR = "sosie:webhooks"
BACKOFF_S = (5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0)
"""From each failure to the next attempt; after the last one an event is a dead letter."""
AT_ONCE = 64
"""Requests to one webhook."""
READ_AHEAD, PAGE = 1_000, 500
MOST_WAITING = 10_000
"""A webhook of which so many events wait is given no new ones."""
DOWN_AFTER = 16
"""So many failures in a row, and a receiver counts as down: until it takes an event it is asked
with one at a time, an untried one if there is any, as it may refuse those that it was sent."""
PROBE_FIRST_S, PROBE_EVERY_S = 5.0, 300.0
"""Between the first two of these attempts; twice as long after each, up to the latter."""
SAVE_EVERY_S = 0.5
PARK_AFTER_S = 1.0
"""What takes longer gets a row, so that the cursor goes on."""
LOOK_EVERY_S = 1.0
TIDY_EVERY_S = 3_600.0
"""Rows of events that have left go."""
POLL_S = 0.25
SKEW_S = 5.0
"""By which the clocks of two workers may differ."""
MOST_UNSAVED = 10_000
"""Events of others that a cursor passes before that is written."""
GONE = 410


@dataclass(slots=True, eq=False)
class _Item:
    """An event that was read and is not taken. `has_row`: it is in the table of what waits, or is
    to be with the next save."""

    number: int
    queue: str
    at: datetime
    event: Event | None = None
    attempts: int = 0
    due_s: float = 0.0
    fault: str | None = None
    has_row: bool = False
    is_settled: bool = False
    is_dead: bool = False
    read_s: float = field(default_factory=monotonic)

    @property
    def is_noted(self) -> bool:
        """Whether a worker that begins anew need not read it again."""
        return self.is_settled or self.has_row

    def to_row(self, now: datetime, now_s: float) -> Undelivered:
        due_at = now + timedelta(seconds=max(0.0, self.due_s - now_s))
        return Undelivered(
            number=self.number,
            queue=self.queue,
            attempts=self.attempts,
            due_at=None if self.is_dead else due_at,
            fault=self.fault,
            at=self.at,
        )


class _Route:
    """A webhook that this worker holds, and what it has read for it; of one thread."""

    def __init__(
        self, webhook: Webhook, cursor: Cursor, held_until_s: float, receiver: Receiver
    ) -> None:
        self.webhook, self.cursor, self.held_until_s = webhook, cursor, held_until_s
        self.read = self.passed = cursor.number
        self.failures = self._probes = 0
        self._probe_s = 0.0
        self.is_gone = self.is_behind = False
        self.withheld: set[str] = set()
        self.sent: set[asyncio.Task[None]] = set()
        self._window: deque[_Item] = deque()
        self._queues: dict[str, deque[_Item]] = {}
        self._ready: deque[str] = deque()
        self._waiting: dict[str, _Item] = {}
        self._next_due_s = inf
        self._count = 0
        self._changed: dict[int, _Item] = {}
        self._done: list[int] = []
        self._has_finished = False
        self._early: set[int] = set()
        self.receiver = receiver

    @property
    def is_down(self) -> bool:
        return self.failures >= DOWN_AFTER

    @property
    def takes_more(self) -> bool:
        """True where more is to be read for it."""
        if self._count >= MOST_WAITING:
            return False
        if self.is_down:
            return self._find_untried() is None
        return self._count - len(self._waiting) < READ_AHEAD

    @property
    def is_low(self) -> bool:
        """True where it has soon sent all that was read."""
        return self.takes_more and self._count - len(self._waiting) <= READ_AHEAD - PAGE

    def add_rows(self, rows: Sequence[Undelivered]) -> None:
        """Adds the rows that waited when the webhook was taken over; of many the receiver may be
        down."""
        if len(rows) >= DOWN_AFTER:
            self.failures, self._probes = DOWN_AFTER, 1
        now, now_s = utc_now(), monotonic()
        for row in rows:
            assert row.due_at is not None, "a dead letter waits for nothing"
            # By a clock that was ahead it would wait for as long as that.
            longest_s = BACKOFF_S[min(max(row.attempts, 1), len(BACKOFF_S)) - 1]
            due_s = now_s + min((row.due_at - now).total_seconds(), longest_s)
            given = (row.number, row.queue, row.at, None, row.attempts, due_s, row.fault)
            self._add(_Item(*given, has_row=True))
            if row.number > self.cursor.number:
                self._early.add(row.number)

    def add_page(self, events: Sequence[Event], read: int) -> None:
        """The next events, with which everything up to the number `read` was looked at."""
        for event in events:
            if event.number not in self._early:
                item = _Item(event.number, event.queue, event.at, event)
                self._window.append(item)
                self._add(item)
        self.read = read

    def choose(self) -> _Item | None:
        """The next to be sent; to a receiver that is down one now and then, due or not."""
        now_s = monotonic()
        if now_s >= self._next_due_s:
            for queue in [key for key, item in self._waiting.items() if item.due_s <= now_s]:
                del self._waiting[queue]
                self._ready.append(queue)
            self._next_due_s = min((one.due_s for one in self._waiting.values()), default=inf)
        if self.is_down:
            return self._choose_probe(now_s)
        return self._queues[self._ready.popleft()][0] if self._ready else None

    def _choose_probe(self, now_s: float) -> _Item | None:
        if self.sent or now_s < self._probe_s:
            return None
        queue = self._find_untried()
        if queue is not None:
            self._ready.remove(queue)
        elif self._ready:
            queue = self._ready.popleft()
        elif self._waiting:
            queue = min(self._waiting, key=lambda one: self._waiting[one].due_s)
            del self._waiting[queue]
        else:
            return None
        self._probe_s = now_s + min(PROBE_EVERY_S, PROBE_FIRST_S * 2 ** min(self._probes, 9))
        self._probes += 1
        return self._queues[queue][0]

    def _find_untried(self) -> str | None:
        """The queue of the newest event that was never tried and may be sent now."""
        untried = (key for key in reversed(self._ready) if self._queues[key][0].fault is None)
        return next(untried, None)

    def take(self, item: _Item) -> None:
        """The receiver has it; one that was down is sent all that waits, due or not."""
        self._finish(item)
        # One that takes the first that it is asked with has refused some, and was not away.
        if self.is_down and self._probes > 1:
            self._ready.extend(self._waiting)
            self._waiting.clear()
        self.failures, self._probes, self._probe_s = 0, 0, 0.0

    def forget(self, item: _Item) -> None:
        """It has left the outbox, so that its receiver was not asked."""
        # Nor was it an attempt: the next one that fails waits no longer for it.
        self._probes, self._probe_s = max(0, self._probes - 1), 0.0
        self._finish(item)

    def fail(self, item: _Item, fault: str, *, counts: bool, answered: bool) -> None:
        """It is to be tried again, or was tried for the last time."""
        # That it is refused once more says nothing of the receiver.
        if item.fault is None or not answered:
            self.failures += 1
        # It is read again, as it may have left by then.
        item.event, item.fault, item.has_row = None, fault, True
        self._changed[item.number] = item
        if counts:
            item.attempts += 1
            if item.attempts > len(BACKOFF_S):
                item.is_dead = True
                self._settle(item)
                return
            item.due_s = monotonic() + BACKOFF_S[item.attempts - 1]
        self._wait(item)

    def put_back(self, item: _Item) -> None:
        """It could not be sent, for a reason of ours."""
        item.due_s = monotonic() + BACKOFF_S[0]
        self._wait(item)

    def take_progress(self) -> Progress | None:
        """Takes the progress to be written, if any; from now on it counts as written."""
        now, now_s = utc_now(), monotonic()
        for item in self._window:
            if not item.is_noted and now_s - item.read_s >= PARK_AFTER_S:
                item.has_row = True
                self._changed[item.number] = item
        while self._window and self._window[0].is_noted:
            self.passed = self._window.popleft().number
        if not self._window:
            self.passed = self.read
        kept = [item.to_row(now, now_s) for item in self._changed.values()]
        moved = self.passed - self.cursor.number
        if not (kept or self._done or moved >= MOST_UNSAVED or (moved and self._has_finished)):
            return None
        done, self._done, self._changed, self._has_finished = self._done, [], {}, False
        return Progress(self.cursor, self.passed, kept, done)

    def _add(self, item: _Item) -> None:
        self._count += 1
        queue = self._queues.setdefault(item.queue, deque())
        queue.append(item)
        if len(queue) == 1:
            self._line_up(item)

    def _line_up(self, item: _Item) -> None:
        if item.due_s > monotonic():
            self._wait(item)
        else:
            self._ready.append(item.queue)

    def _wait(self, item: _Item) -> None:
        self._waiting[item.queue] = item
        self._next_due_s = min(self._next_due_s, item.due_s)

    def _finish(self, item: _Item) -> None:
        self._has_finished = True
        if item.has_row:
            self._done.append(item.number)
            self._changed.pop(item.number, None)
        self._settle(item)

    def _settle(self, item: _Item) -> None:
        """The next of its queue has its turn."""
        item.is_settled = True
        self._count -= 1
        queue = self._queues[item.queue]
        assert queue.popleft() is item, "of a queue one is sent at a time"
        if queue:
            self._line_up(queue[0])
        else:
            del self._queues[item.queue]


class Deliverer:
    """Delivers to every webhook that no other worker holds, until it is stopped; failures are
    logged, and begun anew."""

    def __init__(
        self, webhooks: Webhooks, settings: WebhookSettings, log: FilteringBoundLogger
    ) -> None:
        self._webhooks, self._settings, self._log = webhooks, settings, log
        self._trust = ssl.create_default_context()
        self._holder = new_id()
        self._deployment_id = webhooks.vault.deployment_id
        self._routes: dict[str, _Route] = {}
        self._wake = asyncio.Event()
        self._hold_s = 2 * (settings.timeout_s + SKEW_S)

    async def run(self, stopping: asyncio.Event) -> None:
        """Until `stopping` is set; then what was done is written, and every webhook released."""
        looked_s = saved_s = tidied_s = -TIDY_EVERY_S
        try:
            while not stopping.is_set():
                try:
                    if monotonic() - looked_s >= LOOK_EVERY_S:
                        looked_s = monotonic()
                        await self._look()
                    if self._routes and monotonic() - tidied_s >= TIDY_EVERY_S:
                        tidied_s = monotonic()
                        await asyncio.to_thread(self._webhooks.forget_left)
                    await self._read()
                    for route in self._routes.values():
                        self._send(route)
                    if monotonic() - saved_s >= SAVE_EVERY_S:
                        saved_s = monotonic()
                        await self._save()
                    await self._end_gone()
                except SosieError as error:
                    self._log.warning("delivery_failed", code=error.code)
                    await self._drop(*self._routes)
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._wake.wait()
                self._wake.clear()
        finally:
            with suppress(SosieError):
                await self._save()
            with suppress(SosieError):
                await self._drop(*self._routes)

    async def _look(self) -> None:
        """Takes up webhooks that nobody holds, and gives up what is not to be delivered to."""
        active = await asyncio.to_thread(self._webhooks.find_all)
        wanted = {one.id: one for one in active if one.state is WebhookState.ACTIVE}
        states = await asyncio.to_thread(read_cursors, self._webhooks)
        for name, route in list(self._routes.items()):
            state = states.get(name)
            if name not in wanted or state is None or state.generation != route.cursor.generation:
                await self._drop(name)
            else:
                # Its earlier secret may have had its time.
                route.webhook = wanted[name]
                # Less than a half is not enough to send anything.
                if route.held_until_s - monotonic() < self._hold_s * 3 / 4:
                    await self._hold(name)
        now = utc_now()
        for name in wanted.keys() - self._routes.keys():
            state = states.get(name)
            if state is not None and state.is_free(self._holder, now):
                await self._take_up(wanted[name])

    async def _hold(self, name: str) -> Cursor | None:
        held_until_s = monotonic() + self._hold_s
        held = timedelta(seconds=self._hold_s)
        given = (self._webhooks, name, self._holder, utc_now(), held)
        cursor = await asyncio.to_thread(hold_cursor, *given)
        route = self._routes.get(name)
        if route is not None:
            if cursor is None:
                await self._drop(name)
            else:
                route.held_until_s = held_until_s
        return cursor

    async def _take_up(self, webhook: Webhook) -> None:
        held_until_s = monotonic() + self._hold_s
        cursor = await self._hold(webhook.id)
        if cursor is None:
            return
        allowed = self._settings.networks_of(webhook.carrier)
        receiver = Receiver(webhook.sink, allowed, self._trust)
        route = _Route(webhook, cursor, held_until_s, receiver)
        self._routes[webhook.id] = route
        route.add_rows(await asyncio.to_thread(self._webhooks.undelivered, webhook.id))

    async def _drop(self, *names: str) -> None:
        """Ends what is being sent, and lets another worker go on at what was written last."""
        for name in list(names):
            route = self._routes.pop(name)
            for task in route.sent:
                task.cancel()
            await asyncio.gather(*route.sent, return_exceptions=True)
            await route.receiver.close()
            with suppress(SosieError):
                # Else it is free when its time is over.
                given = (self._webhooks, name, self._holder)
                await asyncio.to_thread(release_cursor, *given)

    async def _read(self) -> None:
        hungry = [one for one in self._routes.values() if one.takes_more]
        if not hungry:
            return
        head = await asyncio.to_thread(self._webhooks.last_event)
        for route in hungry:
            if head <= route.read:
                continue
            of, kinds = route.webhook.carrier, route.webhook.types
            read = partial(read_events, self._webhooks, route.read, PAGE, carrier=of, types=kinds)
            found = await asyncio.to_thread(read)
            route.is_behind = len(found) == PAGE
            last = found[-1].number if found else 0
            route.add_page(found, last if route.is_behind else max(head, last))

    def _send(self, route: _Route) -> None:
        is_held = route.held_until_s - monotonic() > self._settings.timeout_s + SKEW_S
        while is_held and not route.is_gone and len(route.sent) < AT_ONCE:
            item = route.choose()
            if item is None:
                return
            task = asyncio.create_task(self._attempt(route, item))
            route.sent.add(task)
            task.add_done_callback(partial(self._go_on, route))

    def _go_on(self, route: _Route, task: asyncio.Task[None]) -> None:
        route.sent.discard(task)
        if not task.cancelled():
            self._send(route)
            if route.is_gone or (route.is_behind and route.is_low):
                self._wake.set()

    async def _attempt(self, route: _Route, item: _Item) -> None:
        counts = item.due_s <= monotonic()
        try:
            if item.event is None:
                read = await asyncio.to_thread(read_these, self._webhooks, [item.number])
                item.event = read.get(item.number)
            if item.event is None:
                route.forget(item)
                return
            body = encode_json(show_event(item.event, self._deployment_id, route.webhook.carrier))
            secrets, timeout_s = route.webhook.secrets, self._settings.timeout_s
            status, fault = await route.receiver.send(item.event.id, body, secrets, timeout_s)
        except Exception as error:  # noqa: BLE001 - the others of its webhook go on
            self._log.error("event_not_sent", error=type(error).__name__)
            route.put_back(item)
            return
        if status in TAKEN:
            route.take(item)
        elif status == GONE:
            route.is_gone = True
        else:
            told = route.receiver.tell(fault, route.webhook.carrier)
            if told != fault and fault not in route.withheld:
                route.withheld.add(fault)
                self._log.warning("fault_withheld", webhook_id=route.webhook.id, fault=fault)
            route.fail(item, told, counts=counts, answered=status > 0)
            if item.is_dead:
                self._log.warning("event_dead", webhook_id=route.webhook.id, fault=fault)

    async def _save(self, *routes: _Route) -> None:
        made = {}
        for route in routes or self._routes.values():
            progress = route.take_progress()
            if progress is not None:
                made[route.webhook.id] = progress
        if not made:
            return
        lost = await asyncio.to_thread(self._webhooks.save, self._holder, list(made.values()))
        for name, progress in made.items():
            if name in lost:
                await self._drop(name)
            elif name in self._routes:
                self._routes[name].cursor = replace(progress.cursor, number=progress.number)

    async def _end_gone(self) -> None:
        for route in [one for one in self._routes.values() if one.is_gone]:
            await self._save(route)
            # What people have changed meanwhile holds: it may have another address.
            with suppress(CursorLost):
                end = partial(self._webhooks.end, route.cursor, self._holder, actor=ACTOR)
                await asyncio.to_thread(end)
                self._log.warning("webhook_gone", webhook_id=route.webhook.id)
            if route.webhook.id in self._routes:
                await self._drop(route.webhook.id)
