"""Delivery: signed, in order for each document, again until it is taken."""

import asyncio
import json
import ssl
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from operator import attrgetter
from time import monotonic
from typing import Any

import pytest
import structlog
from sqlalchemy import delete
from standardwebhooks import Webhook as Referee
from standardwebhooks import WebhookVerificationError
from structlog.testing import capture_logs

from engine.registry.database import changing, utc_now
from engine.registry.store import Store
from engine.registry.webhooks import WebhookChange, Webhooks
from engine.retention.job import RUN, DirectRunner, RetentionCertificate, run_retention
from schema.events import EventType, WebhookState
from serving.errors import Malformed
from serving.settings.terms import WebhookSettings
from serving.webhooks import delivery
from serving.webhooks.keeper import make_example, send_example
from tests.engine.retention.conftest import only
from tests.serving.webhooks.conftest import LOOPBACK, NETWORKS, delivering, happen, receiving, until
from tests.tables import tables

pytestmark = pytest.mark.anyio


@pytest.fixture
def quick(monkeypatch) -> None:
    """Failures are tried again at once, eight times in all."""
    monkeypatch.setattr(delivery, "BACKOFF_S", (0.01,) * 7)
    monkeypatch.setattr(delivery, "PROBE_EVERY_S", 0.05)
    monkeypatch.setattr(delivery, "POLL_S", 0.02)
    monkeypatch.setattr(delivery, "SAVE_EVERY_S", 0.1)


async def test_the_referee_accepts_what_is_sent_also_during_a_rotation(store, webhooks) -> None:
    async with receiving(204) as receiver:
        webhook, secret = webhooks.create(receiver.sink, (), carrier="blue", actor="test")
        await happen(store, ["a"])
        async with delivering(webhooks):
            await until(lambda: len(receiver.got) == 1)
        _, newer = webhooks.rotate(webhook.id, timedelta(hours=1), carrier="blue", actor="test")
        await happen(store, ["b"])
        async with delivering(webhooks):
            await until(lambda: len(receiver.got) == 2)
        webhooks.rotate(webhook.id, timedelta(0), carrier="blue", actor="test")
        await happen(store, ["c"])
        async with delivering(webhooks):
            await until(lambda: len(receiver.got) == 3)
    first, second, third = ((body, headers) for headers, body in receiver.got)
    event = Referee(secret).verify(*first)
    assert (event["specversion"], event["subject"]) == ("1.0", "a")
    assert first[1]["webhook-id"] == event["id"]
    for known in (secret, newer):
        assert Referee(known).verify(*second)["subject"] == "b"
        with pytest.raises(WebhookVerificationError):
            Referee(known).verify(*third)
    with pytest.raises(WebhookVerificationError):
        Referee(newer).verify(*first)


async def test_a_subject_that_fails_keeps_back_itself_alone_and_keeps_its_order(
    store, webhooks, quick
) -> None:
    refused = 0

    def answer(event: Mapping[str, Any]) -> int:
        nonlocal refused
        if event["subject"] == "bad" and refused < 5:
            refused += 1
            return 500
        return 200

    async with receiving(answer) as receiver:
        webhooks.create(receiver.sink, (), carrier=None, actor="test")
        await happen(store, ["bad", "good", "bad", "fine", "bad"])
        async with delivering(webhooks):
            await until(lambda: len(receiver.taken) == 5)
    bad = [json.loads(body) for _, body in receiver.got]
    ids = [one["id"] for one in bad if one["subject"] == "bad"]
    assert len(set(ids[:6])) == 1
    assert len(set(ids)) == 3
    assert len(ids) == 8
    assert receiver.taken.index("fine") < receiver.taken.index("bad")


async def test_after_the_last_try_it_is_a_dead_letter_that_can_be_asked_for_again(
    store, webhooks, quick
) -> None:
    broken = {"bad"}

    async with receiving(lambda one: 302 if one["subject"] in broken else 200) as receiver:
        webhook, _ = webhooks.create(receiver.sink, (), carrier=None, actor="test")
        await happen(store, ["bad", "good", "bad"])
        async with delivering(webhooks):
            await until(lambda: webhooks.measure(webhook).dead == 2)
            await until(lambda: receiver.taken == ["good"])
            # No redirect is followed, and none is tried more often than it says.
            assert len(receiver.got) == 1 + 2 * 8
            first, second = webhooks.list_dead(webhook.id, carrier=None)
            assert (first.attempts, first.fault) == (8, "status 302")
            broken.clear()
            asked = (webhook.id, [first.event.id])
            assert webhooks.ask_again(*asked, carrier=None, actor="test") == 1
            await until(lambda: receiver.taken == ["good", "bad"])
        (left,) = webhooks.list_dead(webhook.id, carrier=None)
        assert left == second
        assert webhooks.measure(webhook).waiting == 0


async def test_one_that_answers_late_is_given_up_in_time_and_holds_up_nobody(
    store, webhooks, quick, monkeypatch
) -> None:
    monkeypatch.setattr(delivery, "BACKOFF_S", (0.01,))

    async def answer(event: Mapping[str, Any]) -> int:
        if event["subject"] == "slow":
            await asyncio.sleep(60)
        return 200

    async with receiving(answer) as receiver:
        webhook, _ = webhooks.create(receiver.sink, (), carrier=None, actor="test")
        await happen(store, ["slow", *(f"s{place}" for place in range(700))])
        async with delivering(webhooks, LOOPBACK.model_copy(update={"timeout_s": 2})):
            # One that a busy machine answers late comes twice.
            await until(lambda: len(set(receiver.taken)) == 700)
            await until(lambda: webhooks.measure(webhook).dead == 1)
        (dead,) = webhooks.list_dead(webhook.id, carrier=None)
        assert (dead.event.subject, dead.fault) == ("slow", "time-out")


async def test_410_ends_it_until_people_set_it_to_active(store, webhooks) -> None:
    status = 410

    async with receiving(lambda _: status) as receiver, receiving(204) as other:
        webhook, _ = webhooks.create(receiver.sink, (), carrier="blue", actor="test")
        await happen(store, ["a"])
        async with delivering(webhooks):
            await until(lambda: webhooks.find(webhook.id).state is WebhookState.GONE)
            await happen(store, ["b"])
            # One that is taken up with it, and then sent something more.
            webhooks.create(other.sink, (), carrier="blue", actor="test")
            await happen(store, ["c"])
            await until(lambda: other.taken == ["c"])
            await happen(store, ["d"])
            await until(lambda: other.taken == ["c", "d"])
            assert len(receiver.got) == 1
            status = 200
            change = WebhookChange(state=WebhookState.ACTIVE)
            webhooks.change(webhook.id, change, carrier="blue", actor="test")
            await until(lambda: sorted(receiver.taken) == ["a", "b", "c", "d"])


async def test_410_of_an_address_that_people_have_just_left_ends_nothing(store, webhooks) -> None:
    def leave(_: Mapping[str, Any]) -> int:
        change = WebhookChange(sink=new.sink)
        webhooks.change(webhook.id, change, carrier="blue", actor="test")
        return 410

    async with receiving(204) as new, receiving(leave) as old:
        webhook, _ = webhooks.create(old.sink, (), carrier="blue", actor="test")
        await happen(store, ["a"])
        async with delivering(webhooks):
            await until(lambda: new.taken == ["a"])
        found = webhooks.find(webhook.id)
        assert (found.state, found.sink) == (WebhookState.ACTIVE, new.sink)


@pytest.mark.parametrize("timeout_s", [0.2, 15.0, 60.0])
async def test_a_hold_is_renewed_before_it_is_too_short_to_send_anything(
    store, webhooks, timeout_s: float
) -> None:
    settings = LOOPBACK.model_copy(update={"timeout_s": timeout_s})
    webhook, _ = webhooks.create("https://b.com/", (), carrier="blue", actor="test")
    deliverer = delivery.Deliverer(webhooks, settings, structlog.get_logger())
    await deliverer._look()
    route = deliverer._routes[webhook.id]
    needed_s = timeout_s + delivery.SKEW_S
    # At the look before it was worth so much, and at the next one it would not be.
    left_s = needed_s + delivery.LOOK_EVERY_S + delivery.POLL_S
    route.held_until_s = before_s = monotonic() + left_s
    await deliverer._look()
    assert route.held_until_s > before_s
    await deliverer._drop(webhook.id)


async def test_events_that_have_left_say_nothing_of_a_receiver_that_is_down(
    store, webhooks, quick, monkeypatch
) -> None:
    monkeypatch.setattr(delivery, "BACKOFF_S", (3600.0,) * 7)
    asked: list[str] = []

    def answer(event: Mapping[str, Any]) -> int:
        asked.append(event["subject"])
        return 503

    async with receiving(answer) as receiver:
        webhook, _ = webhooks.create(receiver.sink, (), carrier="blue", actor="test")
        await happen(store, [f"s{place}" for place in range(40)])
        async with delivering(webhooks):
            # Written down, too: one that is asked and not would be asked alone ever after.
            await until(lambda: len(webhooks.undelivered(webhook.id)) == 40)
        # Those that it would be asked with first.
        rows = sorted(webhooks.undelivered(webhook.id), key=attrgetter("due_at"))
        numbers = [one.number for one in rows[:3]]
        with changing(store.engine) as connection:
            number = tables.events.c.number
            connection.execute(delete(tables.events).where(number.in_(numbers)))
        asked.clear()
        async with delivering(webhooks):
            await until(lambda: webhooks.measure(webhook).waiting == 37)
            await until(lambda: len(asked) >= 3)
        # Of one that is down nothing is asked beside.
        assert len(set(asked)) == 1


async def test_every_event_that_expires_before_a_webhook_took_it_is_counted(
    store, webhooks, quick, monkeypatch
) -> None:
    monkeypatch.setattr(delivery, "BACKOFF_S", (3600.0,) * 7)
    monkeypatch.setattr(delivery, "MOST_WAITING", delivery.PAGE)

    async with receiving(503) as receiver:
        webhook, _ = webhooks.create(receiver.sink, (), carrier="blue", actor="test")
        await happen(store, [f"s{place}" for place in range(900)])
        # Another's, which are counted with nobody, and the newest, which stays.
        await happen(store, ["a", "b"], carrier="red")
        async with delivering(webhooks):
            await until(lambda: len(webhooks.undelivered(webhook.id)) == delivery.PAGE)
        # Some have been read and wait, and the others have not.
        assert webhooks.measure(webhook).cursor < 900
        expired, again = expire_events(store), expire_events(store)
        assert expired.undelivered == {webhook.id: 900}
        assert again.undelivered == {}
        told = [one.entry.detail for one in store.audit_entries() if one.entry.action == RUN]
        assert [one.get("undelivered") for one in told] == [{webhook.id: 900}, None]


def expire_events(store: Store) -> RetentionCertificate:
    with store.writer() as writer:
        later = utc_now() + timedelta(days=2)
        schedule = only(events_days=1)
        return run_retention(DirectRunner(writer), schedule, "test", now=later)


@pytest.mark.parametrize("table", ["events", "webhooks", "cursors", "undelivered"])
async def test_one_damaged_row_keeps_nothing_else_from_anybody(
    store, webhooks: Webhooks, quick, table: str
) -> None:
    async with receiving(503) as down, receiving(204) as receiver:
        blue, _ = webhooks.create(down.sink, (), carrier="blue", actor="test")
        await happen(store, [f"blue {place}" for place in range(delivery.PAGE + 10)])
        async with delivering(webhooks):
            await until(lambda: len(webhooks.undelivered(blue.id)) >= 3)
        webhooks.change(blue.id, WebhookChange(receiver.sink), carrier="blue", actor="test")
        webhooks.create(receiver.sink, (), carrier="red", actor="test")
        await happen(store, ["red 1", "red 2"], carrier="red")
        with changing(store.engine) as connection:
            connection.exec_driver_sql(f"UPDATE {table} SET {DAMAGE[table]}")
        async with delivering(webhooks):
            await until(lambda: {"red 1", "red 2"} <= set(receiver.taken))
            if table in ("events", "undelivered"):
                wanted = {f"blue {place}" for place in range(delivery.PAGE + 10)}
                await until(lambda: wanted - set(receiver.taken) <= {"blue 0"})
            await until(lambda: store.vault.set_aside.count() == {table: 1})


DAMAGE = {
    "events": "at = CAST(x'ff' AS TEXT) WHERE number = 1",
    "webhooks": "created_by = 'x' WHERE carrier = 'blue'",
    "cursors": "number = 12345 WHERE name = (SELECT id FROM webhooks WHERE carrier = 'blue')",
    "undelivered": "due_at = '2099' WHERE number = 1",
}


async def test_of_a_receiver_that_is_down_nothing_is_lost_and_all_of_it_comes_when_it_is_back(
    store, webhooks, quick, monkeypatch
) -> None:
    monkeypatch.setattr(delivery, "BACKOFF_S", (3600.0,) * 7)
    status = 503

    async with receiving(lambda _: status) as receiver:
        webhook, _ = webhooks.create(receiver.sink, (), carrier="blue", actor="test")
        subjects = [f"s{place}" for place in range(900)]
        await happen(store, subjects)
        async with delivering(webhooks):
            await until(lambda: len(receiver.got) > delivery.AT_ONCE)
        status = 200
        async with delivering(webhooks):
            await until(lambda: len(receiver.taken) == len(subjects))
        assert sorted(receiver.taken) == sorted(subjects)
        assert webhooks.measure(webhook).dead == 0


async def test_a_receiver_that_refuses_many_events_in_a_row_is_sent_all_others(
    store, webhooks, monkeypatch
) -> None:
    monkeypatch.setattr(delivery, "BACKOFF_S", (3600.0,) * 7)
    monkeypatch.setattr(delivery, "PROBE_FIRST_S", 0.01)
    monkeypatch.setattr(delivery, "PROBE_EVERY_S", 0.05)
    asked: set[str] = set()

    def answer(event: Mapping[str, Any]) -> int:
        asked.add(event["subject"])
        return 400 if event["subject"].startswith("bad") else 200

    async with receiving(answer) as receiver:
        webhook, _ = webhooks.create(receiver.sink, (), carrier="blue", actor="test")
        bad = [f"bad{place}" for place in range(300)]
        await happen(store, [*bad, *(f"good{place}" for place in range(50))])
        async with delivering(webhooks):
            await until(lambda: len(receiver.taken) == 50 and asked >= set(bad))
        await happen(store, [f"later{place}" for place in range(50)])
        # Another worker finds 300 that wait.
        async with delivering(webhooks):
            await until(lambda: webhooks.measure(webhook).waiting == 300)
        assert len(set(receiver.taken)) == 100


async def test_after_events_that_are_refused_and_no_other_the_next_one_is_asked_with_soon(
    store, webhooks, monkeypatch
) -> None:
    monkeypatch.setattr(delivery, "PROBE_FIRST_S", 0.05)

    async with receiving(lambda one: 400 if one["subject"].startswith("bad") else 200) as receiver:
        webhooks.create(receiver.sink, (), carrier="blue", actor="test")
        await happen(store, [f"bad{place}" for place in range(delivery.DOWN_AFTER)])
        async with delivering(webhooks):
            await until(lambda: len(receiver.got) > delivery.DOWN_AFTER)
            await happen(store, ["good"])
            await until(lambda: receiver.taken == ["good"])


async def test_a_replay_repeats_under_the_same_ids_and_types_are_chosen(store, webhooks) -> None:
    async with receiving(204) as receiver, receiving(204) as other:
        webhook, _ = webhooks.create(receiver.sink, (), carrier="blue", actor="test")
        closed = (EventType.LINE_CLOSED,)
        webhooks.create(other.sink, closed, carrier="blue", actor="test")
        await happen(store, ["red only"], "red")
        await happen(store, ["a", "a", "a"])
        async with delivering(webhooks):
            await until(lambda: len(receiver.taken) == 3)
            webhooks.replay(webhook.id, 2, carrier="blue", actor="test")
            await until(lambda: len(receiver.taken) == 5)
        ids = [headers["webhook-id"] for headers, _ in receiver.got]
        assert ids[3:] == ids[1:3]
        assert other.got == []


async def test_the_webhook_of_a_carrier_is_sent_no_case(store, webhooks) -> None:
    async with receiving(204) as receiver, receiving(204) as whole:
        webhooks.create(receiver.sink, (), carrier="blue", actor="test")
        webhooks.create(whole.sink, (), carrier=None, actor="test")
        data = {"at": "2026-11-28T00:00:00+00:00", "cause": "the case"}
        await happen(store, ["a line"], kind=EventType.LINE_REVERIFY_FAILED, data=data)
        async with delivering(webhooks):
            await until(lambda: bool(receiver.taken and whole.taken))
        sent = [json.loads(one.got[0][1])["data"] for one in (receiver, whole)]
        assert sent == [data | {"cause": "case"}, data]


async def test_two_workers_never_deliver_one_webhook(store, webhooks) -> None:
    going: set[str] = set()

    async def answer(event: Mapping[str, Any]) -> int:
        assert event["subject"] not in going
        going.add(event["subject"])
        await asyncio.sleep(0.001)
        going.remove(event["subject"])
        return 200

    async with receiving(answer) as receiver:
        webhooks.create(receiver.sink, (), carrier="blue", actor="test")
        async with delivering(webhooks), delivering(webhooks):
            for _ in range(20):
                await happen(store, ["a", "b", "a"])
            await until(lambda: len(receiver.taken) == 60)
        assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 60
        assert len(receiver.got) == 60


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", "time-out"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no answer"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000, "no answer"),
        (b"", "no answer"),
        (b"", "certificate refused"),
    ],
)
async def test_what_drips_is_no_http_or_has_a_certificate_that_nobody_vouches_for_is_a_failure(
    store, webhooks, quick, certificate, answer: bytes, fault: str
) -> None:
    serving: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"}")
            writer.write(answer)
            while answer.endswith(b"\r\n\r\n") and fault == "time-out":
                writer.write(b".")
                await writer.drain()
                await asyncio.sleep(0.02)
        with suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()

    context = None
    if fault == "certificate refused":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    server = await asyncio.start_server(serve, "127.0.0.1", ssl=context)
    scheme = "https" if context else "http"
    sink = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    webhook, _ = webhooks.create(sink, (), carrier=None, actor="test")
    await happen(store, ["a"])
    # Short where no answer comes, and long where one does: this machine may be busy.
    timeout_s = 0.2 if fault == "time-out" else 60
    async with delivering(webhooks, LOOPBACK.model_copy(update={"timeout_s": timeout_s})):
        await until(lambda: webhooks.measure(webhook).dead == 1)
    (dead,) = webhooks.list_dead(webhook.id, carrier=None)
    assert dead.fault == fault
    server.close()
    await server.wait_closed()
    await asyncio.gather(*serving)


async def test_a_carrier_reaches_what_is_opened_to_it_alone_and_reads_nothing_of_what_is_inside(
    store, webhooks, quick
) -> None:
    only_blue = {"allowed_networks": NETWORKS, "carrier_networks": {"blue": NETWORKS}}
    settings = WebhookSettings.model_validate(only_blue)

    async with receiving(404) as receiver:
        closed = await asyncio.start_server(lambda *_: None, "127.0.0.1")
        port = closed.sockets[0].getsockname()[1]
        closed.close()
        await closed.wait_closed()
        sinks = (receiver.sink, f"http://127.0.0.1:{port}/")
        carriers = {}
        for carrier in (None, "blue", "red"):
            for sink in sinks:
                made, _ = webhooks.create(sink, (), carrier=carrier, actor="test")
                carriers[made.id] = carrier
        await happen(store, ["a"], "blue")
        await happen(store, ["b"], "red")
        told = defaultdict(set)
        with capture_logs() as logs:
            async with delivering(webhooks, settings):
                await until(
                    lambda: all(webhooks.measure(webhooks.find(one)).dead for one in carriers)
                )
        for one, carrier in carriers.items():
            told[carrier] |= {dead.fault for dead in webhooks.list_dead(one, carrier=carrier)}
        assert told[None] == {"status 404", "no connection"}
        assert told["blue"] == {"not taken"}
        # What it may not reach is told as a name that nobody has.
        assert told["red"] == {"no connection"}
        withheld = {one["fault"] for one in logs if one["event"] == "fault_withheld"}
        assert withheld == {"status 404", "no connection", "address refused"}
        assert {json.loads(body)["subject"] for _, body in receiver.got} == {"a", "b"}


async def test_an_example_of_each_type_is_sent_once_signed_and_looks_like_a_real_one(
    webhooks,
) -> None:
    async with receiving(204) as receiver:
        record, secret = webhooks.create(receiver.sink, (), carrier=None, actor="test")
        made = [make_example(record, kind, webhooks.vault.deployment_id) for kind in EventType]
        sent = [await send_example(record, one, LOOPBACK) for one in made]
    events = [Referee(secret).verify(body, headers) for headers, body in receiver.got]
    assert [one["type"] for one in events] == list(EventType)
    assert all(one["data"]["example"] is True for one in events)
    assert {one.fault for one in sent} == {None}


async def test_what_refuses_an_example_is_told_to_a_carrier_as_of_any_event(webhooks) -> None:
    told, taken_s = [], []
    patient, mine = LOOPBACK.model_copy(update={"timeout_s": 1}), WebhookSettings(timeout_s=1)
    async with receiving(302) as receiver:
        for carrier in (None, "blue"):
            record, _ = webhooks.create(receiver.sink, (), carrier=carrier, actor="test")
            for settings in (patient, mine):
                before = monotonic()
                example = make_example(record, "line.opened", "d")
                told.append((await send_example(record, example, settings)).fault)
                taken_s.append(monotonic() - before)
    assert told == ["status 302", "address refused", "not taken", "no connection"]
    # Or how soon it came would tell which ports there are inside.
    assert taken_s[2] >= 1
    with pytest.raises(Malformed, match="for fraud teams"):
        make_example(record, "case.opened", "d")
