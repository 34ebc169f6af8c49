"""Suite `serve`: the service as a real process, loaded, starved, killed, and compared."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from itertools import cycle

import numpy as np
import psutil

from bench.core.reports import Figure, Measured, Result, SuiteOutput
from bench.suites.serve.chaos import measure_kills
from bench.suites.serve.context import (
    Context,
    LoadedService,
    OverloadPlan,
    Pace,
    ServeConfig,
    require_good,
)
from bench.suites.serve.load_generator import (
    BATCH,
    Generator,
    PreparedRequest,
    Record,
    Seconds,
    draw_probes,
    pack,
    pair_items,
    write_visits,
)
from bench.suites.serve.process import MIB, OTHERS, Service, draw_people, name_part, read_pss, serve
from bench.suites.serve.throughput import measure_overload, measure_throughput
from engine.errors import RequestError
from serving.cluster.environment import OwnedFolder
from serving.cluster.processes import Role, ServiceFailed, find_processes, list_descendants

FAILOVER_TIMEOUT_S, LOOK_S = 300.0, 0.02
WARM_S, LEAST_SAMPLES = 60.0, 4
"""Allocators, pools and caches fill in the first minute."""
LOAD_SHARE = 0.5
SINGLES_A_VISIT, SINGLES_A_BATCH = 20, 200
BRIEF = OverloadPlan(
    capacity_s=0.5, idle_s=1, calm_s=1, storm_s=1, recovery_s=3, storm_connections=64
)
QUICK = {
    "references": 2_000,
    "million": 4_000,
    "people": 16,
    "pairs": 256,
    "probes": 256,
    "pace": Pace(
        seconds=0.5, rounds=1, connections=4, batch_connections=1, enrolling_connections=4
    ),
    "match_overload": BRIEF,
    "enroll_overload": replace(BRIEF, objective_s=1.0),
    "soak_s": 6.0,
    "soak_sample_s": 0.5,
    "starts": 1,
    "kills": 3,
}


def measure_start(context: Context) -> SuiteOutput:
    """Part `start`: seconds from `sosie serve` to the first answer that it is ready, and from a
    SIGKILL of the registrar to that.

    On homes that were filled and closed before; the slowest start counts.
    """
    config, results, measured = context.config, [], dict[str, Measured]()
    sizes = {"ready_seconds": config.references, "ready_seconds_million": config.million}
    for name, references in sizes.items():
        home = context.make_home(f"start-{references}", references)
        seconds, failovers = [], []
        for _ in range(config.starts):
            with serve(home.path) as (service, ready_s):
                seconds.append(ready_s)
                failovers.append(_fail_over(service))
        measured[name] = max(seconds)
        figures = (
            Figure.of("ready", "s", seconds),
            Figure("the slowest start", "s", max(seconds)),
            Figure.of("ready after SIGKILL of the registrar", "s", failovers),
        )
        setup = context.setup(home, starts=config.starts)
        results.append(Result("Start of the service", setup, figures))
    return results, measured


def _fail_over(service: Service) -> float:
    """Seconds from the registrar's end to readiness with another one."""
    begun = time.perf_counter()
    (killed,) = find_processes(service.pid)[Role.REGISTRAR]
    psutil.Process(killed).kill()
    while find_processes(service.pid)[Role.REGISTRAR] in ([], [killed]):
        if time.perf_counter() - begun > FAILOVER_TIMEOUT_S:
            raise ServiceFailed("no registrar was started in place of the one that was killed")
        time.sleep(LOOK_S)
    return service.wait_ready(begun, FAILOVER_TIMEOUT_S)


def find_growth(moments_s: Seconds, memory: Seconds) -> float:
    """What the straight line through the samples after the first minute rises, as a share of where
    it begins."""
    is_settled = moments_s >= min(WARM_S, float(moments_s[-1]) / 3)
    moments = moments_s[is_settled]
    slope, start = np.polyfit(moments - moments[0], memory[is_settled], 1)
    return float(slope * (moments[-1] - moments[0]) / start)


def watch_memory(
    service: Service, running: Future[Record], sample_s: float
) -> tuple[float, Counter[str]]:
    """Samples until the load has ended: the growth, and the bytes of each part at the end."""
    moments, totals, start = list[float](), list[float](), time.perf_counter()
    while len(moments) < LEAST_SAMPLES or not running.done():
        service.require_running()
        moments.append(time.perf_counter() - start)
        parts = measure_parts(service)
        totals.append(parts.total())
        time.sleep(sample_s)
    return find_growth(np.array(moments), np.array(totals)), parts


def measure_parts(service: Service) -> Counter[str]:
    """Bytes of each part of a service (PSS), `sosie serve` itself among the others."""
    found: Counter[str] = Counter()
    found[OTHERS] = read_pss(service.pid)
    for process in list_descendants(service.pid):
        found[name_part(process)] += read_pss(process.pid)
    return found


def measure_soak(context: Context) -> SuiteOutput:
    """Part `soak`: memory of all processes of the service under a steady mix of work.

    Single matches, batches, searches and enrollments, at half of what the service can do.
    """
    config, home = context.config, context.make_home("soak", context.config.references)
    with context.serve(home) as session:
        requests = _mix(context, session)
        once = replace(session, pace=replace(session.pace, rounds=1))
        rate = LOAD_SHARE * max(once.loop(requests, 8).rates)
        first = len(requests) * 10_000
        load = session.make_load(requests, 64, rate=rate, seconds=config.soak_s, serial=first)
        running = context.generator.start(load)
        growth, parts = watch_memory(session.service, running, config.soak_sample_s)
        require_good(running.result(), most_refused=1)
    setup = context.setup(home, seconds=config.soak_s, requests_per_s=round(rate))
    figures = (
        Figure(f"memory at the end: {part}", "MiB", size_bytes / MIB)
        for part, size_bytes in sorted(parts.items())
    )
    result = Result("Memory under a steady load", setup, tuple(figures))
    return [result], {"memory_growth": growth}


def _mix(context: Context, session: LoadedService) -> list[PreparedRequest]:
    """An enrollment, then single matches; now and then one of those is a whole batch."""
    caller, home, config = session.caller, session.home, context.config
    pairs = pair_items(home, max(config.pairs, BATCH))
    singles = pack(caller, pairs, 1)
    probes = draw_probes(home, max(config.probes, BATCH), config.seed)
    batches = cycle((pack(caller, pairs, BATCH)[0], pack(session.searcher, probes.items, BATCH)[0]))
    requests: list[PreparedRequest] = []
    for visit in write_visits(caller, context.visitors.people, "soak"):
        requests.append(visit)
        for _ in range(SINGLES_A_VISIT):
            place = len(requests)
            is_batch = place % SINGLES_A_BATCH == 1
            requests.append(next(batches) if is_batch else singles[place % len(singles)])
    return requests


STORM = (
    "calm_p99_over_idle_p50",
    "storm_goodput",
    "storm_p99_over_calm",
    "refusal_over_calm",
    "recovery_over_storm",
    "unexpected",
)
PARTS: Mapping[str, tuple[Callable[[Context], SuiteOutput], tuple[str, ...]]] = {
    "throughput": (
        measure_throughput,
        (
            "enrollment_share",
            "enrollment_cost",
            "proxy_speedup",
            "matches_per_second",
            "batched_comparisons_per_second",
            "searches_per_second",
            "wrong_searches",
        ),
    ),
    "overload": (
        measure_overload,
        tuple(f"{what}_{name}" for what in ("match", "enroll") for name in STORM),
    ),
    "start": (measure_start, ("ready_seconds", "ready_seconds_million")),
    "kills": (
        measure_kills,
        ("kills", "lost_enrollments", "doubled_enrollments", "final_failures"),
    ),
    "soak": (measure_soak, ("memory_growth",)),
}
"""What measures a part, and the figures of it that goals name."""
LONG_PARTS = ("kills", "soak")
"""Not run unless they are asked for: twenty minutes."""


def run(config: ServeConfig) -> SuiteOutput:
    if not config.folder.is_dir():
        raise RequestError(f"no folder {config.folder}: give one on a disk as --folder")
    usual = [part for part in PARTS if config.long or part not in LONG_PARTS]
    chosen = config.parts or usual
    visitors = draw_people(config.faces, config.people, config.seed)
    results, measured = list[Result](), dict[str, Measured]()
    folder = OwnedFolder("sosie-bench-", config.folder)
    try:
        with Generator() as generator:
            context = Context(config, visitors, folder.path, generator)
            for part, (measure, names) in PARTS.items():
                if part not in chosen:
                    continue
                try:
                    found, figures = measure(context)
                except RequestError as error:
                    # The other parts took minutes: theirs are told all the same.
                    why = Figure.skip(part, "s", f"failed: {error}")
                    found, figures = [Result(f"Part {part}", {}, (why,))], {}
                results += found
                measured |= {name: figures.get(name, float("nan")) for name in names}
    finally:
        folder.close()
    return results, measured
