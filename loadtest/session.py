"""A whole load test: a service, a cast, the load, the judgement, and whom it enrolled erased."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from loadtest.access import Access, Report, Serials, open_access
from loadtest.apikeys import Keys
from loadtest.cleaning import Cleaner
from loadtest.crowd import open_crowd
from loadtest.errors import LoadTestRefused
from loadtest.exchange import Exchange
from loadtest.guests import Guests
from loadtest.order import Order, Session, Step, choose_parts
from loadtest.papers import DIGITS, NUMBERS, TAG_LENGTH, Papers
from loadtest.player import Player
from loadtest.preparation import count_people, prepare
from loadtest.service import start_own
from loadtest.shapes import lay_out
from loadtest.target import Target

PREPARING_CONNECTIONS = 8
PREPARING_TIMEOUT_S = 30.0
OK = 200


def hold(order: Order, report: Report) -> Session:
    """Runs it all; `LoadTestRefused` where it cannot be run."""
    with _reach(order, report) as (target, keys, outlet), ExitStack() as stack:
        asking = Exchange(target, PREPARING_CONNECTIONS, PREPARING_TIMEOUT_S)
        loading = Exchange(target, order.pace.in_flight, order.timeout_s)
        stack.callback(asking.close)
        stack.callback(loading.close)
        return _hold(order, asking, loading, keys, outlet, report)


def _hold(
    order: Order,
    asking: Exchange,
    loading: Exchange,
    keys: Keys,
    outlet: str | None,
    report: Report,
) -> Session:
    begun, start = datetime.now(UTC), time.perf_counter()
    told = _greet(asking)
    access = open_access(asking, keys, outlet, begun.isoformat())
    serials = Serials(_make_papers(begun))
    wanted = choose_parts(order, lay_out(order.shape, order.course))
    crowd = open_crowd(order.faces, *count_people(wanted), order.seed)
    guests = Guests()
    steps: list[Step] = []
    with _cleaned(order, access, guests, report):
        cast = prepare(access, crowd, wanted, serials, guests, report)
        loaded = replace(access, exchange=loading)
        player = Player(order, loaded, access, cast, serials, guests, report)
        knee = player.play(steps)
    return Session(
        order=order,
        url=asking.target.url,
        version=str(told["version"]),
        model_digest=str(told["model_digest"]),
        crowd=crowd.source,
        cast=cast,
        steps=tuple(steps),
        knee=knee,
        begun=begun,
        seconds=time.perf_counter() - start,
        left_enrolled=guests.count if order.target is not None else 0,
    )


@contextmanager
def _cleaned(order: Order, access: Access, guests: Guests, report: Report) -> Iterator[None]:
    """Erases the guests at the end, after an interrupt too, and then says who is left."""
    is_told = False
    try:
        try:
            yield
        finally:
            # A service of one's own goes with all that is in it.
            if order.target is not None:
                Cleaner(access, guests, report).clean(keeps=order.keeps)
        is_told = True
    finally:
        if not is_told and order.target is not None and guests.count:
            sys.stderr.write(
                f"sosie: up to {guests.count} people stay enrolled: an operator erases them\n"
            )


def _greet(exchange: Exchange) -> Mapping[str, Any]:
    """Version and model; at once `LoadTestRefused` where no service of ours answers."""
    reply = exchange.ask("GET", "/version")
    if reply.status != OK or not isinstance(reply.value, Mapping):
        raise LoadTestRefused(f"no service answers at {exchange.target.url}: is it running?")
    return reply.value


@contextmanager
def _reach(order: Order, report: Report) -> Iterator[tuple[Target, Keys, str | None]]:
    """The service that was named, or one of one's own."""
    if order.target is not None:
        assert order.keys is not None, "whoever names a service brings keys"
        yield order.target, order.keys, order.outlet
        return
    report("starting a service", 0, 0)
    with start_own(order.disk, order.references, order.seed) as own:
        yield own.target, own.keys, None


def _make_papers(begun: datetime) -> Papers:
    """A tag of this run's own: a gallery may have met other runs."""
    tag = "".join(secrets.choice(DIGITS) for _ in range(TAG_LENGTH))
    return Papers(tag, secrets.randbelow(NUMBERS), begun.year)
