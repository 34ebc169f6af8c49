"""Lines: their states, and what may happen to them."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from schema.decoding import Value


class LineStatus(StrEnum):
    """A line counts as in use until it is closed."""

    ACTIVE = "active"
    DISPUTED = "disputed"
    CLOSED = "closed"


class LineService(StrEnum):
    """Service that a line lacks, beside its status: the least first."""

    SUSPENDED_OUTGOING = "suspended_outgoing"
    PENDING = "pending"
    """Its SIM is not to work until its holder is verified, so it receives nothing either."""
    SUSPENDED = "suspended"


class LineState(StrEnum):
    """A line as people see it: a dispute hides a suspension, which is shown beside it."""

    PENDING = "pending"
    ACTIVE = "active"
    SUSPENDED_OUTGOING = "suspended_outgoing"
    SUSPENDED = "suspended"
    CLOSED = "closed"
    DISPUTED = "disputed"


class HolderShown(Value):
    """The face of whoever asks for the lines under a document, against its holder's."""

    is_holder: bool
    score: Annotated[
        float | None, Meta(description="null to a tenant, and where the face is another's")
    ]
    threshold: float


class ReportedKind(StrEnum):
    """Events of a line that carriers report."""

    SIM_SWAP = "sim_swap"
    DEVICE_CHANGE = "device_change"
    PORT_IN = "port_in"
    PORT_OUT = "port_out"
    TRANSFER = "transfer"
    ESIM_DOWNLOAD = "esim_download"
    OPENING_APPROVED = "opening_approved"
    """Its holder has said over it that another line may be opened for them."""


class LineEventKind(StrEnum):
    """Events of a line."""

    SIM_SWAP = ReportedKind.SIM_SWAP.value
    DEVICE_CHANGE = ReportedKind.DEVICE_CHANGE.value
    PORT_IN = ReportedKind.PORT_IN.value
    PORT_OUT = ReportedKind.PORT_OUT.value
    TRANSFER = ReportedKind.TRANSFER.value
    ESIM_DOWNLOAD = ReportedKind.ESIM_DOWNLOAD.value
    OPENING_APPROVED = ReportedKind.OPENING_APPROVED.value
    REVERIFY_ASKED = "reverify_asked"
    REVERIFIED = "reverified"
    REVERIFY_FAILED = "reverify_failed"
    OVERDUE = "overdue"
    PENDING = "pending"
    SUSPENDED_OUTGOING = "suspended_outgoing"
    SUSPENDED = "suspended"
    UNSUSPENDED = "unsuspended"
    CLOSED = "closed"
    # By people alone.
    DISPUTED = "disputed"
    RESTORED = "restored"


class CampaignState(StrEnum):
    """A campaign adds lines by its terms, or one by one, or none any more."""

    FILLING = "filling"
    RUNNING = "running"
    ENDED = "ended"


class CampaignLineState(StrEnum):
    """Progress of a line of a campaign. One that is closed before it is verified has left."""

    ASKED = "asked"
    VERIFIED = "verified"
    OVERDUE = "overdue"
    LEFT = "left"


class ExemptionCause(StrEnum):
    """Kinds of documents that no limit on lines holds for."""

    BUSINESS = "business"
    PUBLIC_BODY = "public_body"
    HOUSEHOLD = "household"
    OTHER = "other"
