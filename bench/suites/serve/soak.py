"""Memory of a service under a steady load, sample by sample."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import chain, repeat

import numpy as np

from bench.core.reports import Figure, Result, SuiteOutput
from bench.suites.serve.load_requests import (
    BATCH,
    Load,
    Record,
    Request,
    Seconds,
    draw_probes,
    pack,
    pair_items,
    write_visits,
)
from bench.suites.serve.process import MIB, OTHERS, Service, measure_memory, name_part
from bench.suites.serve.sizes import Context
from bench.suites.serve.throughput import Session, require_good
from serving.cluster.processes import list_descendants

WARM_S, LEAST_SAMPLES = 60.0, 4
"""Allocators, pools and caches fill in the first minute."""


@dataclass(frozen=True, slots=True, eq=False)
class Soak:
    """Memory in MiB at moments in seconds after the start, and that of each part: float64[n]."""

    moments_s: Seconds
    memory_mib: Seconds
    parts_mib: Mapping[str, Seconds] = field(default_factory=dict)

    @property
    def growth(self) -> float:
        """What the straight line after the first minute rises, as a share of where it begins."""
        is_settled = self.moments_s >= min(WARM_S, float(self.moments_s[-1]) / 3)
        moments = self.moments_s[is_settled]
        slope, start = np.polyfit(moments - moments[0], self.memory_mib[is_settled], 1)
        return float(slope * (moments[-1] - moments[0]) / start)

    def list_figures(self) -> tuple[Figure, ...]:
        return (
            Figure("growth after the first minute", "share", self.growth),
            *(
                Figure(f"memory at the end: {part}", "MiB", float(values[-1]))
                for part, values in self.parts_mib.items()
            ),
        )


def watch_memory(service: Service, running: Future[Record], sample_s: float) -> Soak:
    """Samples until the load has ended."""
    moments: list[float] = []
    samples: list[dict[str, float]] = []
    start = time.perf_counter()
    while len(moments) < LEAST_SAMPLES or not running.done():
        service.require_running()
        moments.append(time.perf_counter() - start)
        samples.append(measure_parts(service))
        time.sleep(sample_s)
    parts = {
        part: np.array([sample.get(part, 0.0) for sample in samples])
        for part in sorted({part for sample in samples for part in sample})
    }
    return Soak(np.array(moments), np.sum(list(parts.values()), axis=0), parts)


def measure_parts(service: Service) -> dict[str, float]:
    """MiB of each part of a service (PSS), `sosie serve` itself among the others."""
    found = {OTHERS: measure_memory([service.pid]) / MIB}
    for process in list_descendants(service.pid):
        part = name_part(process)
        found[part] = found.get(part, 0.0) + measure_memory([process.pid]) / MIB
    return found


LOAD_SHARE = 0.5
SINGLES_A_VISIT, SINGLES_A_BATCH = 20, 200


def measure_soak(context: Context) -> SuiteOutput:
    """Part `soak`: memory of all processes of the service under a steady mix of work.

    Single matches, batches, searches and enrollments, at half of what the service can do.
    """
    home = context.make_home("soak", context.sizes.references)
    with context.serve(home) as session:
        load = _mix(context, session)
        once = replace(session, pace=replace(session.pace, rounds=1))
        rate = max(once.loop(replace(load, connections=8)).rates)
        steady = replace(load, rate=rate * LOAD_SHARE, seconds=context.sizes.soak_s)
        running = context.generator.start(replace(steady, serial=len(load.requests) * 10_000))
        soak = watch_memory(session.service, running, context.sizes.soak_sample_s)
        record = running.result()
        require_good(record, most_refused=1)
    setup = context.setup(
        home, seconds=context.sizes.soak_s, requests_per_s=round(steady.rate or 0)
    )
    figures = (
        Figure("requests answered", "requests", float(record.is_fine.sum())),
        *soak.list_figures(),
    )
    return [Result("Memory under a steady load", setup, figures)], {"memory_growth": soak.growth}


def _mix(context: Context, session: Session) -> Load:
    """An enrollment, then single matches; now and then one of those is a whole batch."""
    caller, home = session.caller, session.home
    pairs = pair_items(home, max(context.sizes.pairs, BATCH))
    singles = pack(caller, pairs, 1)
    probes = draw_probes(home, max(context.sizes.probes, BATCH), context.seed)
    batches = chain.from_iterable(
        repeat((pack(caller, pairs, BATCH)[0], pack(session.searcher, probes.items, BATCH)[0]))
    )
    requests: list[Request] = []
    for visit in write_visits(caller, context.visitors.people, "soak"):
        requests.append(visit)
        for _ in range(SINGLES_A_VISIT):
            place = len(requests)
            is_batch = place % SINGLES_A_BATCH == 1
            requests.append(next(batches) if is_batch else singles[place % len(singles)])
    return session.make_load(requests, connections=64)
