"""Error classes of the engine.

A message is one line, says what to do, and never holds an image, an embedding, a name or a
document number. `serving.errors` maps the classes to HTTP statuses and exit codes.
"""

from __future__ import annotations

from copy import copy
from typing import ClassVar, TypeVar


def advise_extra(extra: str) -> str:
    """What installs an extra, as README.md has it: on the index the name is not ours."""
    return f"run pip install -e '.[{extra}]' in Sosie's folder"


class SosieError(Exception):
    """Base of all errors of the engine; `code` is stable, the message is for people."""

    code: ClassVar[str] = "INTERNAL"


class ImageError(SosieError):
    """The bytes are not a readable image."""

    code = "IMAGE.UNREADABLE"


class ImageTooLarge(ImageError):
    """More bytes or pixels than the limits allow; raised before decoding."""

    code = "IMAGE.TOO_LARGE"


class ImageTooCostly(ImageTooLarge):
    """Decoding it takes, or has taken, more time or memory than a photograph does."""

    code = "IMAGE.TOO_COSTLY"


class ImageUnsupported(ImageError):
    """Not a JPEG, JPEG 2000, PNG or WebP with a single frame, or of a kind that is not read."""

    code = "IMAGE.UNSUPPORTED"


class ImageDamaged(ImageError):
    """Empty, truncated or corrupt."""

    code = "IMAGE.DAMAGED"


class ModelError(SosieError):
    """A model, its card or its runtime is not usable."""

    code = "MODEL.UNUSABLE"


class ModelMissing(ModelError):
    code = "MODEL.MISSING"


class ModelDamaged(ModelError):
    """The SHA-256 of the file is not the one on the card."""

    code = "MODEL.DAMAGED"


class ModelCardInvalid(ModelError):
    code = "MODEL.CARD_INVALID"


class RuntimeMissing(ModelError):
    """ONNX Runtime, or the execution provider asked for, is not installed."""

    code = "MODEL.RUNTIME_MISSING"


class DeviceFailed(ModelError):
    """The accelerator failed, or has no memory left; on the CPU the model would run."""

    code = "MODEL.DEVICE_FAILED"


class VectorUnusable(ImageError):
    """A face's vector is not of unit length: a fault of the service, not of its caller.

    A value in a batch like other ImageErrors, so that one photograph never fails its neighbours.
    """

    code = "MODEL.NOT_FINITE"


IMAGE_ERRORS = (ImageTooLarge, ImageTooCostly, ImageUnsupported, ImageDamaged, VectorUnusable)


class CalibrationError(SosieError):
    code = "CALIBRATION.UNUSABLE"


class RateUnsupported(CalibrationError):
    """The calibration data is too small for this error rate."""

    code = "CALIBRATION.RATE_UNSUPPORTED"


class KeyRingError(SosieError):
    code = "KEYRING.UNUSABLE"


class KeyRingMissing(KeyRingError):
    code = "KEYRING.MISSING"


class KeyRingInvalid(KeyRingError):
    """Unreadable, malformed, or readable by others than its owner."""

    code = "KEYRING.INVALID"


class KeyRingForeign(KeyRingError):
    """Not the key ring of this registry."""

    code = "KEYRING.FOREIGN"


class SealBroken(KeyRingError):
    """A row or a sealed value did not authenticate: altered, moved to another row, or of another
    key."""

    code = "KEYRING.SEAL_BROKEN"


class RegistryError(SosieError):
    code = "REGISTRY.UNUSABLE"


class NotInstalled(SosieError):
    """An optional library is needed and not installed."""

    code = "SERVICE.NOT_INSTALLED"


class RegistryMissing(RegistryError):
    code = "REGISTRY.MISSING"


class RegistryExists(RegistryError):
    code = "REGISTRY.EXISTS"


class ClockImplausible(RegistryError):
    """The clock contradicts the audit chain, or the time that a process has run."""

    code = "CLOCK.IMPLAUSIBLE"


class SchemaMismatch(RegistryError):
    """The database has a newer or older schema than this version of Sosie."""

    code = "REGISTRY.SCHEMA"


class ModelMismatch(RegistryError):
    """The references of this registry are from another embedder."""

    code = "REGISTRY.MODEL"


class ChainBroken(RegistryError):
    """The audit chain does not end where the key ring says: somebody has altered the database."""

    code = "REGISTRY.CHAIN_BROKEN"


class WriterBusy(RegistryError):
    """Another process holds the writer's lease."""

    code = "REGISTRY.WRITER_BUSY"


class LeaseLost(RegistryError):
    """Another writer has taken over: this one must not commit any more."""

    code = "REGISTRY.LEASE_LOST"


class GalleryBehind(RegistryError):
    """The gallery no longer agrees with the store: this process must not decide any more."""

    code = "REGISTRY.GALLERY_BEHIND"


class StorageFailed(RegistryError):
    """The database refused or lost the transaction; nothing of it was stored."""

    code = "REGISTRY.STORAGE_FAILED"


class RowRefused(StorageFailed):
    """A row broke a rule of the database: without it the rest of the transaction may pass."""


class StorageFull(StorageFailed):
    code = "REGISTRY.STORAGE_FULL"


class RequestError(SosieError):
    """The request is invalid; nothing was stored."""

    code = "REQUEST.INVALID"


class TextRefused(RequestError):
    """A text with characters that nobody sees, or that change how others are shown."""

    code = "REQUEST.TEXT"


class OutletRefused(RequestError):
    """The outlet is unknown, closed, or of another carrier."""

    code = "REQUEST.OUTLET_REFUSED"


class OutletRestricted(OutletRefused):
    """The outlet is suspended or barred: it enrolls nobody. The attempt is on record."""

    code = "REQUEST.OUTLET_RESTRICTED"


class OutletMoved(RequestError):
    """The state of the outlet does not allow it, or has changed since it was read."""

    code = "OUTLET.STATE"


class HolderMoved(RequestError):
    """The state of a holder does not allow it, or has changed since it was read."""

    code = "HOLDER.STATE"


class IdempotencyMismatch(RequestError):
    """This Idempotency-Key was used with another payload."""

    code = "REQUEST.IDEMPOTENCY_MISMATCH"


class PlaceUnknown(RequestError):
    """What followed this place of a feed may have left."""

    code = "EVENTS.PLACE_UNKNOWN"


class LivenessReplayed(RequestError):
    """This evidence of liveness has been used."""

    code = "LIVENESS.REPLAYED"


class LivenessRefused(RequestError):
    """Evidence of liveness is required, and what came does not hold."""

    code = "LIVENESS.REFUSED"


class EventRefused(RequestError):
    """An event of a line that cannot have happened, or comes too late to be told."""

    code = "LINE.EVENT"


class NotReported(RequestError):
    """What is asked for is not reported by the carrier."""

    code = "CAMARA.SERVICE_NOT_APPLICABLE"


class IdempotencyInFlight(RequestError):
    """A request with this Idempotency-Key is in progress."""

    code = "REQUEST.IN_FLIGHT"


class NotFound(RequestError):
    code = "REQUEST.NOT_FOUND"


class Overloaded(RequestError):
    """The queue is full: try again later."""

    code = "REQUEST.OVERLOADED"


class TooManyFailures(RequestError):
    """A bound on comparisons with a holder, or on a key's failures, is reached."""

    code = "REQUEST.TOO_MANY_FAILURES"

    def __init__(self, message: str, retry_after_s: float = 3600.0) -> None:
        super().__init__(message, retry_after_s)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return str(self.args[0])


class DeadlinePassed(RequestError):
    """The deadline passed while the request was queued; nothing was stored."""

    code = "REQUEST.DEADLINE_PASSED"


class HolderMismatch(RequestError):
    """The face does not match the holder of the document."""

    code = "REQUEST.HOLDER_MISMATCH"


class TenantConflict(RequestError):
    """Other carriers are affected too, so one of them alone may not do it."""

    code = "REQUEST.TENANT_CONFLICT"


class CaseMoved(RequestError):
    """The state of the case does not allow it: closed, merged, proposed or not, or changed since
    it was read."""

    code = "CASE.STATE"


class FourEyes(RequestError):
    """Needs a proposal of another person, with the same outcome and lines."""

    code = "CASE.FOUR_EYES"


class SweepBusy(RequestError):
    """Another sweep is running; one at a time."""

    code = "SWEEP.BUSY"


class SweepOver(RequestError):
    """The state of the sweep does not allow it."""

    code = "SWEEP.STATE"


E = TypeVar("E", bound=Exception)


def copy_for_one(error: E) -> E:
    """A copy of an error for one of several waiters, or the error itself if it cannot be copied.

    A shared exception would accumulate the tracebacks of all that raise it.
    """
    try:
        fresh = copy(error)
    except Exception:  # noqa: BLE001 - the waiter must get the error in any case
        return error
    fresh.__cause__ = error.__cause__
    return fresh
