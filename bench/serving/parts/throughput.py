"""Part `throughput`: what the service answers beside the library, and beside Serve's own proxy."""

from __future__ import annotations

import numpy as np

from bench.checks import Measured
from bench.report import Figure, Result
from bench.serving.homes import TENANT, Home
from bench.serving.inprocess import Enrolled, Visit, enroll_here
from bench.serving.people import Person
from bench.serving.probes import BATCH, draw_probes, pack, pair_items
from bench.serving.service import HOST, Service
from bench.serving.stage import Found, Stage
from bench.serving.throughput import (
    Enrolling,
    Loops,
    enroll_all,
    loop,
    match_load,
    search_all,
)
from bench.serving.wire import Caller
from engine.matching.sampling import take_samples

WARM_PEOPLE = 16
WARM_SERIAL = 800_000_000
OTHER_PROXY = "ray"


def measure_throughput(stage: Stage) -> Found:
    """Enrollments beside the library's own rate, matches beside Serve's own proxy."""
    sizes, results = stage.sizes, []
    measured: dict[str, Measured] = {}
    home = stage.make_home("throughput", sizes.references)
    here = home.copy("throughput-here")
    people = stage.crowd.people
    half = len(people) // 2
    before = _enroll_here(stage, here, people[:half], 0)
    with stage.serve(home) as service:
        caller = Caller(HOST, service.place.port, home.key)
        _warm_up(stage, service, caller)
        enrolling = _enroll_over_http(stage, service, caller)
        matching = _match(stage, service, home, caller)
        results += _measure_batches(stage, service, home, caller, measured)
    after = _enroll_here(stage, here, people[half:], half)
    with stage.serve(home, OTHER_PROXY) as service:
        slow = _match(stage, service, home, Caller(HOST, service.place.port, home.key))
    results[:0] = [
        _list_enrollments(stage, home, enrolling, (before, after), measured),
        _list_matches(stage, home, matching, slow, measured),
    ]
    return results, measured


def _warm_up(stage: Stage, service: Service, caller: Caller) -> None:
    enroll_all(
        stage.generator,
        service,
        caller,
        stage.crowd.people[-WARM_PEOPLE:],
        stage.sizes.pace.enrolling_connections,
        name="warm",
        serial=WARM_SERIAL,
    )


def _enroll_over_http(stage: Stage, service: Service, caller: Caller) -> Enrolling:
    return enroll_all(
        stage.generator,
        service,
        caller,
        stage.crowd.people,
        stage.sizes.pace.enrolling_connections,
        name="visit",
    )


def _enroll_here(stage: Stage, home: Home, people: tuple[Person, ...], first: int) -> Enrolled:
    visits = [Visit(person, first + place) for place, person in enumerate(people)]
    with home.open() as deployment:
        _ = deployment.registrar
        warm = [person.live for person in stage.crowd.people[-WARM_PEOPLE:]]
        take_samples(warm, deployment.extractor, deployment.vault)
        return enroll_here(deployment, visits, TENANT)


def _match(stage: Stage, service: Service, home: Home, caller: Caller) -> Loops:
    requests = pack(caller, pair_items(home, stage.sizes.pairs), 1)
    pace = stage.sizes.pace
    return loop(stage.generator, service, match_load(service, requests, pace.connections), pace)


def _measure_batches(
    stage: Stage, service: Service, home: Home, caller: Caller, measured: dict[str, Measured]
) -> list[Result]:
    """1:1 and 1:N in batches, and the 1:N answers held against brute force."""
    sizes, pace = stage.sizes, stage.sizes.pace
    setup = stage.setup(home, items=BATCH, connections=pace.batch_connections)
    pairs = pack(caller, pair_items(home, max(sizes.pairs, BATCH)), BATCH)
    probes = draw_probes(home, sizes.probes, stage.seed)
    searches = pack(caller, probes.items, BATCH)
    compared = loop(
        stage.generator, service, match_load(service, pairs, pace.batch_connections), pace
    )
    searched = loop(
        stage.generator, service, match_load(service, searches, pace.batch_connections), pace
    )
    checked = search_all(stage.generator, service, home, caller, probes)
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
    stage: Stage,
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
    setup = stage.setup(home, connections=stage.sizes.pace.enrolling_connections)
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
    stage: Stage, home: Home, fast: Loops, slow: Loops, measured: dict[str, Measured]
) -> Result:
    rate, other = _median(fast.rates), _median(slow.rates)
    measured["matches_per_second"] = rate
    measured["proxy_speedup"] = rate / other
    setup = stage.setup(home, items=1, connections=stage.sizes.pace.connections)
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
