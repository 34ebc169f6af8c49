"""Extraction queue that batches the photographs of an ingress."""

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from engine.batching import Batch, Batcher, Lane, Refusals, share_out, weigh
from engine.errors import DeadlinePassed, ImageError, ImageTooCostly, SosieError, VectorUnusable
from engine.faces.extractor import Extractor, Kinds
from engine.faces.image_files import find_pixels
from engine.matching.samples import Sample, SecondEmbedder, make_samples
from engine.registry.vault import Vault
from schema.reasons import ToldKind
from serving.access.authentication import Places, count_shares
from serving.access.authorization import NOBODY, Holder
from serving.errors import Busy, NotReady, ServiceRefusal
from serving.telemetry.metrics import (
    BATCH_SIZE,
    PHOTOGRAPHS_REFUSED,
    QUEUE_CAPACITY,
    QUEUE_DEPTH,
    STAGE_SECONDS,
    Meter,
)

DISTRUST_S = 5.0
"""How long the queue counts as not alive after a remote embedder gave no answer."""
STUCK_S, LOST_S = 15.0, 60.0
"""After so long with one batch the queue counts as not alive, then as not whole: a batch of the
largest photographs takes seconds."""
BATCH_PHOTOGRAPHS = 16
ANSWERED_S = 0.06
"""From a sample to its answer: the decision and its commit."""
MARGIN = 1.3
"""How much longer photographs are expected to take than they did: other work comes and goes, and
who is answered too late has cost as much as who is answered."""
REMEMBERED = 0.8
"""The weight of earlier batches beside a new one, in how long photographs take."""
PAIR = 2
"""Photographs of an enrollment or a verification, where one shows each face."""
FRAMES_WORK = 25.0
"""Most work of the frames of one face: eight JPEGs of 25 megapixels, 1 s of CPU."""
LARGE = 2.0
"""Photographs of more work, 80 ms of CPU, are taken two at a time, between batches of others."""
_PIXELS_AN_ITEM = {"JPEG": 8e6, "PNG": 2e6, "WEBP": 1e6, "JPEG2000": 0.25e6}
_PROGRESSIVE_PIXELS_AN_ITEM = 2e6
"""Pixels that take as much CPU to decode as all else of an item: `bench/micro/test_decode.py`."""
_JPEG2000_BYTES_AN_ITEM = 0.25e6
"""Added to its pixels: most of its decoding is by the bit."""
_QUEUE = "photographs"
_STAGE = "extract"
_BATCHES, _PAIRS, _LARGE = range(3)


def _late() -> DeadlinePassed:
    return DeadlinePassed("the time of this request ran out while its photographs waited")


_REFUSALS = Refusals(
    full=Busy("too many photographs wait here: ask again later"),
    late=_late(),
    closed=NotReady("no photographs are taken here any more: ask another replica"),
    ended=NotReady("photographs are not looked at here: ask another replica"),
)

Samples = list[Sample | ImageError]


@dataclass(eq=False, slots=True)
class _Waiting:
    holder: Holder
    count: int
    called: asyncio.Future[None]


class _Line:
    """Lets in so many photographs at once, next those of the carrier with the fewest within, of its
    keys the one with the fewest, of these the longest waiting: few wait for one free place, many
    for the others. For one event loop."""

    def __init__(self, room: int, places: Places) -> None:
        self._room = room
        self._places = places
        self._inside: Counter[str | Holder] = Counter()
        self._waiting: list[_Waiting] = []

    @asynccontextmanager
    async def enter(self, holder: Holder, count: int) -> AsyncIterator[None]:
        """`Busy` where too many of the key, of its carrier or of all wait."""
        if self._waiting or not self._has_room(count):
            await self._wait(holder, count)
        else:
            self._let_in(holder, count)
        try:
            yield
        finally:
            self._let_in(holder, -count)
            self._call()

    async def _wait(self, holder: Holder, count: int) -> None:
        self._places.take(holder, count)
        one = _Waiting(holder, count, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        try:
            await one.called
        except asyncio.CancelledError:
            if one in self._waiting:
                self._waiting.remove(one)
            else:
                self._let_in(holder, -count)
            self._call()
            raise
        finally:
            self._places.give_back(holder, count)

    def _call(self) -> None:
        inside = self._inside
        # Who has been cancelled stands there until its task runs.
        while waiting := [one for one in self._waiting if not one.called.done()]:
            # The first of those that are alike has waited longest.
            one = min(waiting, key=lambda one: (inside[one.holder.tenant], inside[one.holder]))
            if not self._has_room(one.count):
                return
            self._waiting.remove(one)
            self._let_in(one.holder, one.count)
            one.called.set_result(None)

    def _has_room(self, count: int) -> bool:
        # One that is larger than all the room goes alone.
        return count <= self._room or not self._inside

    def _let_in(self, holder: Holder, count: int) -> None:
        self._room -= count
        count_shares(self._inside, count, holder)


_Photograph = tuple[bytes, ToldKind, bool, float]
"""A file, what it is of, whether its liveness is judged, and the work of decoding it."""


def _count_work(batch: Batch[Sequence[_Photograph], Samples]) -> float:
    return sum(1 + one[3] for call in batch for one in call.payload)


class _Pace:
    """How long photographs take, by their work, as the last batches have shown it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._work = self._seconds = self._ended_at = 0.0

    def note(self, work: float, seconds: float) -> None:
        """A batch of so much work has taken so long, beside those of other workers."""
        with self._lock:
            now = time.monotonic()
            seconds = min(seconds, now - self._ended_at)
            self._ended_at = now
            self._work = REMEMBERED * self._work + work
            self._seconds = REMEMBERED * self._seconds + seconds

    def expect_s(self, work: float) -> float:
        """The time until so much work is answered; 0 while nothing is known."""
        with self._lock:
            return MARGIN * work * self._seconds / self._work + ANSWERED_S if self._work else 0.0


def _count_before(under_way: Mapping[Holder, int], holder: Holder) -> int:
    """The work that comes before a new call of the holder: next is the carrier, then the key, with
    the fewest under way, so of another's no more than of its own."""
    own, carriers = under_way.get(holder, 0), Counter[str]()
    for one, work in under_way.items():
        carriers[one.tenant] += min(work, own) if one.tenant == holder.tenant else work
    mine = carriers.pop(holder.tenant, 0)
    return mine + sum(min(work, mine) for work in carriers.values())


def decode_work(data: bytes) -> float:
    """The cost of decoding an image file, beside an ordinary item, by its header alone; 0 for what
    is no image."""
    found = find_pixels(data)
    if found is None:
        return 0.0
    kind, pixels, is_progressive = found
    work = pixels / (_PROGRESSIVE_PIXELS_AN_ITEM if is_progressive else _PIXELS_AN_ITEM[kind])
    return work + len(data) / _JPEG2000_BYTES_AN_ITEM if kind == "JPEG2000" else work


class ExtractionQueue:
    """Bounded queue that extracts samples from the photographs of all waiting requests in batches.

    At most `capacity` photographs wait; half of them may be of batches, a quarter of one batch, so
    that batches do not keep enrollments out. As many more wait before that, by carrier and by key,
    who take turns: of these a key has `key_share` at most, and a carrier leaves half of the rest.
    While both wait, a pair waits for at most one batch's worth, and a long call goes to the end
    again after each. Room that batches leave is filled with pairs. Calls with a photograph that
    takes long to decode have a lane of their own, of which one call and two photographs are taken
    at a time and few calls wait: however many come, others are not kept waiting.

    A call that could not be answered within its time, for the work that comes before it, is refused
    before anything of it is begun, when it comes or when its turn does.

    One worker suffices where extraction keeps the cores busy; more help where it waits for
    an embedder elsewhere. Where the extractor has several threads a second worker begins the next
    batch as soon as a thread is free, and not before, so that batches stay large. With `with_crops`
    each sample has its aligned face, with `second` what a second model makes of it.
    """

    def __init__(
        self,
        extractor: Extractor,
        vault: Vault,
        *,
        capacity: int,
        meter: Meter,
        log: FilteringBoundLogger,
        workers: int = 1,
        with_crops: bool = False,
        second: SecondEmbedder | None = None,
        key_share: float = 1.0,
    ) -> None:
        self._extractor = extractor
        self._vault = vault
        self._with_crops = with_crops
        self._second = second
        self._capacity = capacity
        self._meter = meter
        self._log = log
        self._refused_at: float | None = None
        self._pace = _Pace()
        has_threads = extractor.threads > 1
        # Two at least: one of a pair would wait for the other.
        places = max(PAIR, capacity // 4)
        # A batch, and what is to be the next; of large ones a call, and the next waits in the line.
        half = capacity // 2
        rooms = ((half, half), (2 * BATCH_PHOTOGRAPHS, capacity), (PAIR, 4 * PAIR))
        self._lines = [
            _Line(room, Places(waiting, key_share, "photographs")) for room, waiting in rooms
        ]
        self._most_of_call = (places, places, PAIR)
        self._under_way: tuple[Counter[Holder], ...] = tuple(Counter() for _ in rooms)
        """Of each line the photographs and their work, in thousandths."""
        self._queue: Batcher[Sequence[_Photograph], Samples] = Batcher(
            self._extract,
            (
                Lane(BATCH_PHOTOGRAPHS, capacity // 2, places, splits=True, filled=True),
                Lane(BATCH_PHOTOGRAPHS),
                Lane(PAIR, PAIR, PAIR, splits=True),
            ),
            _REFUSALS,
            name="faces",
            workers=max(workers, 2) if has_threads else workers,
            capacity=capacity,
            observe=self._observe,
            show=self._show_depth,
            may_take=extractor.has_free_thread if has_threads else None,
        )
        if has_threads:
            extractor.tell_free = self._queue.wake

    async def sample(
        self,
        images: Sequence[bytes],
        timeout_s: float | None = None,
        kinds: Kinds = (),
        *,
        is_one_attempt: bool = False,
        works: Sequence[float] = (),
        judged: Sequence[bool] = (),
        holder: Holder = NOBODY,
    ) -> Samples:
        """A sample of each image file or what is wrong with it, in their order.

        `kinds`, where given, has one for each, None for what was not told. More than two are a
        batch, unless they are one person's attempt, whose frames they are. `works`, where known,
        are those of decoding each; `judged`, where given, says of which the liveness is judged.
        `holder` is whose share of the queue they take. `Busy` at once where too many wait, or too
        long for `timeout_s`, `NotReady` once it closes, `DeadlinePassed` after `timeout_s`. A call
        that is cancelled is not extracted any more.
        """
        if not images:
            return []
        lane = _PAIRS if is_one_attempt or len(images) <= PAIR else _BATCHES
        works, count = works or list(map(decode_work, images)), len(images)
        if max(works) > LARGE:
            lane = _LARGE
        work, under_way = count + sum(works), self._under_way[lane]
        before = _count_before(under_way, holder) / 1000
        # One before which nothing comes shows how long it takes.
        if timeout_s is not None and before and self._pace.expect_s(before + work) > timeout_s:
            raise Busy("more waits here than the time of this request allows: ask again later")
        told = (images, kinds or [None] * count, judged or [False] * count, works)
        asked = list(zip(*told, strict=True))
        thousandths = round(1000 * work)
        under_way[holder] += thousandths
        try:
            async with self._lines[lane].enter(holder, min(count, self._most_of_call[lane])):
                return await self._queue.ask(asked, count, timeout_s, lane=lane)
        finally:
            under_way[holder] -= thousandths
            if not under_way[holder]:
                del under_way[holder]

    def close(self, timeout_s: float | None = None) -> None:
        """Takes no more, and returns when what waited is answered; not for the loop that a remote
        embedder is reached by."""
        self._queue.close(timeout_s)

    @property
    def is_closing(self) -> bool:
        """True where it takes no more."""
        return self._queue.is_closing

    @property
    def is_whole(self) -> bool:
        """True where every worker lives and gets on; one that has ended, or that a library does not
        let go, does not come back in this process."""
        return self._queue.is_alive and self._queue.longest_s < LOST_S

    @property
    def is_stuck(self) -> bool:
        """True where a worker has been at one batch for too long."""
        return self._queue.longest_s >= STUCK_S

    @property
    def is_alive(self) -> bool:
        """True where it is whole and gets on, and a remote embedder answers, as far as is known."""
        refused_at = self._refused_at
        is_refused = refused_at is not None and time.monotonic() - refused_at < DISTRUST_S
        return self.is_whole and not self.is_stuck and not is_refused

    def _extract(
        self, batch: Batch[Sequence[_Photograph], Samples]
    ) -> list[Samples | DeadlinePassed]:
        """What would be answered too late by now is not begun, so that all else is in time; the one
        with the most time always is, and shows how long it takes."""
        ends = {call: getattr(call, "expires_at", None) or math.inf for call in batch}
        kept, now = sorted(batch, key=ends.__getitem__, reverse=True), time.monotonic()
        while len(kept) > 1 and ends[kept[-1]] - now < self._pace.expect_s(_count_work(kept)):
            kept.pop()
        done = dict(zip(kept, self._extract_all(kept), strict=True))
        self._pace.note(_count_work(kept), time.monotonic() - now)
        return [done.get(call) or _late() for call in batch]

    def _extract_all(self, batch: Batch[Sequence[_Photograph], Samples]) -> list[Samples]:
        photographs = [one for call in batch for one in call.payload]
        images, kinds = [one[0] for one in photographs], [one[1] for one in photographs]
        judged = [one[2] for one in photographs]
        try:
            extracted = self._extractor.extract(images, kinds, judged)
            samples = make_samples(
                images,
                extracted,
                self._vault,
                kinds,
                with_crops=self._with_crops,
                second=self._second,
            )
        except Exception as error:
            self._note_failure(error, len(images))
            raise
        self._refused_at = None
        self._note_refused([one for one in extracted if isinstance(one, ImageError)])
        return share_out(batch, samples)

    def _note_refused(self, errors: Sequence[ImageError]) -> None:
        for code, count in Counter(one.code for one in errors).items():
            self._meter.add(PHOTOGRAPHS_REFUSED, code, by=count)
        faults = sum(isinstance(one, VectorUnusable) for one in errors)
        if faults:
            self._log.error("a model gave no finite numbers", count=faults)
        costly = sum(isinstance(one, ImageTooCostly) for one in errors)
        if costly:
            self._log.warning("photographs cost too much to decode", count=costly)

    def _note_failure(self, error: Exception, count: int) -> None:
        if isinstance(error, ServiceRefusal):
            self._refused_at = time.monotonic()
        is_foreseen = isinstance(error, SosieError | ServiceRefusal)
        behind = error.__cause__ if is_foreseen else error
        if behind is not None:
            # By type alone: its text may hold anything.
            self._log.error("extraction failed", kind=type(behind).__name__, count=count)

    def _observe(self, batch: Batch[Sequence[_Photograph], Samples], seconds: float) -> None:
        self._meter.observe(STAGE_SECONDS, seconds, _STAGE)
        self._meter.observe(BATCH_SIZE, weigh(batch), _STAGE)

    def _show_depth(self, held: int) -> None:
        self._meter.set(QUEUE_DEPTH, held, _QUEUE)
        self._meter.set(QUEUE_CAPACITY, self._capacity, _QUEUE)
