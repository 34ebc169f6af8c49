"""Part `overload`: latency at 70 % of what the service can do, refusals at three times as much."""

from __future__ import annotations

from dataclasses import replace

from bench.report import Result
from bench.serving.homes import Home
from bench.serving.load import Load
from bench.serving.probes import pack, pair_items
from bench.serving.service import HOST, Service
from bench.serving.stage import Found, Stage
from bench.serving.storm import Weather, Weathered, weather
from bench.serving.throughput import loop, match_load, require_good
from bench.serving.visits import write_visits
from bench.serving.wire import Caller

ENROLLING_SECONDS = 8.0
SERIALS_APART = 200_000_000


def measure_overload(stage: Stage) -> Found:
    """Matches, then enrollments, on one service that is not restarted in between."""
    home = stage.make_home("overload", stage.sizes.references)
    sizes = stage.sizes
    with stage.serve(home) as service:
        caller = Caller(HOST, service.place.port, home.key)
        matches = _match(stage, service, home, caller)
        enrollments = _enroll(stage, service, caller)
    results = [
        _list(stage, home, "Matches", matches, sizes.match_weather),
        _list(stage, home, "Enrollments", enrollments, sizes.enroll_weather),
    ]
    return results, matches.measure("match") | enrollments.measure("enroll")


def _match(stage: Stage, service: Service, home: Home, caller: Caller) -> Weathered:
    requests = pack(caller, pair_items(home, stage.sizes.pairs), 1)
    pace = stage.sizes.pace
    load = match_load(service, requests, pace.connections)
    rate = max(loop(stage.generator, service, load, pace).rates)
    return weather(stage.generator, load, rate, stage.sizes.match_weather)


def _enroll(stage: Stage, service: Service, caller: Caller) -> Weathered:
    pace = stage.sizes.pace
    load = Load(
        host=HOST,
        port=service.place.port,
        requests=write_visits(caller, stage.crowd.people, "storm"),
        connections=pace.enrolling_connections,
    )
    seconds = min(ENROLLING_SECONDS, pace.seconds * 2)
    stage.generator.run(replace(load, seconds=seconds / 2, serial=SERIALS_APART))
    full = stage.generator.run(replace(load, seconds=seconds, serial=2 * SERIALS_APART))
    require_good(full)
    return weather(stage.generator, load, full.rate, stage.sizes.enroll_weather)


def _list(stage: Stage, home: Home, what: str, found: Weathered, plan: Weather) -> Result:
    setup = stage.setup(
        home,
        arrivals="evenly spaced",
        calm_s=plan.calm_s,
        storm_s=plan.storm_s,
        calm_connections=plan.calm_connections,
        storm_connections=plan.storm_connections,
    )
    return Result(f"{what} below and far above what it can do", setup, found.list_figures())
