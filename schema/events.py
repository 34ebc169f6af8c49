"""Events, told to the systems of carriers, and the webhooks that they are sent to."""

from enum import StrEnum
from typing import Self


class EventType(StrEnum):
    """What may happen, and whether a carrier is told of its own; fraud teams and operators are told
    of all. `subject` is the id of what it happened to."""

    _value_: str
    is_for_carriers: bool

    def __new__(cls, value: str, is_for_carriers: bool | None = None) -> Self:
        # Look-ups by value, which do not come here, are typed by this signature, too.
        assert is_for_carriers is not None, "each type says whether carriers are told of it"
        made = str.__new__(cls, value)
        made._value_, made.is_for_carriers = value, is_for_carriers
        return made

    ENROLLMENT_DECIDED = "enrollment.decided", True
    LINE_OPENED = "line.opened", True
    LINE_DISPUTED = "line.disputed", True
    LINE_RESTORED = "line.restored", True
    LINE_CLOSED = "line.closed", True
    LINE_MOVED = "line.moved", True
    LINE_MOVE_ASKED = "line.move_asked", True
    CASE_OPENED = "case.opened", False
    CASE_CLOSED = "case.closed", False
    CASE_MERGED = "case.merged", False
    CASE_REOPENED = "case.reopened", False
    WATCHLIST_HIT = "watchlist.hit", False
    PERSONS_REACHED = "persons.reached", False
    SWEEP_FINISHED = "sweep.finished", False
    ERASURE_DONE = "erasure.done", True
    CONSENT_WITHDRAWN = "consent.withdrawn", True
    # What happens to lines, by its kind; three stand above.
    LINE_SIM_SWAP = "line.sim_swap", True
    LINE_DEVICE_CHANGE = "line.device_change", True
    LINE_PORT_IN = "line.port_in", True
    LINE_PORT_OUT = "line.port_out", True
    LINE_TRANSFER = "line.transfer", True
    LINE_ESIM_DOWNLOAD = "line.esim_download", True
    LINE_OPENING_APPROVED = "line.opening_approved", True
    LINE_REVERIFY_ASKED = "line.reverify_asked", True
    LINE_REVERIFIED = "line.reverified", True
    LINE_REVERIFY_FAILED = "line.reverify_failed", True
    LINE_OVERDUE = "line.overdue", True
    LINE_PENDING = "line.pending", True
    LINE_SUSPENDED_OUTGOING = "line.suspended_outgoing", True
    LINE_SUSPENDED = "line.suspended", True
    LINE_UNSUSPENDED = "line.unsuspended", True
    CAMPAIGN_ENDED = "campaign.ended", True


class WebhookState(StrEnum):
    """`gone`: its receiver has answered 410, and nothing is sent until people set it to active."""

    ACTIVE = "active"
    PAUSED = "paused"
    GONE = "gone"
