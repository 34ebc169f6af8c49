"""A load below, far above, and again below what a service can do."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bench.core.reports import Figure, Measured, Skipped
from bench.suites.serve.load_generator import Generator
from bench.suites.serve.load_requests import Load, Record

CALM_SHARE, STORM_TIMES = 0.7, 3.0
SETTLING_S = 2.0
"""Of each load's beginning, not counted."""
BACK_TIMES = 1.2
"""The p99 is back where what is left of the load has this many times that before the storm."""
LEAST_SENT = 0.95
"""Of the storm's requests; with fewer of them it was another load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadPlan:
    """How long each load goes on, and over how many connections; a storm needs more of them."""

    calm_s: float = 20.0
    storm_s: float = 10.0
    recovery_s: float = 15.0
    calm_connections: int = 64
    storm_connections: int = 256


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

    def find_recovery_s(self) -> float:
        """Seconds after the storm from which on the calm load has its p99 back; inf for never."""
        end = float(np.ceil(self.after.intended_s.max(initial=0)))
        bound = BACK_TIMES * self.calm_ms[1]
        for start in np.arange(0, end - SETTLING_S, 0.5).tolist():
            rest = self.after.within(start, end)
            if rest.is_fine.any() and rest.quantile_ms(0.99) <= bound:
                return float(start)
        return float("inf")

    @property
    def _never(self) -> str:
        """What to say of a p99 that did not come back."""
        return f"never within {self.after.intended_s.max(initial=0):.0f} s"

    def list_figures(self) -> tuple[Figure, ...]:
        p50, p99 = self.calm_ms
        storm, name = self.storm, f"{STORM_TIMES:.0f} times the load"
        refused = storm.is_refused
        return (
            Figure("100 %: answers in a closed loop", "1/s", self.rate),
            _tell("70 %: p50", "ms", p50, "none was accepted", ratio=1.0),
            _tell("70 %: p99", "ms", p99, "none was accepted", ratio=p50 / p99),
            Figure(f"{name}: accepted", "1/s", storm.rate),
            _tell(f"{name}: accepted, p99", "ms", storm.quantile_ms(0.99), "none was accepted"),
            Figure(f"{name}: refused (429)", "share", float(refused.mean())),
            _tell(
                f"{name}: refused, p99", "ms", storm.quantile_ms(0.99, refused), "none was refused"
            ),
            _tell("afterwards: p99 is back after", "s", self.find_recovery_s(), self._never),
            Figure("answers of another kind", "answers", float(self.unexpected)),
        )

    def measure(self, prefix: str) -> dict[str, Measured]:
        """What the goals are about; a storm that was not sent says nothing about itself."""
        p50, p99 = self.calm_ms
        storm: dict[str, Measured] = {
            f"{prefix}_storm_p99_over_calm": self.storm.quantile_ms(0.99) / p99,
            f"{prefix}_refusal_over_calm": self.storm.quantile_ms(0.99, self.storm.is_refused)
            / p99,
            f"{prefix}_recovery_over_storm": self.find_recovery_s() / self.storm.seconds,
        }
        sent = self.storm.sent_rate / self.storm.offered_rate
        if sent < LEAST_SENT:
            storm = dict.fromkeys(storm, Skipped(f"only {sent:.0%} of the storm could be sent"))
        return {
            f"{prefix}_calm_p99_over_p50": p99 / p50,
            **storm,
            f"{prefix}_unexpected": float(self.unexpected),
        }


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
    storm = generator.run(
        replace(
            load,
            rate=rate * STORM_TIMES,
            seconds=plan.storm_s + SETTLING_S,
            connections=plan.storm_connections,
            serial=load.serial + step,
        )
    )
    after = generator.run(
        replace(calm_load, seconds=plan.recovery_s, serial=load.serial + 2 * step)
    )
    return OverloadRun(
        rate,
        calm.within(SETTLING_S, SETTLING_S + plan.calm_s),
        storm.within(SETTLING_S, SETTLING_S + plan.storm_s),
        after,
    )
