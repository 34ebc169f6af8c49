"""Faces, lines and holders through the registrar: within the tenant, and audited."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from time import monotonic

import numpy as np
import pytest

from engine.errors import StorageFailed
from engine.matching.checks.picture import FaceVector
from indexes.sharding.sharded_index import ShardedIndex
from indexes.sharding.shards import ShardPlan
from schema.decisions import Comparison
from serving.errors import Interrupted
from serving.registrar.open_registry import OpenRegistry
from serving.registrar.operations import finish_by
from serving.registrar.protocol import CallContext, HolderFace, LineTarget
from tests.indexes.sharding.local_shards import SlowToAdd
from tests.serving.registrar.conftest import WAIT_S

pytestmark = pytest.mark.anyio

BLUE = CallContext(actor="key:blue", correlator="c-2", carrier="blue", timeout_s=15)


def show(vector: np.ndarray) -> HolderFace:
    return HolderFace(FaceVector(vector))


async def test_nobody_is_shown_before_the_audit_is_durable(
    registrar, kept, population, context, busy
) -> None:
    request = population.request()
    await registrar.by(context).enroll(request)
    with busy(kept.last.registrar):
        calls = [
            asyncio.create_task(registrar.by(context).identify(population.person()[None], 0.5)),
            asyncio.create_task(
                registrar.by(context).check_document(request.document, show(population.person()))
            ),
            asyncio.create_task(
                registrar.by(context).read_lines(request.document, show(population.person()))
            ),
        ]
        done, _ = await asyncio.wait(calls, timeout=0.5)
        assert not done
    await asyncio.gather(*calls)
    actions = {entry.action for entry in kept.actions()}
    assert {"faces.identified", "holder.checked", "lines.read"} <= actions


async def test_one_photograph_and_a_mean_of_several_are_each_held_at_their_own_threshold(
    registrar, kept, population, context
) -> None:
    request = population.request()
    await registrar.by(context).enroll(request)
    thresholds = kept.last.thresholds
    single, fused = (
        thresholds.of(kind).same_document for kind in (Comparison.FUSED_TO_ONE, Comparison.FUSED)
    )
    assert single < fused
    [chunk] = kept.last.store.references()
    face, score = chunk.vectors[0], (single + fused) / 2
    aside = population.person()
    aside = aside - (aside @ face) * face
    probe = score * face + np.sqrt(1 - score**2) * aside / np.linalg.norm(aside)
    target = LineTarget(request.msisdn)
    for length, least in ((1.0, single), (0.9, fused)):
        shown = HolderFace(FaceVector(probe.astype(np.float32), length))
        check = await registrar.by(BLUE).check_line(target, shown)
        assert (check.is_match, check.threshold) == (least == single, least)


@pytest.fixture
def opened(open_home) -> Iterator[OpenRegistry]:
    registry = OpenRegistry(open_home(), 64)
    yield registry
    registry.close()


def test_a_change_between_the_two_readings_is_no_lag(opened, population, monkeypatch) -> None:
    read = opened.store.sequence

    def read_and_move() -> int:
        stored = read()
        opened.registrar.enroll([population.request()])
        return stored

    monkeypatch.setattr(opened.store, "sequence", read_and_move)
    mark = opened.read_watermark()
    assert (mark.sequence, mark.store_sequence, mark.is_behind) == (0, 0, False)
    assert opened.gallery.sequence == 1


def test_a_gallery_that_lacks_a_change_of_the_store_is_behind(opened, monkeypatch) -> None:
    monkeypatch.setattr(opened.store, "sequence", lambda: 7)
    mark = opened.read_watermark()
    assert (mark.sequence, mark.store_sequence, mark.is_behind) == (0, 7, True)


def test_a_change_that_the_gallery_is_making_is_neither_waited_for_nor_a_lag(
    open_home, population
) -> None:
    slow: list[SlowToAdd] = []

    def open_index(plan: ShardPlan) -> ShardedIndex:
        slow.append(SlowToAdd(plan))
        return ShardedIndex(plan, slow)

    opened = OpenRegistry(open_home(open_index=open_index), 64)
    with ThreadPoolExecutor(1) as pool:
        opened.registrar.enroll([population.request()])
        slow[0].hold()
        enrolled = opened.registrar.submit(population.request())
        assert slow[0].begun.wait(WAIT_S)
        reading = pool.submit(opened.read_watermark)
        wait([reading], WAIT_S)
        has_waited = not reading.done()
        slow[0].let.set()
        enrolled.result(WAIT_S)
        during, after = reading.result(), opened.read_watermark()
        opened.close()
    assert not has_waited
    assert (during.size, during.sequence, during.store_sequence) == (1, 1, 1)
    assert (after.size, after.sequence, after.store_sequence) == (2, 2, 2)


def test_a_store_that_cannot_be_read_is_not_taken_for_a_lag(opened, monkeypatch) -> None:
    def fail() -> int:
        raise StorageFailed("the database is gone")

    monkeypatch.setattr(opened.store, "sequence", fail)
    mark = opened.read_watermark()
    assert (mark.store_sequence, mark.is_behind) == (None, False)


def test_work_that_has_begun_is_waited_for_a_little_longer() -> None:
    work: Future[str] = Future()
    work.set_running_or_notify_cancel()
    threading.Timer(0.2, work.set_result, ["late"]).start()
    heard: list[str] = []
    result = asyncio.run(finish_by(work, monotonic() + 0.05, on_result=heard.append, grace_s=5))
    assert (result, heard) == ("late", ["late"])


async def test_work_that_does_not_end_is_left_and_heard_of_all_the_same() -> None:
    work: Future[str] = Future()
    work.set_running_or_notify_cancel()
    given_up, heard = [], []
    with pytest.raises(Interrupted):
        await finish_by(
            work, monotonic() + 0.05, give_up=lambda: given_up.append(True), on_result=heard.append
        )
    work.set_result("at last")
    async with asyncio.timeout(120):
        while not heard:
            await asyncio.sleep(0)
    assert (given_up, heard) == ([True], ["at last"])
