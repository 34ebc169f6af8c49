"""The registrar over Ray, without Ray: what each of its failures becomes for a caller."""

import asyncio
import pickle
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
import structlog
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from engine.errors import NotFound, RequestError
from engine.matching.policy import Candidate
from engine.matching.verification import FoundHolders
from schema.phases import Phase
from serving.cluster import registrar_client as module
from serving.cluster.registrar_client import RayRegistrar
from serving.errors import Busy, Interrupted, NotReady
from serving.registrar.open_registry import MOST_CANDIDATES
from serving.registrar.protocol import CallContext, Reply, Status
from serving.telemetry.metrics import Meter
from serving.wire.matching import MAX_ITEMS

pytestmark = pytest.mark.anyio

READY = Status(Phase.READY, "", "boot-1", sequence=1, store_sequence=1)
Answer = Callable[..., Awaitable[Any]]


class Response:
    """What a deployment handle returns: awaited once, or cancelled."""

    def __init__(self, answer: Awaitable[Any]) -> None:
        self._answer = answer
        self.cancelled = False

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._answer.__await__()

    def cancel(self) -> None:
        self.cancelled = True


class Method:
    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.responses: list[Response] = []

    def remote(self, *arguments: Any) -> Response:
        self.responses.append(Response(self.answer(*arguments)))
        return self.responses[-1]


class Handle:
    """The registrar's handle, with the answers that a test gives it."""

    def __init__(self, perform: Answer, status: Answer | None = None) -> None:
        async def is_ready() -> Status:
            return READY

        async def perform_all(calls: Sequence[Any]) -> list[Any]:
            return await asyncio.gather(*(perform(*call) for call in calls))

        self.perform, self.perform_all = Method(perform), Method(perform_all)
        self.status = Method(status or is_ready)


def _open(handle: Any, capacity: int = 4, logger: Any = None) -> RayRegistrar:
    log = structlog.wrap_logger(logger or structlog.testing.CapturingLogger(), processors=[])
    return RayRegistrar(handle, capacity=capacity, timeout_s=5.0, meter=Meter(), log=log)


def _raising(error: Exception) -> Answer:
    async def perform(*_: Any) -> Reply:
        raise error

    return perform


async def _never(*_: Any) -> Any:
    await asyncio.sleep(60)


async def _echo(_: str, arguments: tuple[Any, ...], context: CallContext) -> Reply:
    return Reply(value=arguments[0])


CONTEXT = CallContext("key:1", "c1")


async def test_an_answer_and_an_error_of_the_registrar_come_as_they_are() -> None:
    async def perform(method: str, arguments: tuple[Any, ...], context: CallContext) -> Reply:
        return Reply(value="closed") if arguments[0] == 1 else Reply(error=NotFound("no line"))

    registrar = _open(Handle(perform))
    assert await registrar.by(CONTEXT).close_line(1) == "closed"  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        await registrar.by(CONTEXT).close_line(2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error",
    [
        ActorDiedError(),
        ActorUnavailableError("gone", None),
        RayTaskError("perform", "secret 13800138000", ValueError("13800138000")),
        DeploymentUnavailableError(None),
        ConnectionResetError("13800138000"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_ray_raises_is_interrupted_and_logged_by_its_type(error: Exception) -> None:
    logger = structlog.testing.CapturingLogger()

    registrar = _open(Handle(_raising(error)), logger=logger)
    with pytest.raises(Interrupted) as caught:
        await registrar.by(CONTEXT).erase("d")
    assert "13800138000" not in str(caught.value)
    assert caught.value.retry_after_s is not None
    await registrar.close()
    (call,) = logger.calls
    assert call.kwargs == {
        "event": "registrar_lost",
        "method": "erase",
        "error": type(error).__name__,
        "correlator": "c1",
    }


async def test_back_pressure_and_calls_above_the_capacity_are_busy_at_once() -> None:
    pressed = BackPressureError(num_queued_requests=1, max_queued_requests=1)
    with pytest.raises(Busy):
        await _open(Handle(_raising(pressed))).by(CONTEXT).erase("d")
    registrar = _open(Handle(_never), capacity=2)
    held = [asyncio.create_task(registrar.by(CONTEXT).erase("d")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await registrar.by(CONTEXT).erase("d")
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)


async def test_a_caller_who_goes_cancels_the_call_and_frees_its_place() -> None:
    handle = Handle(_never)
    registrar = _open(handle, capacity=1)
    for _ in range(2):
        task = asyncio.create_task(registrar.by(CONTEXT).erase("d"))
        while not registrar._ongoing:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert handle.perform.responses[-1].cancelled


async def test_a_call_past_its_deadline_is_interrupted_and_cancelled(monkeypatch) -> None:
    monkeypatch.setattr(module, "HOP_TIMEOUT_S", 0.05)

    handle = Handle(_never)
    registrar = _open(handle)
    with pytest.raises(Interrupted):
        await registrar.by(CallContext("key:1", "c1", timeout_s=0.05)).erase("d")
    assert handle.perform.responses[-1].cancelled
    await registrar.close()


async def test_while_a_lost_registrar_is_away_nobody_waits_for_it() -> None:
    is_back = asyncio.Event()

    async def status() -> Status:
        if not is_back.is_set():
            raise ActorDiedError
        return READY

    handle = Handle(_raising(ActorDiedError()), status)
    registrar = _open(handle)
    with pytest.raises(Interrupted):
        await registrar.by(CONTEXT).erase("d")
    for _ in range(3):
        with pytest.raises(NotReady):
            await registrar.by(CONTEXT).erase("d")
    assert len(handle.perform.responses) == 1
    assert (await registrar.status()).phase is Phase.STARTING

    handle.perform.answer = _echo
    is_back.set()
    assert registrar._watching is not None
    await registrar._watching
    assert await registrar.by(CONTEXT).erase("d") == "d"  # type: ignore[comparison-overlap]
    assert (await registrar.status()).is_ready


def enrolling(registrar: RayRegistrar, names: Sequence[str]) -> list[asyncio.Task[Any]]:
    """Calls of one turn of the loop; the double of the registrar tells them apart by name."""
    return [asyncio.create_task(registrar.by(CONTEXT).enroll(name)) for name in names]  # type: ignore[arg-type]


async def test_enrollments_of_one_turn_are_one_message_and_each_gets_its_own_reply() -> None:
    async def perform(_: str, arguments: tuple[Any, ...], context: CallContext) -> Reply:
        (name,) = arguments
        return Reply(error=NotFound(name)) if name == "b" else Reply(value=name)

    handle = Handle(perform)
    registrar = _open(handle, capacity=64)
    names = [*"abcdefghijklmnopqrst"]
    found = await asyncio.gather(*enrolling(registrar, names), return_exceptions=True)
    assert isinstance(found[1], NotFound)
    assert [*found[:1], *found[2:]] == [*names[:1], *names[2:]]
    assert len(handle.perform_all.responses) == 2, "16 and 4 calls"
    assert not handle.perform.responses
    assert await registrar.by(CONTEXT).enroll("z") == "z"  # type: ignore[arg-type,comparison-overlap]
    assert len(handle.perform.responses) == 1


async def test_who_has_little_time_is_in_no_message_with_who_has_much() -> None:
    handle = Handle(_echo)
    registrar = _open(handle)
    contexts = [replace(CONTEXT, timeout_s=timeout_s) for timeout_s in (10, 0.2, 9.9, 0.3)]
    calls = [registrar.by(context).enroll("x") for context in contexts]  # type: ignore[arg-type]
    assert len(await asyncio.gather(*calls)) == 4
    assert len(handle.perform.responses) + len(handle.perform_all.responses) == 4


async def test_who_leaves_a_message_takes_nobody_along_and_the_last_cancels_it() -> None:
    is_free = asyncio.Event()

    async def perform(_: str, arguments: tuple[Any, ...], context: CallContext) -> Reply:
        await is_free.wait()
        return Reply(value=arguments[0])

    handle = Handle(perform)
    registrar = _open(handle)
    for leaves_early in (True, False):
        gone, stays = enrolling(registrar, ["gone", "stays"])
        while len(handle.perform_all.responses) < 1:
            await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        (response,) = handle.perform_all.responses
        assert not response.cancelled
        if leaves_early:
            is_free.set()
            assert await stays == "stays"
            is_free.clear()
        else:
            stays.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stays
            for _ in range(5):
                await asyncio.sleep(0)
            assert response.cancelled
        handle.perform_all.responses.clear()
    assert not registrar._ongoing


async def test_a_message_that_is_lost_is_interrupted_for_each_and_logged_once() -> None:
    logger = structlog.testing.CapturingLogger()

    registrar = _open(Handle(_raising(ActorDiedError())), logger=logger)
    tasks = enrolling(registrar, "ab")
    first, second = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, Interrupted)
    assert isinstance(second, Interrupted)
    assert first is not second
    await registrar.close()
    assert len(logger.calls) == 1


async def test_an_answer_too_large_to_travel_is_told_and_loses_no_registrar() -> None:
    refused = AioRpcError(StatusCode.RESOURCE_EXHAUSTED, Metadata(), Metadata())

    handle = Handle(_raising(refused))
    registrar = _open(handle)
    with pytest.raises(RequestError, match="ask for less"):
        await registrar.by(CONTEXT).close_line(1)  # type: ignore[arg-type]
    with pytest.raises(RequestError):
        await registrar.by(CONTEXT).close_line(1)  # type: ignore[arg-type]
    assert len(handle.perform.responses) == 2


def test_the_largest_answer_of_a_search_fits_one_message() -> None:
    found = FoundHolders(
        tuple(Candidate(2**40 + n, str(uuid4()), 0.5) for n in range(MOST_CANDIDATES)), 1, 1, 9
    )
    answers = [replace(found, searched=n) for n in range(MAX_ITEMS)]
    assert len(pickle.dumps(Reply(answers))) < 3 * 2**20
