"""The registrar's queue: bounded, in order, gathered into batches, one payload for each key."""

import asyncio
import random
import threading
import time
from collections import defaultdict
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from engine import batching
from engine.errors import (
    DeadlinePassed,
    GalleryBehind,
    IdempotencyInFlight,
    IdempotencyMismatch,
    NotFound,
    Overloaded,
    SchemaMismatch,
    SosieError,
)
from engine.matching.lines import close_line
from engine.matching.registrar import (
    BoundedRunner,
    DecidedBatch,
    Observer,
    Registrar,
    RegistrarConfig,
)
from engine.matching.requests import Answer, EnrollmentRequest
from engine.registry.audit import AuditEntry, verify_chain
from engine.registry.database import restructuring
from indexes.errors import ShardLost
from indexes.gallery import Gallery
from indexes.segmented.segments import SegmentedIndex
from schema.reasons import Decision

LATER_S = 3600


def enroll(registrar: Registrar, *requests: EnrollmentRequest) -> list[Any]:
    return registrar.enroll(requests)


def test_a_key_in_flight_is_a_conflict_and_a_full_queue_refuses(lab, busy) -> None:
    request = lab.request()
    with lab.registrar(RegistrarConfig(queue_size=2)) as registrar:
        with busy(registrar):
            future = registrar.submit(request)
            with pytest.raises(IdempotencyInFlight):
                registrar.submit(request)
            registrar.submit(lab.request())
            with pytest.raises(Overloaded):
                registrar.submit(lab.request())
        assert future.result(120).decision is Decision.APPROVED
        assert enroll(registrar, request)[0].is_repeated


def test_what_is_being_judged_cannot_be_cancelled_and_is_found_by_its_key(lab, monkeypatch) -> None:
    judging, go_on = threading.Event(), threading.Event()
    request = lab.request()

    class SlowGallery(Gallery):
        def range_search(self, *arguments: Any) -> Any:
            judging.set()
            assert go_on.wait(120)
            return super().range_search(*arguments)

    with lab.registrar(gallery=SlowGallery(SegmentedIndex(lab.vault.dim))) as registrar:
        future = registrar.submit(request, timeout_s=200)
        assert judging.wait(120)
        assert not future.cancel()
        monkeypatch.setattr(batching, "monotonic", lambda: time.monotonic() + LATER_S)
        go_on.set()
        assert future.result(120).decision is Decision.APPROVED
        assert enroll(registrar, request)[0].is_repeated


def test_those_who_audit_and_those_who_change_take_turns(lab, busy) -> None:
    done: list[str] = []
    with lab.registrar(RegistrarConfig(queue_size=3)) as registrar:
        with busy(registrar):
            waiting = [registrar.schedule(lambda *_: done.append("change")) for _ in range(3)]
            note = registrar.submit_audit([AuditEntry("test", "lines.read", "subject", {})])
            note.add_done_callback(lambda _: done.append("audit"))
        for future in (*waiting, note):
            future.result(120)
    assert done == ["audit", "change", "change", "change"]


@pytest.mark.parametrize("way", ["deadline", "given up before", "given up meanwhile"])
def test_a_bounded_change_that_has_not_begun_in_time_is_not_made(
    lab, registrar, busy, way: str
) -> None:
    request = lab.request()
    enroll(registrar, request)
    runner = BoundedRunner(registrar, timeout_s=0.1 if way == "deadline" else 30)
    with busy(registrar):
        if way == "given up before":
            runner.give_up()
        elif way == "given up meanwhile":
            threading.Timer(0.1, runner.give_up).start()
        with pytest.raises(DeadlinePassed):
            close_line(runner, lab.store, request.msisdn, "test")
    assert registrar.queued == 0
    assert close_line(BoundedRunner(registrar), lab.store, request.msisdn, "test")
    with pytest.raises(NotFound):
        close_line(BoundedRunner(registrar), lab.store, request.msisdn, "test")


class Counting(Observer):
    """Keeps the batches, and fails."""

    def __init__(self) -> None:
        self.batches: list[DecidedBatch] = []

    def observe_batch(self, batch: DecidedBatch) -> None:
        self.batches.append(batch)
        raise RuntimeError("who counts must not stop who decides")


def test_each_batch_is_observed_with_its_times_and_outcomes(lab, busy) -> None:
    observer = Counting()
    with lab.registrar(observer=observer) as registrar, busy(registrar):
        futures = [registrar.submit(lab.request()) for _ in range(3)]
        futures.append(registrar.submit(lab.request(idempotency_key="")))
    assert all(future.done() for future in futures)
    (batch,) = observer.batches
    kinds = [type(outcome) for outcome in batch.outcomes]
    assert kinds[:3] == [Answer] * 3
    assert issubclass(kinds[3], SosieError)
    assert min(batch.judge_s, batch.publish_s) > 0


def test_what_a_loop_asks_in_one_go_is_decided_in_one_batch(lab) -> None:
    observer = Counting()

    async def ask(registrar: Registrar) -> None:
        loop, futures = asyncio.get_running_loop(), []
        for _ in range(3):
            futures.append(registrar.submit(lab.request(), asked_on=loop))
            # A thread that was woken by the first of them would take it now.
            time.sleep(0.05)
        await asyncio.gather(*map(asyncio.wrap_future, futures))

    with lab.registrar(observer=observer) as registrar:
        # Its thread has begun, and waits.
        while not registrar._queue._idle:
            time.sleep(0.001)
        asyncio.run(ask(registrar))
    assert [len(one.outcomes) for one in observer.batches] == [3]


def test_a_gallery_that_has_lost_a_shard_stops_the_registrar(lab) -> None:
    class Torn(Gallery):
        is_torn = False

        def range_search(self, *arguments: Any) -> Any:
            if self.is_torn:
                raise ShardLost("a shard is gone")
            return super().range_search(*arguments)

    gallery = Torn(SegmentedIndex(lab.vault.dim))
    with lab.registrar(gallery=gallery) as registrar:
        assert registrar.failure is None
        enroll(registrar, lab.request())
        gallery.is_torn = True
        assert isinstance(enroll(registrar, lab.request())[0], GalleryBehind)
        gallery.is_torn = False
        with pytest.raises(GalleryBehind):
            registrar.submit(lab.request())
        assert isinstance(registrar.failure, GalleryBehind)
    assert lab.store.counts()["enrollments"] == 1


def test_a_registry_that_was_upgraded_stops_the_registrar(lab) -> None:
    with lab.registrar() as registrar:
        enroll(registrar, lab.request())
        with restructuring(lab.store.engine) as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        assert isinstance(enroll(registrar, lab.request())[0], SchemaMismatch)
        with pytest.raises(SchemaMismatch, match="start it again"):
            registrar.submit(lab.request())
        assert isinstance(registrar.failure, SchemaMismatch)
    assert lab.store.counts()["enrollments"] == 1


def test_a_stopped_registrar_tells_who_waits_and_commits_no_more(lab, registrar, busy) -> None:
    with busy(registrar):
        waiting = registrar.submit(lab.request())
        registrar.stop(GalleryBehind("the gallery is opened again"))
    assert isinstance(waiting.result(120), GalleryBehind)
    with pytest.raises(GalleryBehind):
        registrar.run(lambda *_: None)
    assert lab.store.counts()["enrollments"] == 0


KEYS, OUTLETS, ROUNDS = 8, 5, 16
SMALL = RegistrarConfig(batch_size=4, queue_size=4)
"""So that batches hold several keys, and some requests find no room."""
REFUSALS = (DeadlinePassed, IdempotencyInFlight, IdempotencyMismatch, Overloaded)


def test_of_two_payloads_under_one_key_one_at_most_is_ever_decided(lab) -> None:
    """However they come: together, given up, out of time, refused, again after an answer."""
    one = [lab.request() for _ in range(KEYS)]
    payloads = [one, [replace(request, msisdn=lab.request().msisdn) for request in one]]
    told: list[tuple[str, int, Any]] = []

    def send(registrar: Registrar, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(ROUNDS):
            place, payload = chance.randrange(KEYS), chance.randrange(2)
            request = payloads[payload][place]
            told.append((request.idempotency_key, payload, ask(registrar, request, chance)))

    with lab.registrar(SMALL) as registrar:
        with ThreadPoolExecutor(OUTLETS) as outlets:
            list(outlets.map(lambda seed: send(registrar, seed), range(OUTLETS)))
        sure = [(k, p, registrar.enroll([payloads[p][k]])[0]) for k in range(KEYS) for p in (0, 1)]
    told += [(one[place].idempotency_key, payload, outcome) for place, payload, outcome in sure]

    decided: dict[str, set[tuple[int, str]]] = defaultdict(set)
    for key, payload, outcome in told:
        if isinstance(outcome, Answer):
            decided[key].add((payload, outcome.enrollment_id))
        else:
            assert isinstance(outcome, (*REFUSALS, CancelledError)), outcome
    assert len(decided) == KEYS
    assert all(len(answers) == 1 for answers in decided.values())
    assert sum(isinstance(outcome, IdempotencyMismatch) for *_, outcome in sure) == KEYS
    assert lab.store.counts()["enrollments"] == KEYS


def ask(registrar: Registrar, request: EnrollmentRequest, chance: random.Random) -> Any:
    """What it is told in the end; it may give up, or have little time."""
    timeout_s = chance.choice((None, 0.001, 0.01))
    try:
        future = registrar.submit(request, timeout_s=timeout_s)
        if chance.random() < 0.2:
            future.cancel()
        return future.result(120)
    except (*REFUSALS, CancelledError) as refused:
        return refused


def entry(serial: int) -> AuditEntry:
    return AuditEntry("test", "lines.read", f"subject-{serial}", {"shown": True})


def subjects(lab: Any) -> list[str]:
    return [item.subject for item in lab.entries("lines.read")]


@pytest.mark.both_databases
def test_an_acknowledged_entry_is_durable(lab, registrar) -> None:
    registrar.audit(entry(1))
    assert subjects(lab) == ["subject-1"]
    assert registrar.submit_audit([]).done()


@pytest.mark.both_databases
def test_notes_that_gather_share_transactions_and_all_are_kept(lab, busy) -> None:
    sizes: list[int] = []

    class Sizes(Observer):
        def observe_audit(self, entries: int, seconds: float) -> None:
            assert seconds >= 0
            sizes.append(entries)

    count = 400
    with lab.registrar(observer=Sizes()) as registrar, ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda serial: registrar.audit(entry(serial), 30), range(count)))
        with busy(registrar):
            assert sum(sizes) == count
            assert len(sizes) < count / 4
            notes = [registrar.submit_audit([entry(count + serial)] * 2) for serial in range(50)]
            assert registrar.audit_queued == 100
        for note in notes:
            note.result(120)
    assert sizes[-1] == 100
    assert sorted(set(subjects(lab))) == sorted(f"subject-{n}" for n in range(count + 50))
    assert verify_chain(lab.store).intact


@pytest.mark.both_databases
def test_a_read_that_cannot_be_audited_in_time_is_refused(lab, busy) -> None:
    with lab.registrar() as registrar, busy(registrar), pytest.raises(DeadlinePassed):
        registrar.audit(entry(1), 0.1)
