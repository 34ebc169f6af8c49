"""How the service opens itself, and what it says while it is not open."""

import asyncio
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from engine.errors import SosieError
from engine.registry.audit import authenticate_head
from indexes import gallery as galleries
from indexes.exact import exact8
from indexes.exact.scanner import Scanner
from indexes.sharding.sharded_index import ShardedIndex
from indexes.sharding.shards import ShardPlan
from schema.phases import Phase
from schema.reasons import Decision
from serving.deployment.deployment import Deployment, load_vault
from serving.errors import Interrupted, NotReady, ServiceRefusal
from serving.registrar.open_registry import OpenRegistry
from serving.registrar.service import LOOKS_BEHIND
from serving.settings.settings import load_settings
from tests.indexes.sharding.local_shards import LocalShard, SlowToAdd
from tests.serving.conftest import hold_lease
from tests.serving.local_registrar import LocalRegistrar
from tests.serving.registrar.conftest import WAIT_S, reach, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def other_writer(home) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the writer's lease."""
    with hold_lease(home) as process:
        yield process


async def test_it_is_not_ready_before_what_searches_run_is_compiled(serve, monkeypatch) -> None:
    compiling, released = threading.Event(), threading.Event()

    def compile_slowly(scanner: Scanner) -> None:
        compiling.set()
        assert released.wait(WAIT_S)
        exact8.compile_kernels(scanner)

    monkeypatch.setattr(galleries, "compile_kernels", compile_slowly)
    registrar: LocalRegistrar = serve()
    assert await asyncio.to_thread(compiling.wait, WAIT_S)
    assert (await registrar.status()).phase is Phase.REPLAYING
    released.set()
    await reach(registrar)


async def test_the_lease_is_waited_for_and_taken_when_its_holder_is_killed(
    serve, population, context, other_writer
) -> None:
    registrar: LocalRegistrar = serve()
    await reach(registrar, Phase.WAITING)
    waiting = await until(registrar, lambda status: status.store_sequence is not None)
    assert str(other_writer.pid) in waiting.detail
    assert (waiting.store_sequence, waiting.sequence, waiting.is_ready) == (0, None, False)
    with pytest.raises(NotReady) as refused:
        await registrar.by(context).enroll(population.request())
    assert refused.value.retry_after_s
    other_writer.kill()
    ready = await reach(registrar)
    assert ready.is_ready
    assert ready.boot_id not in ("", waiting.boot_id)
    assert (await registrar.by(context).enroll(population.request())).decision is Decision.APPROVED


async def test_a_failure_to_open_is_told_without_its_text_and_tried_again(
    serve, open_home, lines, monkeypatch
) -> None:
    monkeypatch.setattr("serving.registrar.service.FIRST_RETRY_S", 0.1)
    failures = [OSError("secret 1"), SosieError("the database cannot be opened")] * 2

    def open_at_last() -> Deployment:
        if failures:
            raise failures.pop()
        return open_home()

    registrar: LocalRegistrar = serve(open_at_last)
    failed = await reach(registrar, Phase.FAILED)
    assert failed.detail
    assert failed.store_sequence is None
    await reach(registrar)
    assert "secret" not in str(lines.entries)
    shown = [line["detail"] for line in lines.entries if line["event"] == "phase"]
    assert "the database cannot be opened" in shown


class Unadopted(LocalShard):
    """A shard that no later writer takes up: it ends when it is left."""

    def release(self) -> None:
        self.close()


@pytest.fixture
def shards(open_home) -> tuple[Callable[[], Deployment], list[Any]]:
    """Opens the deployment on two shards, and the indexes that it has opened so."""
    opened: list[ShardedIndex] = []

    def open_index(plan: ShardPlan) -> ShardedIndex:
        opened.append(ShardedIndex(plan, [Unadopted(plan) for _ in range(2)]))
        return opened[-1]

    return lambda: open_home(open_index=open_index), opened


async def test_after_a_lost_shard_nothing_is_answered_from_a_part_and_all_is_opened_again(
    serve, population, context, shards
) -> None:
    open_sharded, opened = shards
    people = [population.person() for _ in range(8)]
    registrar: LocalRegistrar = serve(open_sharded)
    before = await reach(registrar)
    for person in people:
        await registrar.by(context).enroll(population.request(person))
    opened[-1].shards[1].close()
    refused = 0
    while True:
        try:
            found = [await registrar.by(context).identify(one[None], 0.5) for one in people]
        except ServiceRefusal:
            refused += 1
            await asyncio.sleep(0.02)
            continue
        assert all(len(answers[0].candidates) == 1 for answers in found)
        break
    assert refused
    after = await reach(registrar)
    assert after.boot_id != before.boot_id
    assert after.gallery_size == len(people)
    assert len(opened) == 2


async def test_a_shard_that_ends_while_nobody_calls_is_noticed(serve, shards) -> None:
    open_sharded, opened = shards
    registrar: LocalRegistrar = serve(open_sharded)
    before = await reach(registrar)
    opened[-1].shards[0].close()
    await until(registrar, lambda status: status.boot_id != before.boot_id)
    assert (await reach(registrar)).is_ready


async def test_a_change_that_waits_for_a_shard_takes_neither_readiness_nor_the_store_away(
    serve, keep, population, context, monkeypatch
) -> None:
    slow: list[SlowToAdd] = []
    looks, look = [0], OpenRegistry.read_watermark

    def open_index(plan: ShardPlan) -> ShardedIndex:
        slow.append(SlowToAdd(plan))
        return ShardedIndex(plan, slow[-1:])

    def count(opened: OpenRegistry) -> Any:
        mark = look(opened)
        looks[0] += 1
        return mark

    monkeypatch.setattr("serving.registrar.service.LOOK_EVERY_S", 0.01)
    registrar: LocalRegistrar = serve(keep(open_index=open_index))
    before = await reach(registrar)
    slow[0].hold()
    patient = replace(context, timeout_s=WAIT_S)
    enrolling = asyncio.create_task(registrar.by(patient).enroll(population.request()))
    assert await asyncio.to_thread(slow[0].begun.wait, WAIT_S)
    monkeypatch.setattr(OpenRegistry, "read_watermark", count)
    # More than it takes to say that another process writes.
    while (during := await registrar.status()).is_ready and looks[0] < 2 * LOOKS_BEHIND:
        await asyncio.sleep(0.01)
    slow[0].let.set()
    assert during == before
    assert (await enrolling).decision is Decision.APPROVED
    after = await until(registrar, lambda status: status.sequence == 1)
    assert after == replace(before, gallery_size=1, sequence=1, store_sequence=1)


@pytest.mark.parametrize("column", ["writer_epoch", "sequence"])
async def test_a_registry_that_another_process_has_changed_is_read_again(
    serve, population, context, home, column: str
) -> None:
    request = population.request()
    registrar: LocalRegistrar = serve()
    before = await reach(registrar)
    await registrar.by(context).enroll(population.request())
    with sqlite3.connect(home / "registry.sqlite") as database:
        database.execute(f"UPDATE deployment SET {column} = {column} + 1")
        # It has the key ring as well.
        number, head, sequence = database.execute(
            "SELECT audit_number, chain_head, sequence FROM deployment"
        ).fetchone()
        vault = load_vault(home, load_settings(home))
        code = authenticate_head(vault, number, head, sequence)
        database.execute("UPDATE deployment SET audit_mac = ?", (code,))
    if column == "writer_epoch":
        with pytest.raises(Interrupted):
            await registrar.by(context).enroll(request)
    await until(registrar, lambda status: status.boot_id != before.boot_id)
    ready = await reach(registrar)
    assert ready.is_ready
    assert not (await registrar.by(context).enroll(request)).is_repeated


async def test_a_store_that_does_not_answer_makes_it_unready_until_it_does(serve, home) -> None:
    registrar: LocalRegistrar = serve()
    ready = await reach(registrar)
    assert ready.is_ready
    database = sqlite3.connect(home / "registry.sqlite", isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    silent = await until(registrar, lambda status: status.store_sequence is None)
    assert not silent.is_ready
    database.execute("ROLLBACK")
    database.close()
    again = await until(registrar, lambda status: status.is_ready)
    assert again.boot_id == ready.boot_id


async def test_a_service_that_waits_for_the_lease_can_be_closed(serve, other_writer) -> None:
    assert other_writer.poll() is None
    registrar: LocalRegistrar = serve()
    await reach(registrar, Phase.WAITING)
    await registrar.service.drain(5)
    assert (await registrar.status()).phase is Phase.DRAINING


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("thread", ["searches", "registrar"])
async def test_a_thread_that_has_ended_is_lost_and_all_is_opened_again(
    serve, population, context, kept, thread: str
) -> None:
    def end(*_: object, **__: object) -> None:
        raise SystemExit

    registrar: LocalRegistrar = serve(kept)
    before = await reach(registrar)
    with pytest.MonkeyPatch.context() as patched:
        if thread == "searches":
            patched.setattr("serving.registrar.open_registry.identify", end)
            with pytest.raises(Interrupted):
                await registrar.by(context).identify(population.person()[None], 0.5)
        else:
            kept.last.registrar.schedule(end)
    await until(registrar, lambda status: status.boot_id != before.boot_id)
    await reach(registrar)
    (found,) = await registrar.by(context).identify(population.person()[None], 0.5)
    assert found.candidates == ()
    assert (await registrar.by(context).enroll(population.request())).decision is Decision.APPROVED
