"""What a load is, and what became of each of its requests."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.serving.wire import Request

LOST, OVERDUE = 0, -1
"""Instead of a status: the connection was lost, or there was no answer in time."""
Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests by turns, for `seconds` or until `count` are sent, whichever is first.

    Closed loop where `rate` is None: each connection sends again when it is answered. Else open
    loop: `rate` arrivals a second, evenly spaced, whatever the server does; one that finds no free
    connection waits for one, and its latency counts from its arrival.
    `serial` numbers the requests, from there on.
    """

    host: str
    port: int
    requests: tuple[Request, ...]
    connections: int
    seconds: float = float("inf")
    count: int | None = None
    rate: float | None = None
    serial: int = 0
    timeout_s: float = 30.0
    keeps_bodies: bool = False

    def schedule(self) -> Seconds:
        """Arrivals in seconds after the start; of an open loop only."""
        assert self.rate is not None
        count = int(min(self.seconds * self.rate, np.inf if self.count is None else self.count))
        return np.arange(count) / self.rate


@dataclass(slots=True)
class Tally:
    """Grows by a row a request, while a load runs; rows in order of their ends."""

    intended: array[float] = field(default_factory=lambda: array("d"))
    sent: array[float] = field(default_factory=lambda: array("d"))
    done: array[float] = field(default_factory=lambda: array("d"))
    status: array[int] = field(default_factory=lambda: array("h"))
    retry_after_s: array[float] = field(default_factory=lambda: array("d"))
    request: array[int] = field(default_factory=lambda: array("l"))
    serial: array[int] = field(default_factory=lambda: array("l"))
    bodies: list[bytes] = field(default_factory=list)
    reconnects: int = 0

    def close(self, start: float, seconds: float) -> Record:
        return Record(
            intended_s=np.array(self.intended) - start,
            sent_s=np.array(self.sent) - start,
            done_s=np.array(self.done) - start,
            status=np.array(self.status, np.int16),
            retry_after_s=np.array(self.retry_after_s),
            request=np.array(self.request, np.int64),
            serial=np.array(self.serial, np.int64),
            bodies=tuple(self.bodies),
            reconnects=self.reconnects,
            seconds=seconds,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A row a request, in order of their ends, in seconds after the start of the load.

    `retry_after_s` is NaN where the answer named none; `request` is the place in the load's
    requests; `bodies` is empty unless they were kept; `sent_s` is NaN where no connection became
    free in time. `seconds` from the first arrival to the last answer.
    """

    intended_s: Seconds
    sent_s: Seconds
    done_s: Seconds
    status: NDArray[np.int16]
    retry_after_s: Seconds
    request: NDArray[np.int64]
    serial: NDArray[np.int64]
    bodies: tuple[bytes, ...]
    reconnects: int
    seconds: float

    def __len__(self) -> int:
        return len(self.status)

    @property
    def latency_s(self) -> Seconds:
        """From the intended start to the end of the answer."""
        return self.done_s - self.intended_s

    @property
    def is_fine(self) -> NDArray[np.bool_]:
        fine: NDArray[np.bool_] = (self.status >= 200) & (self.status < 300)
        return fine

    @property
    def is_refused(self) -> NDArray[np.bool_]:
        """429 that says when to come again."""
        refused: NDArray[np.bool_] = (self.status == 429) & ~np.isnan(self.retry_after_s)
        return refused

    @property
    def rate(self) -> float:
        """Requests answered well, a second."""
        return float(self.is_fine.sum()) / self.seconds

    @property
    def offered_rate(self) -> float:
        """Requests that were due, a second."""
        return len(self) / self.seconds

    @property
    def sent_rate(self) -> float:
        """Requests that were sent before `seconds` were over, a second."""
        end_s = self.intended_s.min(initial=np.inf) + self.seconds
        return float((self.sent_s < end_s).sum()) / self.seconds

    @property
    def good_bodies(self) -> list[bytes]:
        """Those of requests answered well; of a load that keeps bodies."""
        return [self.bodies[place] for place in np.flatnonzero(self.is_fine)]

    def within(self, start_s: float, end_s: float) -> Record:
        """Only what was meant to start in this span."""
        return self._take((self.intended_s >= start_s) & (self.intended_s < end_s), end_s - start_s)

    def quantile_ms(self, share: float, among: NDArray[np.bool_] | None = None) -> float:
        """Of the latencies of those well answered, or of these rows; NaN of none."""
        return _quantile_ms(self.latency_s[self.is_fine if among is None else among], share)

    def lateness_ms(self, share: float) -> float:
        """Quantile of what passed from the moment a request was due until it was sent."""
        lateness_s = self.sent_s - self.intended_s
        return _quantile_ms(lateness_s[~np.isnan(lateness_s)], share)

    def count_statuses(self) -> dict[int, int]:
        """How often each status came, the commonest first."""
        values, counts = np.unique(self.status, return_counts=True)
        pairs = zip(values.tolist(), counts.tolist(), strict=True)
        return dict(sorted(pairs, key=lambda pair: -pair[1]))

    def _take(self, rows: NDArray[np.bool_], seconds: float) -> Record:
        kept: dict[str, Any] = {
            name: getattr(self, name)[rows]
            for name in (
                "intended_s",
                "sent_s",
                "done_s",
                "status",
                "retry_after_s",
                "request",
                "serial",
            )
        }
        bodies = tuple(
            body for body, is_kept in zip(self.bodies, rows.tolist(), strict=False) if is_kept
        )
        return Record(**kept, bodies=bodies, reconnects=self.reconnects, seconds=seconds)


def _quantile_ms(values_s: Seconds, share: float) -> float:
    return float(np.quantile(values_s, share)) * 1e3 if len(values_s) else float("nan")
