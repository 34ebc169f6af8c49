"""A service under a load below, far above, and again below what it can do."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bench.core.reports import Figure, Measured, Result, Skipped, SuiteOutput
from bench.suites.serve.context import Context, LoadedService, OverloadPlan, require_good
from bench.suites.serve.load_generator import Generator
from bench.suites.serve.load_requests import Load, Record, pack, pair_items, write_visits

CALM_SHARE, STORM_TIMES = 0.7, 3.0
SETTLING_S = 2.0
"""Of each load's beginning, not counted."""
BACK_TIMES = 1.2
"""The p99 is back where what is left of the load has this many times that before the storm."""
LEAST_SENT = 0.95
"""Of the storm's requests; with fewer of them it was another load."""
ENROLLING_SECONDS = 8.0
SERIALS_APART = 200_000_000


@dataclass(frozen=True, slots=True)
class OverloadRun:
    """The records of the three loads; `rate` is 100 %."""

    rate: float
    calm: Record
    storm: Record
    after: Record

    @property
    def calm_ms(self) -> tuple[float, float]:
        """p50 and p99 of the calm load."""
        return self.calm.quantile_ms(0.5), self.calm.quantile_ms(0.99)

    @property
    def unexpected(self) -> int:
        """Answers that are neither good nor a 429 with Retry-After; in calm, any but good ones."""
        storm = ~(self.storm.is_fine | self.storm.is_refused)
        calm = ~np.concatenate([self.calm.is_fine, self.after.is_fine])
        return int(storm.sum() + calm.sum())

    @property
    def after_s(self) -> float:
        return float(self.after.rows.intended_s.max(initial=0))

    def find_recovery_s(self) -> float:
        """Seconds after the storm from which on the calm load has its p99 back; inf for never."""
        end, bound = float(np.ceil(self.after_s)), BACK_TIMES * self.calm_ms[1]
        for start in np.arange(0, end - SETTLING_S, 0.5).tolist():
            rest = self.after.within(start, end)
            if rest.is_fine.any() and rest.quantile_ms(0.99) <= bound:
                return float(start)
        return float("inf")

    def list_figures(self) -> tuple[Figure, ...]:
        p50, p99 = self.calm_ms
        storm, name = self.storm, f"{STORM_TIMES:.0f} times the load"
        refused, none = storm.is_refused, "none was accepted"
        refused_ms = storm.quantile_ms(0.99, refused)
        never = f"never within {self.after_s:.0f} s"
        return (
            Figure("100 %: answers in a closed loop", "1/s", self.rate),
            _tell("70 %: p50", "ms", p50, none, ratio=1.0),
            _tell("70 %: p99", "ms", p99, none, ratio=p50 / p99),
            Figure(f"{name}: accepted", "1/s", storm.rate),
            _tell(f"{name}: accepted, p99", "ms", storm.quantile_ms(0.99), none),
            Figure(f"{name}: refused (429)", "share", float(refused.mean())),
            _tell(f"{name}: refused, p99", "ms", refused_ms, "none was refused"),
            _tell("afterwards: p99 is back after", "s", self.find_recovery_s(), never),
            Figure("answers of another kind", "answers", float(self.unexpected)),
        )

    def measure(self, prefix: str) -> dict[str, Measured]:
        """What the goals are about; a storm that was not sent says nothing about itself."""
        (p50, p99), storm = self.calm_ms, self.storm
        found: dict[str, Measured] = {
            "storm_p99_over_calm": storm.quantile_ms(0.99) / p99,
            "refusal_over_calm": storm.quantile_ms(0.99, storm.is_refused) / p99,
            "recovery_over_storm": self.find_recovery_s() / storm.seconds,
        }
        if storm.sent_share < LEAST_SENT:
            unsent = Skipped(f"only {storm.sent_share:.0%} of the storm could be sent")
            found = dict.fromkeys(found, unsent)
        found |= {"calm_p99_over_p50": p99 / p50, "unexpected": float(self.unexpected)}
        return {f"{prefix}_{name}": value for name, value in found.items()}


def _tell(name: str, unit: str, value: float, otherwise: str, ratio: float | None = None) -> Figure:
    """The figure; skipped where it is no number, which JSON could not hold."""
    if not np.isfinite(value):
        return Figure.skip(name, unit, otherwise)
    return Figure(name, unit, value, ratio=ratio)


def run_overload(generator: Generator, load: Load, rate: float, plan: OverloadPlan) -> OverloadRun:
    """Sends `load`'s requests at 70 %, at 300 % and again at 70 % of `rate`."""
    calm_load = replace(load, rate=rate * CALM_SHARE, connections=plan.calm_connections)
    step = int(rate * STORM_TIMES * max(plan.calm_s, plan.storm_s, plan.recovery_s)) + 1
    calm = generator.run(replace(calm_load, seconds=plan.calm_s + SETTLING_S))
    storm_load = replace(
        load,
        rate=rate * STORM_TIMES,
        seconds=plan.storm_s + SETTLING_S,
        connections=plan.storm_connections,
        serial=load.serial + step,
    )
    storm = generator.run(storm_load)
    after_load = replace(calm_load, seconds=plan.recovery_s, serial=load.serial + 2 * step)
    return OverloadRun(
        rate,
        calm.within(SETTLING_S, SETTLING_S + plan.calm_s),
        storm.within(SETTLING_S, SETTLING_S + plan.storm_s),
        generator.run(after_load),
    )


def measure_overload(context: Context) -> SuiteOutput:
    """Part `overload`: latency at 70 % of what the service can do, refusals at three times as much.

    Matches, then enrollments, on one service that is not restarted in between.
    """
    home = context.make_home("overload", context.config.references)
    with context.serve(home) as session:
        matches = _overload_by_matches(context, session)
        enrollments = _overload_by_enrollments(context, session)
    results, config = [], context.config
    for what, found, plan in (
        ("Matches", matches, config.match_overload),
        ("Enrollments", enrollments, config.enroll_overload),
    ):
        setup = context.setup(
            home,
            arrivals="evenly spaced",
            calm_s=plan.calm_s,
            storm_s=plan.storm_s,
            calm_connections=plan.calm_connections,
            storm_connections=plan.storm_connections,
        )
        name = f"{what} below and far above what it can do"
        results.append(Result(name, setup, found.list_figures()))
    return results, matches.measure("match") | enrollments.measure("enroll")


def _overload_by_matches(context: Context, session: LoadedService) -> OverloadRun:
    requests = pack(session.caller, pair_items(session.home, context.config.pairs), 1)
    rate = float(np.median(session.loop(requests, session.pace.connections).rates))
    load = session.make_load(requests, session.pace.connections)
    return run_overload(context.generator, load, rate, context.config.match_overload)


def _overload_by_enrollments(context: Context, session: LoadedService) -> OverloadRun:
    requests = write_visits(session.caller, context.visitors.people, "storm")
    load = session.make_load(requests, session.pace.enrolling_connections)
    seconds = min(ENROLLING_SECONDS, session.pace.seconds * 2)
    context.generator.run(replace(load, seconds=seconds / 2, serial=SERIALS_APART))
    full = context.generator.run(replace(load, seconds=seconds, serial=2 * SERIALS_APART))
    require_good(full)
    return run_overload(context.generator, load, full.rate, context.config.enroll_overload)
