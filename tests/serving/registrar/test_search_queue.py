"""Searches of many callers: one pass for all who wait, and never behind the writer."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from engine.matching.verification import identify
from indexes.errors import SearchInvalid, VectorInvalid
from serving.deployment.deployment import Deployment
from serving.errors import Busy
from serving.registrar.open_registry import SearchQueue

CAPACITY = 64


class Passes:
    """How many probes each pass took; a pass can be held up."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, size: int, seconds: float) -> None:
        assert seconds >= 0
        self.sizes.append(size)
        assert self.go_on.wait(120)


@pytest.fixture
def deployment(open_home, population) -> Iterator[Deployment]:
    with open_home() as opened:
        opened.registrar.enroll([population.request() for _ in range(3)])
        yield opened


@pytest.fixture
def passes() -> Passes:
    return Passes()


@pytest.fixture
def searches(deployment, passes) -> Iterator[SearchQueue]:
    gallery = deployment.registrar.gallery
    queue = SearchQueue(gallery, deployment.store, CAPACITY, passes)
    yield queue
    passes.go_on.set()
    queue.close()


@pytest.fixture
def held(searches, passes, population) -> Passes:
    """The thread of the searches is held up after a pass; `go_on` lets it."""
    passes.go_on.clear()
    searches.submit(population.person()[None], 0.5).result(120)
    return passes


def test_what_gathers_during_a_search_is_the_next_search_with_one_look_up(
    deployment, searches, held, population, monkeypatch
) -> None:
    gallery = deployment.registrar.gallery
    known = gallery.vectors(gallery.ids)
    look_ups: list[Any] = []
    look_up = deployment.store.documents_of

    def count(ids: Any) -> dict[int, str]:
        look_ups.append(ids)
        return look_up(ids)

    monkeypatch.setattr(deployment.store, "documents_of", count)
    calls = [searches.submit(row[None], 0.5) for row in known]
    calls += [searches.submit(population.person()[None], 0.5) for _ in range(10)]
    mixed = searches.submit(np.stack([population.person(), known[1]]), 0.5)
    assert searches.queued == 15
    held.go_on.set()
    answers = [call.result(120) for call in calls]
    assert [len(one[0].candidates) for one in answers] == [1] * 3 + [0] * 10
    owners = look_up(gallery.ids.tolist())
    found = [one[0].candidates[0] for one in answers[:3]]
    assert [owners[each.reference_id] for each in found] == [each.document_id for each in found]
    assert [len(one.candidates) for one in mixed.result(120)] == [0, 1]
    searches.close()
    assert held.sizes == [1, 15]
    assert len(look_ups) == 1


def test_calls_with_their_own_thresholds_get_their_own_answers(
    deployment, searches, held, monkeypatch
) -> None:
    gallery = deployment.registrar.gallery
    probe = gallery.vectors(gallery.ids[:1])
    passes: list[int] = []

    def count(probes: Any, *arguments: Any, **options: Any) -> Any:
        passes.append(len(probes))
        return identify(probes, *arguments, **options)

    monkeypatch.setattr("serving.registrar.open_registry.identify", count)
    calls = [searches.submit(probe, threshold) for threshold in (-1.0, 0.5, -1.0)]
    held.go_on.set()
    assert [len(call.result(120)[0].candidates) for call in calls] == [3, 1, 3]
    assert len(passes) == 2


def test_searches_answer_while_the_writer_is_blocked(
    deployment, searches, population, busy
) -> None:
    with busy(deployment.registrar):
        answers = searches.submit(population.person()[None], 0.5).result(120)
    assert answers[0].searched == 3


def test_a_full_queue_refuses_at_once_and_a_large_call_alone_is_taken(
    searches, held, population
) -> None:
    probes = np.stack([population.person() for _ in range(CAPACITY + 1)])
    large = searches.submit(probes, 0.5)
    with pytest.raises(Busy):
        searches.submit(probes[:1], 0.5)
    held.go_on.set()
    assert len(large.result(120)) == len(probes)


def test_one_bad_probe_spoils_no_other_search(searches, held, population) -> None:
    good = searches.submit(population.person()[None], 0.5)
    for probes in (np.zeros((1, 128), np.float32), np.ones((1, 3), np.float32)):
        with pytest.raises(VectorInvalid):
            searches.submit(probes, 0.5)
    with pytest.raises(SearchInvalid):
        searches.submit(population.person()[None], float("nan"))
    held.go_on.set()
    assert len(good.result(120)) == 1


def test_of_very_many_candidates_the_best_are_answered_and_all_are_counted(
    deployment, searches, monkeypatch
) -> None:
    monkeypatch.setattr("serving.registrar.open_registry.MOST_CANDIDATES", 2)
    gallery = deployment.registrar.gallery
    probe = gallery.vectors(gallery.ids[1:2])
    (cut,) = searches.submit(probe, -1.0).result(120)
    (whole,) = identify(probe, gallery, deployment.store, threshold=-1.0)
    assert cut.candidates == whole.candidates[:2]
    assert (cut.found, cut.found_documents) == (whole.found, whole.found_documents) == (3, 3)
