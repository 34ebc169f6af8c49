"""The error tree of the engine: each class is one kind of thing that went wrong.

A message is one line, says what to do, and never holds an image, an embedding, a name or a
document number. `serving.errors` maps the classes to HTTP statuses and exit codes.
"""

from __future__ import annotations

from copy import copy
from typing import ClassVar, TypeVar


class SosieError(Exception):
    """Whatever the engine refuses or cannot do; `code` is stable, the message is for people."""

    code: ClassVar[str] = "INTERNAL"


class ImageError(SosieError):
    """These bytes are not an image that we read."""

    code = "IMAGE.UNREADABLE"


class ImageTooLarge(ImageError):
    """More bytes or pixels than the limits allow; found before anything is decoded."""

    code = "IMAGE.TOO_LARGE"


class ImageUnsupported(ImageError):
    """Not a JPEG, PNG or WebP with one frame."""

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
    """The file is not the one that the card names by SHA-256."""

    code = "MODEL.DAMAGED"


class ModelCardInvalid(ModelError):
    code = "MODEL.CARD_INVALID"


class RuntimeMissing(ModelError):
    """ONNX Runtime, or the execution provider asked for, is not installed."""

    code = "MODEL.RUNTIME_MISSING"


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
    """Not the key ring that this registry was made with."""

    code = "KEYRING.FOREIGN"


class SealBroken(KeyRingError):
    """A sealed value did not authenticate: altered, moved to another row, or of another key."""

    code = "KEYRING.SEAL_BROKEN"


class RegistryError(SosieError):
    code = "REGISTRY.UNUSABLE"


class NotInstalled(SosieError):
    """What was asked for needs a library that is not here."""

    code = "SERVICE.NOT_INSTALLED"


class RegistryMissing(RegistryError):
    code = "REGISTRY.MISSING"


class RegistryExists(RegistryError):
    code = "REGISTRY.EXISTS"


class SchemaMismatch(RegistryError):
    """The database has a newer or older schema than this version of Sosie."""

    code = "REGISTRY.SCHEMA"


class ModelMismatch(RegistryError):
    """The references of this registry come from another embedder."""

    code = "REGISTRY.MODEL"


class WriterBusy(RegistryError):
    """Another process holds the writer's lease."""

    code = "REGISTRY.WRITER_BUSY"


class LeaseLost(RegistryError):
    """Another writer has taken over: nothing more may be committed from here."""

    code = "REGISTRY.LEASE_LOST"


class GalleryBehind(RegistryError):
    """The gallery has lost step with the store: nothing more may be decided from here."""

    code = "REGISTRY.GALLERY_BEHIND"


class StorageFailed(RegistryError):
    """The database refused or lost the transaction; nothing of it was kept."""

    code = "REGISTRY.STORAGE_FAILED"


class StorageFull(StorageFailed):
    code = "REGISTRY.STORAGE_FULL"


class RequestError(SosieError):
    """A request that cannot be judged; nothing was stored."""

    code = "REQUEST.INVALID"


class OutletRefused(RequestError):
    """Unknown or closed, or of another carrier."""

    code = "REQUEST.OUTLET_REFUSED"


class IdempotencyMismatch(RequestError):
    """This Idempotency-Key was used with another payload."""

    code = "REQUEST.IDEMPOTENCY_MISMATCH"


class IdempotencyInFlight(RequestError):
    """A request with this Idempotency-Key is being judged."""

    code = "REQUEST.IN_FLIGHT"


class NotFound(RequestError):
    code = "REQUEST.NOT_FOUND"


class Overloaded(RequestError):
    """The queue is full: try again later."""

    code = "REQUEST.OVERLOADED"


class DeadlinePassed(RequestError):
    """The caller's time ran out while the request waited: nothing was stored."""

    code = "REQUEST.DEADLINE_PASSED"


class HolderMismatch(RequestError):
    """The face is not that of the document's holder."""

    code = "REQUEST.HOLDER_MISMATCH"


class TenantConflict(RequestError):
    """It concerns other carriers too, so one of them alone may not do it."""

    code = "REQUEST.TENANT_CONFLICT"


class CaseMoved(RequestError):
    """The case is not in a state for that: closed, merged, proposed or not proposed, or changed
    since it was looked at."""

    code = "CASE.STATE"


class FourEyes(RequestError):
    """Another person must have proposed it, with the same outcome and lines."""

    code = "CASE.FOUR_EYES"


class SweepBusy(RequestError):
    """Another sweep is alive: one at a time."""

    code = "SWEEP.BUSY"


class SweepOver(RequestError):
    """The sweep is not in a state for that."""

    code = "SWEEP.STATE"


E = TypeVar("E", bound=Exception)


def copy_for_one(error: E) -> E:
    """The same error for one of several who wait; it itself where it cannot be copied.

    A shared exception would gather the tracebacks of all who raise it.
    """
    try:
        fresh = copy(error)
    except Exception:  # noqa: BLE001 - whoever waits must hear of it all the same
        return error
    fresh.__cause__ = error.__cause__
    return fresh
