"""The parts of the suite, and how much of everything they do."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from bench.serving.storm import Weather
from bench.serving.throughput import Pace


class Part(StrEnum):
    """What `--only` names."""

    THROUGHPUT = "throughput"
    OVERLOAD = "overload"
    SOAK = "soak"
    START = "start"
    KILLS = "kills"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything. Goals of speed are promised for the defaults."""

    references: int = 100_000
    million: int = 1_000_000
    people: int = 800
    pairs: int = 4_096
    probes: int = 4_096
    pace: Pace = field(default_factory=Pace)
    match_weather: Weather = field(default_factory=Weather)
    enroll_weather: Weather = field(default_factory=lambda: Weather(calm_s=30.0, storm_s=12.0))
    soak_s: float = 600.0
    soak_sample_s: float = 5.0
    starts: int = 2
    kills: int = 50
    races: int = 3


QUICK = Sizes(
    references=2_000,
    million=4_000,
    people=16,
    pairs=256,
    probes=256,
    pace=Pace(seconds=0.5, rounds=1, connections=4, batch_connections=1, enrolling_connections=4),
    match_weather=Weather(calm_s=1, storm_s=1, recovery_s=3, storm_connections=64),
    enroll_weather=Weather(calm_s=1, storm_s=1, recovery_s=3, storm_connections=64),
    soak_s=6,
    soak_sample_s=0.5,
    starts=1,
    kills=3,
    races=1,
)
