"""What is searched for before it is decided: every decision is the one of a search at its turn."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from engine.errors import StorageFull
from engine.matching.calibration import Thresholds
from engine.matching.checks.order import replay
from engine.matching.comparison import fuse_vectors
from engine.matching.holders import erase_holder
from engine.matching.registrar import Registrar, RegistrarConfig
from engine.matching.requests import EnrollmentRequest
from engine.registry.references import NewReference
from engine.registry.rows import choose
from engine.registry.writer import Writer
from indexes.gallery import Gallery
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from schema.reasons import Decision, Reason
from tests.engine.matching.conftest import DIM, THRESHOLDS

WAIT_S = 120


class WatchedGallery(Gallery):
    """Counts the searches ahead, which may be made to fail; an add waits for the second."""

    def __init__(self) -> None:
        super().__init__(SegmentedIndex(DIM, SegmentsConfig(head_rows=4, fan=2)))
        self.ahead = threading.Semaphore(0)
        self.fails = self.holds_adds = False

    def range_search(self, *arguments: Any) -> Any:
        found = super().range_search(*arguments)
        if threading.current_thread().name == "registrar-ahead":
            self.ahead.release()
            if self.fails:
                raise MemoryError
        return found

    def await_search(self) -> None:
        assert self.ahead.acquire(timeout=WAIT_S)

    def add(self, *arguments: Any) -> None:
        if self.holds_adds:
            self.await_search()
        super().add(*arguments)


@dataclass
class LaterRunner:
    """Puts changes in the queue, and keeps their futures."""

    registrar: Registrar
    futures: list[Future[Any]] = field(default_factory=list)

    @property
    def gallery(self) -> Gallery:
        return self.registrar.gallery

    def run(self, perform: Callable[[Writer, datetime], Any]) -> Any:
        self.futures.append(self.registrar.schedule(perform))


def watermarks(lab: Any, outcome: Any) -> tuple[int, int]:
    recorded = lab.store.enrollment(outcome.enrollment_id)
    assert replay(recorded).agrees
    marks = recorded.evidence.watermarks
    assert marks.decided == recorded.sequence
    return marks.searched, marks.decided


def probe_of(request: EnrollmentRequest) -> Any:
    return fuse_vectors(request.live.vector, request.portrait.vector)


class Oracle:
    """Decides one after the other by brute force over what is enrolled then."""

    def __init__(self) -> None:
        self.enrolled: dict[str, Any] = {}

    def decide(self, request: EnrollmentRequest) -> tuple[Decision, float | None]:
        probe = probe_of(request).astype(np.float64)
        scores = [float(one.astype(np.float64) @ probe) for one in self.enrolled.values()]
        best = max((one for one in scores if one >= THRESHOLDS.review), default=None)
        if best is None:
            self.enrolled[request.document.number] = probe_of(request)
            return Decision.APPROVED, None
        is_certain = best >= THRESHOLDS.certain
        return Decision.REJECTED if is_certain else Decision.REVIEW, best

    def erase(self, number: str) -> None:
        self.enrolled.pop(number, None)


def test_decisions_that_overlap_are_those_of_brute_force_one_after_the_other(lab, busy) -> None:
    chance, oracle, gallery = random.Random(7), Oracle(), WatchedGallery()
    asked: list[tuple[Any, Any, Decision, float | None]] = []
    stale = 0
    with lab.registrar(RegistrarConfig(batch_size=3), gallery=gallery) as registrar:
        for _ in range(12):
            faces, documents = [lab.people.person() for _ in range(3)], []
            runner = LaterRunner(registrar)
            with busy(registrar):
                for _ in range(16):
                    if documents and chance.random() < 0.3:
                        document = chance.choice(documents)
                        erase_holder(runner, lab.store, document, "test")
                        oracle.erase(document.number)
                        continue
                    request = lab.request(chance.choice(faces))
                    documents.append(request.document)
                    future = registrar.submit(request)
                    asked.append((request, future, *oracle.decide(request)))
                gallery.await_search()
            for future in runner.futures:
                # Of a document that nobody has, or has any more, there is nothing to erase.
                future.exception(WAIT_S)
        for _, future, decision, best in asked:
            outcome = future.result(WAIT_S)
            assert outcome.decision is decision
            assert outcome.decided.scores.best_candidate == pytest.approx(best, abs=1e-6)
            searched_at, decided_at = watermarks(lab, outcome)
            assert searched_at <= decided_at
            stale += searched_at < decided_at
    assert stale > 12
    assert len(registrar.gallery) == lab.store.counts()["live_references"] == len(oracle.enrolled)


def test_who_is_added_after_the_search_is_compared(lab, busy) -> None:
    person, gallery = lab.people.person(), WatchedGallery()
    with lab.registrar(RegistrarConfig(batch_size=1), gallery=gallery) as registrar:
        with busy(registrar):
            first, second = (registrar.submit(lab.request(person)) for _ in range(2))
            gallery.await_search()
            gallery.holds_adds = True
        assert first.result(WAIT_S).decision is Decision.APPROVED
        assert second.result(WAIT_S).reasons == (Reason.DUPLICATE_IDENTITY,)
    assert watermarks(lab, second.result()) == (0, 1)


def test_who_is_erased_after_the_search_is_no_candidate(lab, busy) -> None:
    person, first = lab.newcomer()
    gallery = WatchedGallery()
    with lab.registrar(gallery=gallery) as registrar:
        registrar.enroll([first])
        with busy(registrar):
            erase_holder(LaterRunner(registrar), lab.store, first.document, "test")
            again = registrar.submit(lab.request(person))
            gallery.await_search()
        assert again.result(WAIT_S).decision is Decision.APPROVED
    assert watermarks(lab, again.result()) == (1, 2)


def test_a_threshold_that_falls_after_the_search_is_searched_at(lab, busy) -> None:
    def find(references: int) -> Thresholds:
        return structs.replace(THRESHOLDS, review=0.6 if references > 1 else 0.5)

    _, leaving = lab.newcomer()
    staying, gallery = lab.request(), WatchedGallery()
    alike = lab.people.between(probe_of(staying), 0.55)
    photographs = {
        name: replace(staying.live, vector=alike, digest=bytes([number]) * 32)
        for number, name in enumerate(("live", "portrait"))
    }
    with lab.registrar(gallery=gallery, thresholds_for=find) as registrar:
        for request in (staying, leaving):
            registrar.enroll([request])
        with busy(registrar):
            erase_holder(LaterRunner(registrar), lab.store, leaving.document, "test")
            asked = registrar.submit(lab.request(**photographs))
            gallery.await_search()
        assert asked.result(WAIT_S).reasons == (Reason.POSSIBLE_DUPLICATE,)
    assert watermarks(lab, asked.result()) == (3, 3)


def test_a_search_ahead_that_fails_is_made_again_and_one_before_a_failed_commit_holds(
    lab, busy, monkeypatch
) -> None:
    person, gallery = lab.people.person(), WatchedGallery()
    commit, commits = Writer.commit, threading.Event()

    def fail_once(writer: Writer, changes: Any) -> Any:
        if choose(changes, NewReference) and not commits.is_set():
            commits.set()
            gallery.await_search()
            raise StorageFull("the disk is full")
        return commit(writer, changes)

    monkeypatch.setattr(Writer, "commit", fail_once)
    with lab.registrar(RegistrarConfig(batch_size=1), gallery=gallery) as registrar:
        with busy(registrar):
            failed, second = (registrar.submit(lab.request(person)) for _ in range(2))
            gallery.await_search()
        assert isinstance(failed.result(WAIT_S), StorageFull)
        assert second.result(WAIT_S).decision is Decision.APPROVED
        assert watermarks(lab, second.result()) == (0, 0)
        gallery.fails = True
        with busy(registrar):
            third = registrar.submit(lab.request(person))
            gallery.await_search()
        assert third.result(WAIT_S).reasons == (Reason.DUPLICATE_IDENTITY,)
