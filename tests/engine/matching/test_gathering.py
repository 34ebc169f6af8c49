"""How long the registrar waits for company before it decides a batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from engine.matching.registrar import DecidedBatch, Observer, Registrar, RegistrarConfig
from engine.matching.requests import Answer
from engine.registry.records import AuditEntry

LONG_S = 300
"""Nobody may wait for so long in these tests: whoever should not wait would be seen."""
ANSWER_S = 20.0


class Sizes(Observer):
    """How many were decided together, batch after batch."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def observe_batch(self, batch: DecidedBatch) -> None:
        self.seen.append(len(batch.outcomes))


@pytest.fixture
def sizes() -> Sizes:
    return Sizes()


@pytest.fixture
def registrar(lab: Any, busy: Any, sizes: Sizes) -> Iterator[Registrar]:
    """It has just decided two together, and gathers three before it waits no longer."""
    config = RegistrarConfig(batch_size=3, gather_s=LONG_S)
    with lab.registrar(config, observer=sizes) as opened:
        with busy(opened):
            futures = [opened.submit(lab.request()) for _ in range(2)]
        for future in futures:
            future.result(ANSWER_S)
        yield opened


def test_after_a_batch_of_several_the_next_is_waited_for(
    registrar: Registrar, lab: Any, sizes: Sizes
) -> None:
    futures = [registrar.submit(lab.request()) for _ in range(3)]
    assert all(isinstance(future.result(ANSWER_S), Answer) for future in futures)
    registrar.run(lambda *_: None)
    assert sizes.seen == [2, 3]


def test_who_comes_alone_is_not_made_to_wait(lab: Any, sizes: Sizes) -> None:
    with lab.registrar(RegistrarConfig(gather_s=LONG_S), observer=sizes) as registrar:
        for _ in range(3):
            assert isinstance(registrar.submit(lab.request()).result(ANSWER_S), Answer)
    assert sizes.seen == [1, 1, 1]


@pytest.mark.parametrize("audits", [True, False])
def test_work_of_another_kind_ends_the_wait(registrar: Registrar, lab: Any, audits: bool) -> None:
    future = registrar.submit(lab.request())
    if audits:
        registrar.keep(AuditEntry("test", "lines.read", "subject", {}), ANSWER_S)
    else:
        registrar.schedule(lambda *_: None).result(ANSWER_S)
    registrar.run(lambda *_: None)
    assert isinstance(future.result(ANSWER_S), Answer)


def test_who_leaves_meanwhile_ends_no_thread_and_is_not_decided(
    registrar: Registrar, lab: Any, sizes: Sizes
) -> None:
    assert registrar.submit(lab.request()).cancel()
    futures = [registrar.submit(lab.request()) for _ in range(3)]
    for future in futures:
        future.result(ANSWER_S)
    registrar.run(lambda *_: None)
    assert sizes.seen == [2, 3]


def test_a_registrar_that_closes_decides_at_once_what_gathers(
    registrar: Registrar, lab: Any
) -> None:
    future = registrar.submit(lab.request())
    registrar.close()
    assert isinstance(future.result(ANSWER_S), Answer)
