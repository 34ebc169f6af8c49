"""Part `soak`: memory of all processes of the service under a steady mix of work."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, repeat

from bench.report import Figure, Result
from bench.serving.homes import Home
from bench.serving.load import Load
from bench.serving.probes import BATCH, draw_probes, pack, pair_items
from bench.serving.service import HOST, Service
from bench.serving.soak import watch_memory
from bench.serving.stage import Found, Stage
from bench.serving.throughput import loop, require_answered
from bench.serving.visits import write_visits
from bench.serving.wire import Caller, Request

LOAD_SHARE = 0.5
SINGLES_A_VISIT, SINGLES_A_BATCH = 20, 200


def measure_soak(stage: Stage) -> Found:
    """Single matches, batches, searches and enrollments, at half of what the service can do."""
    home = stage.make_home("soak", stage.sizes.references)
    with stage.serve(home) as service:
        load = _mix(stage, service, home)
        pace = replace(stage.sizes.pace, rounds=1)
        rate = max(loop(stage.generator, service, replace(load, connections=8), pace).rates)
        steady = replace(load, rate=rate * LOAD_SHARE, seconds=stage.sizes.soak_s)
        running = stage.generator.start(replace(steady, serial=len(load.requests) * 10_000))
        soak = watch_memory(service, running, stage.sizes.soak_sample_s)
        record = running.result()
        require_answered(record)
    enrolled = int((record.is_fine & (record.request % _CYCLE == 0)).sum())
    setup = stage.setup(home, seconds=stage.sizes.soak_s, requests_per_s=round(steady.rate or 0))
    figures = (
        Figure("requests answered", "requests", float(record.is_fine.sum())),
        Figure("of them enrollments", "requests", float(enrolled)),
        Figure("refused (429)", "share", float(record.is_refused.mean())),
        *soak.list_figures(),
    )
    return [Result("Memory under a steady load", setup, figures)], {"memory_growth": soak.growth}


_CYCLE = SINGLES_A_VISIT + 1


def _mix(stage: Stage, service: Service, home: Home) -> Load:
    """An enrollment, then single matches; now and then one of those is a whole batch."""
    caller = Caller(HOST, service.place.port, home.key)
    pairs = pair_items(home, max(stage.sizes.pairs, BATCH))
    singles = pack(caller, pairs, 1)
    probes = draw_probes(home, max(stage.sizes.probes, BATCH), stage.seed)
    batches = chain.from_iterable(
        repeat((pack(caller, pairs, BATCH)[0], pack(caller, probes.items, BATCH)[0]))
    )
    requests: list[Request] = []
    for visit in write_visits(caller, stage.crowd.people, "soak"):
        requests.append(visit)
        for _ in range(SINGLES_A_VISIT):
            place = len(requests)
            is_batch = place % SINGLES_A_BATCH == 1
            requests.append(next(batches) if is_batch else singles[place % len(singles)])
    return Load(host=HOST, port=service.place.port, requests=tuple(requests), connections=64)
