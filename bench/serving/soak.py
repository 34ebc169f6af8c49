"""Memory of a service under a steady load, sample by sample."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from bench.report import Figure
from bench.serving.load import Record, Seconds
from bench.serving.residents import MIB, measure_memory
from bench.serving.service import Service
from bench.serving.usage import OTHERS, name_part
from serving.cluster.processes import list_descendants

WARM_S, LEAST_SAMPLES = 60.0, 4
"""Allocators, pools and caches fill in the first minute."""


@dataclass(frozen=True, slots=True, eq=False)
class Soak:
    """Memory in MiB at moments in seconds after the start: float64[n] each.

    `parts_mib` is that of each part of the service: float64[n].
    """

    moments_s: Seconds
    memory_mib: Seconds
    parts_mib: Mapping[str, Seconds] = field(default_factory=dict)

    @property
    def _settled(self) -> tuple[Seconds, Seconds]:
        warm_s = min(WARM_S, float(self.moments_s[-1]) / 3)
        kept = self.moments_s >= warm_s
        return self.moments_s[kept], self.memory_mib[kept]

    @property
    def slope_mib_per_min(self) -> float:
        """Of the straight line through the samples after the first minute."""
        moments, memory = self._settled
        return float(np.polyfit(moments, memory, 1)[0]) * 60

    @property
    def growth(self) -> float:
        """What that line rises after the first minute, as a share of where it begins."""
        moments, memory = self._settled
        slope, start = np.polyfit(moments - moments[0], memory, 1)
        return float(slope * (moments[-1] - moments[0]) / start)

    @property
    def noise_mib(self) -> float:
        """How far samples lie from that line (standard deviation)."""
        moments, memory = self._settled
        return float(np.std(memory - np.polyval(np.polyfit(moments, memory, 1), moments)))

    def list_figures(self) -> tuple[Figure, ...]:
        _, memory = self._settled
        return (
            Figure("memory at the start", "MiB", float(self.memory_mib[0])),
            Figure("memory after the first minute", "MiB", float(memory[0])),
            Figure("memory at the end", "MiB", float(memory[-1])),
            Figure("slope after the first minute", "MiB/min", self.slope_mib_per_min),
            Figure("samples around the line", "MiB", self.noise_mib),
            Figure("growth after the first minute", "share", self.growth),
            *(
                Figure(f"memory at the end: {part}", "MiB", float(values[-1]))
                for part, values in self.parts_mib.items()
            ),
            *(
                Figure(f"slope after the first minute: {part}", "MiB/min", self._slope_of(values))
                for part, values in self.parts_mib.items()
            ),
        )

    def _slope_of(self, values: Seconds) -> float:
        moments, _ = self._settled
        return float(np.polyfit(moments, values[-len(moments) :], 1)[0]) * 60


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
