"""What travels between an ingress and the one registrar: contexts, statuses, steps, replies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.cases.case import Outcome
from engine.errors import GalleryBehind, LeaseLost, RequestError, SosieError
from indexes.errors import IndexFault, ShardLost
from serving.errors import Interrupted, ServiceRefusal

Probes = NDArray[np.float32]

MOST_CANDIDATES = 100
"""As many of a probe as are listed: all of them may be more than one message carries."""


class Phase(StrEnum):
    """How far the registrar is; it answers calls in `ready` only."""

    STARTING = "starting"
    WAITING = "waiting"
    """For the writer's lease, which another process still holds."""
    REPLAYING = "replaying"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Status:
    """The state of the registrar and its gallery; `detail` is one line for people.

    `sequence` is the gallery's, `store_sequence` the store's; both are None where they could not
    be read. `boot_id` changes with every start of a registrar.
    """

    phase: Phase
    detail: str
    boot_id: str
    gallery_size: int = 0
    sequence: int | None = None
    store_sequence: int | None = None

    @property
    def is_ready(self) -> bool:
        """Decides and searches, on a gallery that is the store's image."""
        return self.phase is Phase.READY and self.sequence == self.store_sequence


@dataclass(frozen=True, slots=True)
class CallContext:
    """What travels with every call: who asks, under which correlator, and how long it may take.

    `timeout_s` is what is left when the call is sent; the receiver counts from its arrival.
    `carrier` limits what may be touched to one tenant; None is all.
    """

    actor: str
    correlator: str
    carrier: str | None = None
    timeout_s: float | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class LineTarget:
    """A line by its number (+8613…) or by its id, as a list of lines shows it."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class GroupList:
    """Groups of a sweep in short, the riskiest first; `next_after` is None on the last page."""

    groups: tuple[Mapping[str, Any], ...]
    total: int
    next_after: int | None


@dataclass(frozen=True, slots=True)
class Assign:
    """To an actor; None gives the case back to the queue."""

    assignee: str | None


@dataclass(frozen=True, slots=True)
class Remark:
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Propose:
    """An outcome, and the lines that another person may close by it.

    `seen_at`, here and in `Close`, is `updated_at` of the case that was looked at.
    """

    outcome: Outcome
    close_lines: tuple[str, ...] = ()
    seen_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Takes the proposal back."""


@dataclass(frozen=True, slots=True)
class Close:
    outcome: Outcome
    close_lines: tuple[str, ...] = ()
    seen_at: datetime | None = None


CaseStep = Assign | Remark | Propose | Withdraw | Close


class Steering(StrEnum):
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Reply:
    """What a call came to: a value, or the error that its caller must see. Both can be pickled."""

    value: Any = None
    error: SosieError | ServiceRefusal | None = None

    def unwrap(self) -> Any:
        """The value; raises the error where there is one."""
        if self.error is not None:
            raise self.error
        return self.value


def presentable(error: Exception) -> SosieError | ServiceRefusal:
    """The error as a caller may see it; of an unforeseen one the type, and nothing of its text.

    Whatever says that the registrar or its gallery was lost is `Interrupted`: it may or may not
    have committed, and its caller asks again with the same key.
    """
    if isinstance(error, LeaseLost | GalleryBehind | ShardLost):
        return Interrupted(
            "the registry was interrupted and is opened again: "
            "ask again, with the same Idempotency-Key if the call has one"
        )
    if isinstance(error, IndexFault):
        return RequestError(str(error))
    if isinstance(error, SosieError | ServiceRefusal):
        return error
    return SosieError(f"the call met an internal error ({type(error).__name__}): report it")
