"""One writer: batches in order of arrival, no error but one's own, store and gallery in step."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from msgspec import structs

from engine.errors import GalleryBehind, SosieError
from engine.matching import requests as intake
from engine.matching.documents import CheckedDocument, check_document
from engine.matching.holders import erase_holder
from engine.matching.requests import Answer, EnrollmentRequest
from indexes.gallery import Gallery
from indexes.segmented.segments import SegmentedIndex
from schema.documents import Document
from schema.reasons import Decision


def test_of_sixteen_racing_enrollments_of_one_face_exactly_one_is_new(lab) -> None:
    rounds = 50
    with lab.registrar() as registrar, ThreadPoolExecutor(16) as pool:
        for _ in range(rounds):
            person = lab.people.person()
            requests = [lab.request(person) for _ in range(16)]
            barrier = threading.Barrier(16)

            def race(request: EnrollmentRequest, barrier: Any = barrier) -> Decision:
                barrier.wait(120)
                outcome = registrar.submit(request).result(120)
                assert not isinstance(outcome, SosieError)
                return outcome.decision

            decisions = list(pool.map(race, requests))
            assert decisions.count(Decision.APPROVED) == 1
            assert decisions.count(Decision.REJECTED) == 15
    assert lab.store.counts()["live_references"] == rounds


def test_an_unforeseen_error_hits_one_request_and_shows_none_of_its_text(lab, monkeypatch) -> None:
    def check(given: Document, on: date) -> CheckedDocument:
        if given.name == "Unlucky":
            raise OSError("as no check of ours should: unlucky")
        return check_document(given, on)

    monkeypatch.setattr(intake, "check_document", check)
    bad = lab.request()
    bad = replace(bad, document=structs.replace(bad.document, name="Unlucky"))
    with lab.registrar() as registrar:
        outcomes = registrar.enroll([lab.request(), bad, lab.request()])
    assert isinstance(outcomes[1], SosieError)
    assert "unlucky" not in str(outcomes[1])
    assert [type(outcome) for outcome in outcomes[::2]] == [Answer, Answer]


class BrokenGallery(Gallery):
    """A gallery that has run out of memory."""

    is_broken = False

    def add(self, *args: Any) -> None:
        if self.is_broken:
            raise MemoryError
        super().add(*args)

    def remove(self, *args: Any) -> None:
        if self.is_broken:
            raise MemoryError
        super().remove(*args)


@pytest.mark.parametrize("change", ["enroll", "erase"])
def test_what_is_durable_but_not_visible_stops_the_registrar(lab, change: str) -> None:
    gallery = BrokenGallery(SegmentedIndex(lab.vault.dim))
    first, second = lab.request(), lab.request()
    with lab.registrar(gallery=gallery) as registrar:
        registrar.enroll([first])
        gallery.is_broken = True
        if change == "enroll":
            assert isinstance(registrar.enroll([second])[0], GalleryBehind)
        else:
            with pytest.raises(GalleryBehind):
                erase_holder(registrar, lab.store, first.document, "test")
        gallery.is_broken = False
        assert isinstance(registrar.enroll([lab.request()])[0], GalleryBehind)
        with pytest.raises(GalleryBehind):
            registrar.submit(lab.request())
    with lab.registrar() as reopened:
        expected = 2 if change == "enroll" else 0
        assert len(reopened.gallery) == expected
        assert reopened.enroll([second])[0].is_repeated == (change == "enroll")


def test_a_registrar_does_not_start_on_a_gallery_that_lags(lab) -> None:
    with lab.registrar() as registrar:
        registrar.enroll([lab.request()])
    lagging = Gallery(SegmentedIndex(lab.vault.dim))
    with pytest.raises(GalleryBehind), lab.registrar(gallery=lagging):
        pytest.fail("started")
    with lab.registrar() as registrar:
        assert len(registrar.gallery) == 1
