"""The one table from errors to HTTP statuses and exit codes, for the command line and the API."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from engine import errors
from indexes.errors import IndexFault, ShardLost, SnapshotDamaged
from serving import refusals


class ExitCode(IntEnum):
    """What a command says with its exit status."""

    FINE = 0
    NEGATIVE = 1
    BAD_INPUT = 2
    INTERNAL = 3


@dataclass(frozen=True, slots=True)
class Fault:
    """An error as both surfaces show it; `code` is stable, the message is one line."""

    code: str
    message: str
    status: int
    exit_code: ExitCode
    retry_after_s: float | None = None


_BAD, _INTERNAL = ExitCode.BAD_INPUT, ExitCode.INTERNAL

TABLE: tuple[tuple[type[Exception], int, ExitCode], ...] = (
    (errors.ImageTooLarge, 413, _BAD),
    (errors.ImageUnsupported, 415, _BAD),
    (errors.ImageError, 400, _BAD),
    (errors.OutletRefused, 403, _BAD),
    (errors.IdempotencyMismatch, 422, _BAD),
    (errors.IdempotencyInFlight, 409, _BAD),
    (errors.NotFound, 404, _BAD),
    (errors.Overloaded, 429, _BAD),
    (errors.HolderMismatch, 403, _BAD),
    (errors.TenantConflict, 403, _BAD),
    (errors.DeadlinePassed, 503, _BAD),
    (errors.CaseMoved, 409, _BAD),
    (errors.FourEyes, 403, _BAD),
    (errors.SweepBusy, 409, _BAD),
    (errors.SweepOver, 409, _BAD),
    (errors.RequestError, 400, _BAD),
    (errors.CalibrationError, 422, _BAD),
    (errors.KeyRingError, 503, _BAD),
    (errors.ModelError, 503, _BAD),
    (errors.StorageFull, 507, _INTERNAL),
    (errors.LeaseLost, 503, _INTERNAL),
    (errors.GalleryBehind, 503, _INTERNAL),
    (errors.StorageFailed, 503, _INTERNAL),
    (errors.RegistryError, 503, _BAD),
    (errors.NotInstalled, 503, _BAD),
    (errors.SosieError, 500, _INTERNAL),
    (refusals.Malformed, 400, _BAD),
    (refusals.TemplateInvalid, 400, _BAD),
    (refusals.TooManyItems, 422, _BAD),
    (refusals.FaceUnusable, 422, _BAD),
    (refusals.BodyTooLarge, 413, _BAD),
    (refusals.BodyTimeout, 408, _BAD),
    (refusals.TypeUnsupported, 415, _BAD),
    (refusals.NotAcceptable, 406, _BAD),
    (refusals.RouteUnknown, 404, _BAD),
    (refusals.MethodUnsupported, 405, _BAD),
    (refusals.Unauthenticated, 401, _BAD),
    (refusals.Forbidden, 403, _BAD),
    (refusals.RateLimited, 429, _BAD),
    (refusals.Busy, 429, _BAD),
    (refusals.ServiceRefusal, 503, _BAD),
    (SnapshotDamaged, 503, _INTERNAL),
    (ShardLost, 503, _INTERNAL),
    (IndexFault, 400, _BAD),
)
"""First match wins, so a subclass stands above its base."""


RETRIABLE = frozenset({409, 429, 503, 507})
RETRY_AFTER_S = 1.0
FINAL = (errors.CaseMoved, errors.SweepBusy, errors.SweepOver, errors.NotInstalled)
"""Asked again, it comes to the same."""


def describe(error: Exception) -> Fault:
    """The row for an error; one that the table does not know shows its type and nothing else.

    The text of an unforeseen exception may hold anything, a name or a number included.
    """
    for kind, status, exit_code in TABLE:
        if isinstance(error, kind):
            code = getattr(error, "code", "INDEX.REFUSED")
            wait_s = getattr(error, "retry_after_s", None)
            if wait_s is None and status in RETRIABLE and kind not in FINAL:
                wait_s = RETRY_AFTER_S
            return Fault(code, " ".join(str(error).split()), status, exit_code, wait_s)
    message = f"internal error ({type(error).__name__}): run again with --debug and report it"
    return Fault("INTERNAL", message, 500, _INTERNAL)
