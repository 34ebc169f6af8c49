"""Suite `serve`: the service as a real process, loaded, starved, killed, and compared."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.core.machine import DISK, MEMORY, filesystem_of
from bench.core.reports import Figure, Measured, Result, Skipped, SuiteOutput
from bench.suites.serve.chaos import measure_kills
from bench.suites.serve.fixtures import Home, draw_people
from bench.suites.serve.load_requests import BATCH, draw_probes, pack, pair_items, write_visits
from bench.suites.serve.process import Service, ServiceFailed, Usage, kill_hard, list_usage, serve
from bench.suites.serve.sizes import Context, Part, Sizes, open_context
from bench.suites.serve.soak import measure_soak
from bench.suites.serve.throughput import (
    Enrolled,
    Enrolling,
    Loops,
    OverloadPlan,
    OverloadRun,
    Pace,
    Session,
    enroll_here,
    require_good,
    run_overload,
)
from engine.errors import RequestError
from engine.matching.samples import take_samples
from serving.cluster.processes import Role, find_processes

PROMISED = ("ready_seconds", "ready_seconds_million")
"""Figures of the two sizes."""


def measure_start(context: Context) -> SuiteOutput:
    """Part `start`: seconds from `sosie serve` to the first answer that it is ready, and from a
    SIGKILL of the registrar to that.

    On homes that were filled and closed before; the slowest start counts.
    """
    sizes = context.sizes
    results, measured = [], {}
    for name, references in zip(PROMISED, (sizes.references, sizes.million), strict=True):
        home = context.make_home(f"start-{references}", references)
        seconds, failovers = [], []
        for _ in range(sizes.starts):
            with serve(context.place(home)) as (service, ready_s):
                seconds.append(ready_s)
                failovers.append(_fail_over(service))
        measured[name] = max(seconds)
        figures = (
            Figure.of("ready", "s", seconds),
            Figure("the slowest start", "s", max(seconds)),
            Figure.of("ready after SIGKILL of the registrar", "s", failovers),
        )
        results.append(
            Result("Start of the service", context.setup(home, starts=sizes.starts), figures)
        )
    return results, dict(measured)


FAILOVER_TIMEOUT_S, LOOK_S = 300.0, 0.02


def _fail_over(service: Service) -> float:
    """Seconds from the registrar's end to readiness with another one."""
    begun = time.perf_counter()
    (killed,) = find_processes(service.pid)[Role.REGISTRAR]
    kill_hard([killed])
    while find_processes(service.pid)[Role.REGISTRAR] in ([], [killed]):
        if time.perf_counter() - begun > FAILOVER_TIMEOUT_S:
            raise ServiceFailed("no registrar was started in place of the one that was killed")
        time.sleep(LOOK_S)
    return service.wait_ready(begun, FAILOVER_TIMEOUT_S)


ENROLLING_SECONDS = 8.0
SERIALS_APART = 200_000_000


def measure_overload(context: Context) -> SuiteOutput:
    """Part `overload`: latency at 70 % of what the service can do, refusals at three times as much.

    Matches, then enrollments, on one service that is not restarted in between.
    """
    sizes = context.sizes
    home = context.make_home("overload", sizes.references)
    with context.serve(home) as session:
        matches = _overload_by_matches(context, session)
        enrollments = _overload_by_enrollments(context, session)
    results = [
        _list(context, home, "Matches", matches, sizes.match_overload),
        _list(context, home, "Enrollments", enrollments, sizes.enroll_overload),
    ]
    return results, matches.measure("match") | enrollments.measure("enroll")


def _overload_by_matches(context: Context, session: Session) -> OverloadRun:
    requests = pack(session.caller, pair_items(session.home, context.sizes.pairs), 1)
    load = session.make_load(requests, session.pace.connections)
    rate = _median(session.loop(load).rates)
    return run_overload(context.generator, load, rate, context.sizes.match_overload)


def _overload_by_enrollments(context: Context, session: Session) -> OverloadRun:
    requests = write_visits(session.caller, context.visitors.people, "storm")
    load = session.make_load(requests, session.pace.enrolling_connections)
    seconds = min(ENROLLING_SECONDS, session.pace.seconds * 2)
    context.generator.run(replace(load, seconds=seconds / 2, serial=SERIALS_APART))
    full = context.generator.run(replace(load, seconds=seconds, serial=2 * SERIALS_APART))
    require_good(full)
    return run_overload(context.generator, load, full.rate, context.sizes.enroll_overload)


def _list(
    context: Context, home: Home, what: str, found: OverloadRun, plan: OverloadPlan
) -> Result:
    setup = context.setup(
        home,
        arrivals="evenly spaced",
        calm_s=plan.calm_s,
        storm_s=plan.storm_s,
        calm_connections=plan.calm_connections,
        storm_connections=plan.storm_connections,
    )
    return Result(f"{what} below and far above what it can do", setup, found.list_figures())


WARM_PEOPLE = 16
WARM_SERIAL = 800_000_000
OTHER_PROXY = "ray"
TURNS = 4
Turns = Sequence[tuple[Enrolling, Enrolled]]
"""People who were enrolled over HTTP, then in this process; `TURNS` times."""


def measure_throughput(context: Context) -> SuiteOutput:
    """Part `throughput`: enrollments beside the library's rate, matches beside Serve's proxy."""
    measured: dict[str, Measured] = {}
    home = context.make_home("throughput", context.sizes.references)
    here = home.copy("throughput-here")
    with context.serve(home) as session:
        turns = _enroll_by_turns(context, session, here)
        matching = _match(context, session)
        batches = _measure_batches(context, session, measured)
    with context.serve(home, OTHER_PROXY) as session:
        slow = _match(context, session)
    results = [
        _list_enrollments(context, home, turns, measured),
        _list_costs(context, home, turns, measured),
        _list_matches(context, home, matching, slow, measured),
        *batches,
    ]
    return results, measured


def _enroll_by_turns(context: Context, session: Session, here: Home) -> Turns:
    """The same people enrolled over HTTP and in this process, a part of them by each in turn, so
    that both meet the same moments of the machine. The service idles while the library works."""
    people = context.visitors.people
    warm = people[-WARM_PEOPLE:]
    session.enroll_all(warm, "warm", WARM_SERIAL)
    turns = []
    with here.open() as deployment:
        _ = deployment.registrar
        take_samples([one.live for one in warm], deployment.extractor, deployment.vault)
        size = math.ceil(len(people) / TURNS)
        for first in range(0, len(people), size):
            part = people[first : first + size]
            served = session.enroll_all(part, "visit", first)
            turns.append((served, enroll_here(deployment, part, first)))
    return turns


def _match(context: Context, session: Session) -> Loops:
    items = pair_items(session.home, context.sizes.pairs)
    return session.match(items, 1, session.pace.connections)


def _measure_batches(
    context: Context, session: Session, measured: dict[str, Measured]
) -> list[Result]:
    """1:1 and 1:N in batches, and the 1:N answers held against brute force."""
    sizes, home, connections = context.sizes, session.home, session.pace.batch_connections
    setup = context.setup(home, items=BATCH, connections=connections)
    probes = draw_probes(home, sizes.probes, context.seed)
    compared = session.match(pair_items(home, max(sizes.pairs, BATCH)), BATCH, connections)
    searched = session.search(probes, BATCH, connections)
    measured["batched_comparisons_per_second"] = _median(compared.rates) * BATCH
    measured["searches_per_second"] = _median(searched.rates) * BATCH
    measured["wrong_searches"] = float(session.search_all(probes))
    return [
        Result("Matches in batches, 1:1", setup, compared.list_figures("comparisons", BATCH)),
        Result("Matches in batches, 1:N", setup, searched.list_figures("searches", BATCH)),
    ]


def _list_enrollments(
    context: Context, home: Home, turns: Turns, measured: dict[str, Measured]
) -> Result:
    records = [served.record for served, _ in turns]
    rate = _rate_of((int(one.is_fine.sum()), one.seconds) for one in records)
    own_rate = _rate_of((len(own.decisions), own.seconds) for _, own in turns)
    waited_ms = np.concatenate([one.latency_s[one.is_fine] for one in records]) * 1e3
    measured["enrollment_share"] = rate / own_rate
    setup = context.setup(home, connections=context.sizes.pace.enrolling_connections)
    usage = _add(served.usage for served, _ in turns)
    return Result(
        "Enrollments with two photographs",
        setup,
        (
            Figure("in process, by turns", "1/s", own_rate, ratio=1.0),
            Figure("over HTTP", "1/s", rate, ratio=rate / own_rate),
            Figure("over HTTP: p50", "ms", float(np.quantile(waited_ms, 0.5))),
            Figure("over HTTP: p99", "ms", float(np.quantile(waited_ms, 0.99))),
            *list_usage(usage, "over HTTP", sum(map(len, records))),
        ),
    )


def _list_costs(
    context: Context, home: Home, turns: Turns, measured: dict[str, Measured]
) -> Result:
    """The service's beside the library's, the generator apart."""
    served, own = zip(*turns, strict=True)
    used_ms = _sum(one.usage for one in served) / sum(len(one.record) for one in served) * 1e3
    own_ms = _sum(one.usage for one in own) / sum(len(one.decisions) for one in own) * 1e3
    measured["enrollment_cost"] = used_ms / own_ms
    setup = context.setup(home, connections=context.sizes.pace.enrolling_connections)
    figures = (
        Figure("in process: all", "ms of a core", own_ms, ratio=1.0),
        Figure("over HTTP: all", "ms of a core", used_ms, ratio=own_ms / used_ms),
    )
    return Result("Processor time of an enrollment", setup, figures)


def _sum(usages: Iterable[Usage]) -> float:
    return sum(sum(usage.values()) for usage in usages)


def _rate_of(parts: Iterable[tuple[int, float]]) -> float:
    counts, seconds = zip(*parts, strict=True)
    return float(sum(counts) / sum(seconds))


def _add(usages: Iterable[Usage]) -> Usage:
    total: Usage = {}
    for usage in usages:
        for name, seconds in usage.items():
            total[name] = total.get(name, 0.0) + seconds
    return total


def _list_matches(
    context: Context, home: Home, fast: Loops, slow: Loops, measured: dict[str, Measured]
) -> Result:
    rate, other = _median(fast.rates), _median(slow.rates)
    measured["matches_per_second"] = rate
    measured["proxy_speedup"] = rate / other
    setup = context.setup(home, items=1, connections=context.sizes.pace.connections)
    return Result(
        "Matches, one 1:1 item a request",
        setup,
        (*slow.list_figures("behind Serve's own proxy"), *fast.list_figures("as it comes")),
    )


def _median(values: list[float]) -> float:
    return float(np.median(values))


QUICK = {
    "references": 2_000,
    "million": 4_000,
    "people": 16,
    "pairs": 256,
    "probes": 256,
    "pace": Pace(
        seconds=0.5, rounds=1, connections=4, batch_connections=1, enrolling_connections=4
    ),
    "match_overload": OverloadPlan(calm_s=1, storm_s=1, recovery_s=3, storm_connections=64),
    "enroll_overload": OverloadPlan(calm_s=1, storm_s=1, recovery_s=3, storm_connections=64),
    "soak_s": 6,
    "soak_sample_s": 0.5,
    "starts": 1,
    "kills": 3,
    "races": 1,
}


STORM = (
    "calm_p99_over_p50",
    "storm_p99_over_calm",
    "refusal_over_calm",
    "recovery_over_storm",
    "unexpected",
)
KILLS = ("kills", "lost_enrollments", "doubled_enrollments", "final_failures", "race_difference")
PARTS: Mapping[Part, tuple[Callable[[Context], SuiteOutput], tuple[str, ...]]] = {
    Part.THROUGHPUT: (
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
    Part.OVERLOAD: (
        measure_overload,
        tuple(f"{what}_{name}" for what in ("match", "enroll") for name in STORM),
    ),
    Part.START: (measure_start, PROMISED),
    Part.KILLS: (measure_kills, KILLS),
    Part.SOAK: (measure_soak, ("memory_growth",)),
}
"""What measures a part, and the figures of it that goals name."""
RIGHT_AT_ANY_SIZE = {"wrong_searches", *KILLS} - {"kills"}
"""Figures that are promised whatever the sizes; the others are for the suite's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Sizes):
    """`parts` in their order; homes are made in `folder`, which must be on a disk."""

    parts: tuple[str, ...] = ()
    faces: Path | None = None
    folder: Path = DISK
    seed: int = 0


def run(config: Config) -> SuiteOutput:
    if not config.folder.is_dir():
        raise RequestError(f"no folder {config.folder}: give one on a disk as --folder")
    visitors = draw_people(config.faces, config.people, config.seed)
    results: list[Result] = []
    measured: dict[str, Measured] = {}
    with open_context(config, visitors, config.seed, config.folder) as context:
        for part, (measure, names) in PARTS.items():
            if config.parts and part not in config.parts:
                continue
            try:
                found, figures = measure(context)
            except RequestError as error:
                # The other parts took half an hour: theirs are told all the same.
                why = Figure.skip(part.value, "s", f"failed: {error}")
                found = [Result(f"Part {part}", context.describe(), (why,))]
                figures = dict.fromkeys(names, float("nan"))
            assert set(figures) == set(names), "a part measures what it says"
            results += found
            measured |= {name: _judge(name, value, config) for name, value in figures.items()}
    return tuple(results), measured


def _judge(name: str, value: Measured, config: Config) -> Measured:
    """A figure counts where it was measured as promised."""
    promised = Sizes()
    filesystem = filesystem_of(config.folder)
    if isinstance(value, Skipped) or name in RIGHT_AT_ANY_SIZE:
        return value
    if filesystem in MEMORY:
        return Skipped(f"{config.folder} is {filesystem}: not durable")
    if name == "ready_seconds_million":
        is_small = config.million < promised.million
    elif name == "kills":
        is_small = config.kills < promised.kills
    elif name == "memory_growth":
        is_small = config.soak_s < promised.soak_s
    else:
        is_small = config.references < promised.references or config.pace != promised.pace
    return Skipped("promised for the default sizes, not for these") if is_small else value
