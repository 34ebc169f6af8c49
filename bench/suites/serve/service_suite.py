"""Suite `serve`: the service as a real process, loaded, starved, killed, and compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bench.core.machine import filesystem_of
from bench.core.reports import Figure, Measured, Result, Skipped
from bench.suites.registrar import DISK, MEMORY
from bench.suites.serve.chaos import measure_kills
from bench.suites.serve.fixtures import TENANT, Home, Person, draw_people
from bench.suites.serve.load_requests import (
    BATCH,
    Caller,
    Load,
    draw_probes,
    pack,
    pair_items,
    write_visits,
)
from bench.suites.serve.overload import OverloadPlan, OverloadRun, run_overload
from bench.suites.serve.process import HOST, Service, serve
from bench.suites.serve.sizes import Context, Found, Part, Sizes, open_context
from bench.suites.serve.soak import measure_soak
from bench.suites.serve.throughput import (
    Enrolled,
    Enrolling,
    Loops,
    Visit,
    enroll_all,
    enroll_here,
    loop,
    match_load,
    require_good,
    search_all,
)
from engine.errors import RequestError
from engine.matching.requests import take_samples
from serving.settings import find_cache

# Part `start`: seconds from `sosie serve` to the first answer that it is ready.

PROMISED = ("ready_seconds", "ready_seconds_million")
"""Figures of the two sizes."""


def measure_start(context: Context) -> Found:
    """Starts on homes that were filled and closed before; the slowest start counts."""
    sizes = context.sizes
    results, measured = [], {}
    for name, references in zip(PROMISED, (sizes.references, sizes.million), strict=True):
        home = context.make_home(f"start-{references}", references)
        seconds = []
        for _ in range(sizes.starts):
            with serve(context.place(home)) as ready:
                seconds.append(ready.seconds)
        measured[name] = max(seconds)
        figures = (
            Figure.of("ready", "s", seconds),
            Figure("the slowest start", "s", max(seconds)),
        )
        results.append(
            Result("Start of the service", context.setup(home, starts=sizes.starts), figures)
        )
    return results, dict(measured)


# Part `overload`: latency at 70 % of what the service can do, refusals at three times as much.

ENROLLING_SECONDS = 8.0
SERIALS_APART = 200_000_000


def measure_overload(context: Context) -> Found:
    """Matches, then enrollments, on one service that is not restarted in between."""
    home = context.make_home("overload", context.sizes.references)
    sizes = context.sizes
    with context.serve(home) as service:
        caller = Caller(HOST, service.place.port, home.key)
        matches = _match_overload(context, service, home, caller)
        enrollments = _enroll(context, service, caller)
    results = [
        _list(context, home, "Matches", matches, sizes.match_overload),
        _list(context, home, "Enrollments", enrollments, sizes.enroll_overload),
    ]
    return results, matches.measure("match") | enrollments.measure("enroll")


def _match_overload(context: Context, service: Service, home: Home, caller: Caller) -> OverloadRun:
    requests = pack(caller, pair_items(home, context.sizes.pairs), 1)
    pace = context.sizes.pace
    load = match_load(service, requests, pace.connections)
    rate = max(loop(context.generator, service, load, pace).rates)
    return run_overload(context.generator, load, rate, context.sizes.match_overload)


def _enroll(context: Context, service: Service, caller: Caller) -> OverloadRun:
    pace = context.sizes.pace
    load = Load(
        host=HOST,
        port=service.place.port,
        requests=write_visits(caller, context.visitors.people, "storm"),
        connections=pace.enrolling_connections,
    )
    seconds = min(ENROLLING_SECONDS, pace.seconds * 2)
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


# Part `throughput`: what the service answers beside the library, and beside Serve's own proxy.

WARM_PEOPLE = 16
WARM_SERIAL = 800_000_000
OTHER_PROXY = "ray"


def measure_throughput(context: Context) -> Found:
    """Enrollments beside the library's own rate, matches beside Serve's own proxy."""
    sizes, results = context.sizes, []
    measured: dict[str, Measured] = {}
    home = context.make_home("throughput", sizes.references)
    here = home.copy("throughput-here")
    people = context.visitors.people
    half = len(people) // 2
    before = _enroll_here(context, here, people[:half], 0)
    with context.serve(home) as service:
        caller = Caller(HOST, service.place.port, home.key)
        _warm_up(context, service, caller)
        enrolling = _enroll_over_http(context, service, caller)
        matching = _match(context, service, home, caller)
        results += _measure_batches(context, service, home, caller, measured)
    after = _enroll_here(context, here, people[half:], half)
    with context.serve(home, OTHER_PROXY) as service:
        slow = _match(context, service, home, Caller(HOST, service.place.port, home.key))
    results[:0] = [
        _list_enrollments(context, home, enrolling, (before, after), measured),
        _list_matches(context, home, matching, slow, measured),
    ]
    return results, measured


def _warm_up(context: Context, service: Service, caller: Caller) -> None:
    enroll_all(
        context.generator,
        service,
        caller,
        context.visitors.people[-WARM_PEOPLE:],
        context.sizes.pace.enrolling_connections,
        name="warm",
        serial=WARM_SERIAL,
    )


def _enroll_over_http(context: Context, service: Service, caller: Caller) -> Enrolling:
    return enroll_all(
        context.generator,
        service,
        caller,
        context.visitors.people,
        context.sizes.pace.enrolling_connections,
        name="visit",
    )


def _enroll_here(context: Context, home: Home, people: tuple[Person, ...], first: int) -> Enrolled:
    visits = [Visit(person, first + place) for place, person in enumerate(people)]
    with home.open() as deployment:
        _ = deployment.registrar
        warm = [person.live for person in context.visitors.people[-WARM_PEOPLE:]]
        take_samples(warm, deployment.extractor, deployment.vault)
        return enroll_here(deployment, visits, TENANT)


def _match(context: Context, service: Service, home: Home, caller: Caller) -> Loops:
    requests = pack(caller, pair_items(home, context.sizes.pairs), 1)
    pace = context.sizes.pace
    return loop(context.generator, service, match_load(service, requests, pace.connections), pace)


def _measure_batches(
    context: Context, service: Service, home: Home, caller: Caller, measured: dict[str, Measured]
) -> list[Result]:
    """1:1 and 1:N in batches, and the 1:N answers held against brute force."""
    sizes, pace = context.sizes, context.sizes.pace
    setup = context.setup(home, items=BATCH, connections=pace.batch_connections)
    pairs = pack(caller, pair_items(home, max(sizes.pairs, BATCH)), BATCH)
    probes = draw_probes(home, sizes.probes, context.seed)
    searches = pack(caller, probes.items, BATCH)
    compared = loop(
        context.generator, service, match_load(service, pairs, pace.batch_connections), pace
    )
    searched = loop(
        context.generator, service, match_load(service, searches, pace.batch_connections), pace
    )
    checked = search_all(context.generator, service, home, caller, probes)
    measured["batched_comparisons_per_second"] = _median(compared.rates) * BATCH
    measured["searches_per_second"] = _median(searched.rates) * BATCH
    measured["wrong_searches"] = float(checked.wrong)
    return [
        Result("Matches in batches, 1:1", setup, compared.list_figures("comparisons", BATCH)),
        Result("Matches in batches, 1:N", setup, searched.list_figures("searches", BATCH)),
        Result(
            "1:N answers beside brute force",
            setup,
            (
                Figure("searches compared", "searches", float(checked.probes)),
                Figure("candidates missed", "candidates", float(checked.missed)),
                Figure("candidates that are none", "candidates", float(checked.ghosts)),
                Figure("best scores that differ", "searches", float(checked.wrong_scores)),
                Figure("planted mates above the threshold", "mates", float(checked.mates)),
                Figure("recall of them", "share", checked.recall)
                if checked.mates
                else Figure.skip("recall of them", "share", "no mate was planted among them"),
            ),
        ),
    ]


def _list_enrollments(
    context: Context,
    home: Home,
    enrolling: Enrolling,
    here: tuple[Enrolled, Enrolled],
    measured: dict[str, Measured],
) -> Result:
    count = sum(len(one.decisions) for one in here)
    own_rate = count / sum(one.seconds for one in here)
    record = enrolling.record
    measured["enrollment_share"] = record.rate / own_rate
    decided = enrolling.count_decisions()
    own = here[0].count_decisions()
    for decision, times in here[1].count_decisions().items():
        own[decision] = own.get(decision, 0) + times
    setup = context.setup(home, connections=context.sizes.pace.enrolling_connections)
    return Result(
        "Enrollments with two photographs",
        setup,
        (
            Figure("in process, before and after", "1/s", own_rate, ratio=1.0),
            Figure("over HTTP", "1/s", record.rate, ratio=record.rate / own_rate),
            Figure("over HTTP: p50", "ms", record.quantile_ms(0.5)),
            Figure("over HTTP: p99", "ms", record.quantile_ms(0.99)),
            *enrolling.usage.list_figures("over HTTP", len(record)),
            *(Figure(f"in process: {name}", "decisions", times) for name, times in own.items()),
            *(Figure(f"over HTTP: {name}", "decisions", times) for name, times in decided.items()),
        ),
    )


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
        (
            *slow.list_figures("behind Serve's own proxy"),
            *fast.list_figures("as it comes"),
        ),
    )


def _median(values: list[float]) -> float:
    return float(np.median(values))


MEASURE: Mapping[Part, Callable[[Context], Found]] = {
    Part.THROUGHPUT: measure_throughput,
    Part.OVERLOAD: measure_overload,
    Part.START: measure_start,
    Part.KILLS: measure_kills,
    Part.SOAK: measure_soak,
}
STORM = ("calm_p99_over_p50", "storm_p99_over_calm", "refusal_ms", "recovery_s", "unexpected")
FIGURES: Mapping[Part, tuple[str, ...]] = {
    Part.THROUGHPUT: (
        "enrollment_share",
        "proxy_speedup",
        "matches_per_second",
        "batched_comparisons_per_second",
        "searches_per_second",
        "wrong_searches",
    ),
    Part.OVERLOAD: tuple(f"{what}_{name}" for what in ("match", "enroll") for name in STORM),
    Part.START: PROMISED,
    Part.KILLS: (
        "kills",
        "lost_enrollments",
        "doubled_enrollments",
        "final_failures",
        "race_difference",
    ),
    Part.SOAK: ("memory_growth",),
}
RIGHT_AT_ANY_SIZE = frozenset(
    {
        "wrong_searches",
        "lost_enrollments",
        "doubled_enrollments",
        "final_failures",
        "race_difference",
    }
)
"""Figures that are promised whatever the sizes; the others are for the suite's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """`parts` in their order; homes are made in `folder`, which must be on a disk."""

    sizes: Sizes = field(default_factory=Sizes)
    parts: Sequence[Part] = tuple(MEASURE)
    faces: Path | None = None
    folder: Path = DISK
    seed: int = 0


def run(config: ServeConfig) -> tuple[tuple[Result, ...], dict[str, Measured]]:
    """All results of the suite, and the figures that its goals name."""
    if not config.folder.is_dir():
        raise RequestError(f"no folder {config.folder}: give one on a disk as --folder")
    visitors = draw_people(config.faces, config.sizes.people, config.seed)
    results: list[Result] = []
    measured: dict[str, Measured] = {}
    with open_context(config.sizes, visitors, config.seed, config.folder, find_cache()) as context:
        for part, measure in MEASURE.items():
            if part not in config.parts:
                measured |= dict.fromkeys(FIGURES[part], Skipped(f"--only without {part}"))
                continue
            try:
                found, figures = measure(context)
            except RequestError as error:
                # The other parts took half an hour: theirs are told all the same.
                failed = Result(f"Part {part} failed: {error}", context.describe(), ())
                found, figures = [failed], dict.fromkeys(FIGURES[part], float("nan"))
            assert set(figures) == set(FIGURES[part]), "a part measures what it says"
            results += found
            measured |= {name: _judge(name, value, config) for name, value in figures.items()}
    return tuple(results), measured


def read_parts(text: str) -> tuple[Part, ...]:
    """Parts by name, with commas between them; all for an empty text."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in set(Part)]
    if unknown:
        raise RequestError(f"no part {unknown[0]}: choose of {', '.join(Part)}")
    return tuple(Part(name) for name in names) or tuple(MEASURE)


def _judge(name: str, value: Measured, config: ServeConfig) -> Measured:
    """A figure counts where it was measured as promised."""
    sizes, promised = config.sizes, Sizes()
    filesystem = filesystem_of(config.folder)
    if isinstance(value, Skipped) or name in RIGHT_AT_ANY_SIZE:
        return value
    if filesystem in MEMORY:
        return Skipped(f"{config.folder} is {filesystem}: not durable")
    if name == "ready_seconds_million":
        is_small = sizes.million < promised.million
    elif name == "kills":
        is_small = sizes.kills < promised.kills
    elif name == "memory_growth":
        is_small = sizes.soak_s < promised.soak_s
    else:
        is_small = sizes.references < promised.references or sizes.pace != promised.pace
    return Skipped("promised for the default sizes, not for these") if is_small else value
