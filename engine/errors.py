"""Error classes of the engine.

A message is one line, says what to do, and never holds an image, an embedding, a name or a
document number. `serving.errors` maps the classes to HTTP statuses and exit codes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import ClassVar, TypeVar


def advise_extra(extra: str) -> str:
    """What installs an extra, as README.md has it: on the index the name is not ours."""
    return f"run pip install -e '.[{extra}]' in Sosie's folder"


class SosieError(Exception):
    """Base of all errors of the engine; `code` is stable, the message is for people."""

    code: ClassVar[str] = "INTERNAL"

    def __init_subclass__(cls, code: str = "") -> None:
        cls.code = code or cls.code


class ImageError(SosieError, code="IMAGE.UNREADABLE"):
    """The bytes are not a readable image."""


class ImageTooLarge(ImageError, code="IMAGE.TOO_LARGE"):
    """More bytes or pixels than the limits allow; raised before decoding."""


class ImageTooCostly(ImageTooLarge, code="IMAGE.TOO_COSTLY"):
    """Decoding it takes, or has taken, more time or memory than a photograph does."""


class ImageUnsupported(ImageError, code="IMAGE.UNSUPPORTED"):
    """Not a JPEG, JPEG 2000, PNG or WebP with a single frame, or of a kind that is not read."""


class ImageDamaged(ImageError, code="IMAGE.DAMAGED"):
    """Empty, truncated or corrupt."""


class ModelError(SosieError, code="MODEL.UNUSABLE"):
    """A model, its card or its runtime is not usable."""


class ModelMissing(ModelError, code="MODEL.MISSING"):
    """No file of the model, or no card, is where it is looked for."""


class ModelDamaged(ModelError, code="MODEL.DAMAGED"):
    """The SHA-256 of the file is not the one on the card."""


class ModelCardInvalid(ModelError, code="MODEL.CARD_INVALID"):
    """The card is malformed, or does not fit its model."""


class RuntimeMissing(ModelError, code="MODEL.RUNTIME_MISSING"):
    """ONNX Runtime, or the execution provider asked for, is not installed."""


class DeviceFailed(ModelError, code="MODEL.DEVICE_FAILED"):
    """The accelerator failed, or has no memory left; on the CPU the model would run."""


class VectorUnusable(ImageError, code="MODEL.NOT_FINITE"):
    """A face's vector is not of unit length: a fault of the service, not of its caller.

    A value in a batch like other ImageErrors, so that one photograph never fails its neighbours.
    """


IMAGE_ERRORS = (ImageTooLarge, ImageTooCostly, ImageUnsupported, ImageDamaged, VectorUnusable)


class CalibrationError(SosieError, code="CALIBRATION.UNUSABLE"):
    """A calibration is missing, damaged or unfit for what is asked of it."""


class RateUnsupported(CalibrationError, code="CALIBRATION.RATE_UNSUPPORTED"):
    """The calibration data is too small for this error rate."""


class KeyRingError(SosieError, code="KEYRING.UNUSABLE"):
    """A key ring, or what it has sealed, is not usable."""


class KeyRingMissing(KeyRingError, code="KEYRING.MISSING"):
    """There is no key ring where it is looked for."""


class KeyRingInvalid(KeyRingError, code="KEYRING.INVALID"):
    """Unreadable, malformed, or readable by others than its owner."""


class KeyRingForeign(KeyRingError, code="KEYRING.FOREIGN"):
    """Not the key ring of this registry."""


class SealBroken(KeyRingError, code="KEYRING.SEAL_BROKEN"):
    """A row or a sealed value did not authenticate: altered, moved to another row, or of another
    key."""


class RegistryError(SosieError, code="REGISTRY.UNUSABLE"):
    """The registry is not usable."""


class NotInstalled(SosieError, code="SERVICE.NOT_INSTALLED"):
    """An optional library is needed and not installed."""


class RegistryMissing(RegistryError, code="REGISTRY.MISSING"):
    """There is no registry where it is looked for."""


class RegistryExists(RegistryError, code="REGISTRY.EXISTS"):
    """There is one already."""


class ClockImplausible(RegistryError, code="CLOCK.IMPLAUSIBLE"):
    """The clock contradicts the audit chain, or the time that a process has run."""


class SchemaMismatch(RegistryError, code="REGISTRY.SCHEMA"):
    """The database has a newer or older schema than this version of Sosie."""


class ModelMismatch(RegistryError, code="REGISTRY.MODEL"):
    """The references of this registry are from another embedder."""


class ChainBroken(RegistryError, code="REGISTRY.CHAIN_BROKEN"):
    """The audit chain does not end where the key ring says: somebody has altered the database."""


class WriterBusy(RegistryError, code="REGISTRY.WRITER_BUSY"):
    """Another process holds the writer's lease."""


class LeaseLost(RegistryError, code="REGISTRY.LEASE_LOST"):
    """Another writer has taken over: this one must not commit any more."""


class GalleryBehind(RegistryError, code="REGISTRY.GALLERY_BEHIND"):
    """The gallery no longer agrees with the store: this process must not decide any more."""


class StorageFailed(RegistryError, code="REGISTRY.STORAGE_FAILED"):
    """The database refused or lost the transaction; nothing of it was stored."""


class RowRefused(StorageFailed):
    """A row broke a rule of the database: without it the rest of the transaction may pass."""


class StorageFull(StorageFailed, code="REGISTRY.STORAGE_FULL"):
    """The disk of the database is full."""


class RequestError(SosieError, code="REQUEST.INVALID"):
    """The request is invalid; nothing was stored."""


class TextRefused(RequestError, code="REQUEST.TEXT"):
    """A text with characters that nobody sees, or that change how others are shown."""


class OutletRefused(RequestError, code="REQUEST.OUTLET_REFUSED"):
    """The outlet is unknown, closed, or of another carrier."""


class OutletRestricted(OutletRefused, code="REQUEST.OUTLET_RESTRICTED"):
    """The outlet is suspended or barred: it enrolls nobody. The attempt is on record."""


class OutletMoved(RequestError, code="OUTLET.STATE"):
    """The state of the outlet does not allow it, or has changed since it was read."""


class HolderMoved(RequestError, code="HOLDER.STATE"):
    """The state of a holder does not allow it, or has changed since it was read."""


class IdempotencyMismatch(RequestError, code="REQUEST.IDEMPOTENCY_MISMATCH"):
    """This Idempotency-Key was used with another payload."""


class PlaceUnknown(RequestError, code="EVENTS.PLACE_UNKNOWN"):
    """What followed this place of a feed may have left."""


class LivenessReplayed(RequestError, code="LIVENESS.REPLAYED"):
    """This evidence of liveness has been used."""


class LivenessRefused(RequestError, code="LIVENESS.REFUSED"):
    """Evidence of liveness is required, and what came does not hold."""


class ProofRefused(RequestError, code="PROOF.REFUSED"):
    """A proof in place of a holder's face does not hold, or its way is not open."""


class EventRefused(RequestError, code="LINE.EVENT"):
    """An event of a line that cannot have happened, or comes too late to be told."""


class NotReported(RequestError, code="CAMARA.SERVICE_NOT_APPLICABLE"):
    """What is asked for is not reported by the carrier."""


class IdempotencyInFlight(RequestError, code="REQUEST.IN_FLIGHT"):
    """A request with this Idempotency-Key is in progress."""


class NotFound(RequestError, code="REQUEST.NOT_FOUND"):
    """Nothing is there that the caller may see."""


class ConsentWithdrawn(NotFound, code="HOLDER.CONSENT_WITHDRAWN"):
    """No face may be compared with the holder's: it is as if there were none."""


class Overloaded(RequestError, code="REQUEST.OVERLOADED"):
    """The queue is full: try again later."""


class TooManyFailures(RequestError, code="REQUEST.TOO_MANY_FAILURES"):
    """A bound on comparisons with a holder, or on a key's failures, is reached."""

    def __init__(self, message: str, retry_after_s: float = 3600.0) -> None:
        super().__init__(message, retry_after_s)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return str(self.args[0])


class TooManySearches(TooManyFailures, code="REQUEST.TOO_MANY_SEARCHES"):
    """A carrier has searched for as many faces as it may in a day."""


class DeadlinePassed(RequestError, code="REQUEST.DEADLINE_PASSED"):
    """The deadline passed while the request was queued; nothing was stored."""


class HolderMismatch(RequestError, code="REQUEST.HOLDER_MISMATCH"):
    """The face does not match the holder of the document."""


class FaceNotKept(RequestError, code="FACES.NOT_KEPT"):
    """The carrier keeps no faces, and this would need one that is kept."""


class TenantConflict(RequestError, code="REQUEST.TENANT_CONFLICT"):
    """Other carriers are affected too, so one of them alone may not do it."""


class CaseMoved(RequestError, code="CASE.STATE"):
    """The state of the case does not allow it: closed, merged, proposed or not, or changed since
    it was read."""


class FourEyes(RequestError, code="CASE.FOUR_EYES"):
    """Needs a proposal of another person, with the same outcome and lines."""


class SweepBusy(RequestError, code="SWEEP.BUSY"):
    """Another sweep is running; one at a time."""


class SweepOver(RequestError, code="SWEEP.STATE"):
    """The state of the sweep does not allow it."""


@contextmanager
def file_errors(
    what: str, kind: type[SosieError] = RequestError, *, then: str = ""
) -> Iterator[None]:
    """Raises an `OSError` of the block as one line: what cannot be done, why, and what to do."""
    try:
        yield
    except OSError as error:
        raise kind(f"{what}: {error.strerror}{then}") from None


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
