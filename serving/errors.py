"""Errors of the service, and the table from errors to HTTP statuses and exit codes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import EnumType, IntEnum
from itertools import chain
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from engine import errors
from indexes.errors import IndexFault, ShardLost, SnapshotDamaged, VectorInvalid
from schema import frozen

if TYPE_CHECKING:
    from serving.wire.fields import Invalid

T = TypeVar("T")

# A message is one line, says what to do, and never contains an image, a name or a number.


class ServiceRefusal(Exception):
    """Base of the service's errors, with a stable `code`; `retry_after_s` where the same call may
    succeed later."""

    code: ClassVar[str] = "SERVICE.REFUSED"
    retry_after_s: float | None = None

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type[ServiceRefusal], tuple[str, float | None]]:
        return type(self), (str(self), self.retry_after_s)


class Malformed(ServiceRefusal):
    """The body or a header is not what the interface describes; `fields` are JSON Pointers (RFC
    6901) to what is wrong, where known."""

    code = "REQUEST.MALFORMED"

    def __init__(
        self, message: str, retry_after_s: float | None = None, fields: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message, retry_after_s)
        self.fields = fields


class IdempotencyKeyMissing(Malformed):
    code = "REQUEST.IDEMPOTENCY_KEY_MISSING"


class IdempotencyKeyInvalid(Malformed):
    """Not 1 to 255 printable characters of ASCII."""

    code = "REQUEST.IDEMPOTENCY_KEY_INVALID"


class CaptureTimeInvalid(Malformed):
    """A capture time that is not plausible."""

    code = "REQUEST.CAPTURE_TIME"


class OutOfRange(Malformed):
    """A number beyond what may be asked for."""

    code = "CAMARA.OUT_OF_RANGE"


class IdentifierMissing(Malformed):
    """No telephone number, where no key stands for one."""

    code = "CAMARA.MISSING_IDENTIFIER"


class FaceUnusable(ServiceRefusal):
    """A photograph that cannot be matched. The API shows `reason` in the code: `MATCH.NO_FACE`."""

    code = "MATCH.UNUSABLE"

    def __init__(
        self, message: str, retry_after_s: float | None = None, reason: str = "UNUSABLE"
    ) -> None:
        super().__init__(message, retry_after_s)
        self.reason = reason


class BodyTooLarge(ServiceRefusal):
    code = "REQUEST.BODY_TOO_LARGE"


class BodyTimeout(ServiceRefusal):
    """The body did not come in time."""

    code = "REQUEST.BODY_TIMEOUT"


class TypeUnsupported(ServiceRefusal):
    """A content type that this route does not read."""

    code = "REQUEST.TYPE_UNSUPPORTED"


class NotAcceptable(ServiceRefusal):
    """No answer in a type that the client accepts."""

    code = "REQUEST.NOT_ACCEPTABLE"


class RouteUnknown(ServiceRefusal):
    code = "REQUEST.ROUTE_UNKNOWN"


class MethodUnsupported(ServiceRefusal):
    code = "REQUEST.METHOD_UNSUPPORTED"


class TemplateInvalid(ServiceRefusal):
    """Not a template that this deployment issued to this tenant, or one that has expired."""

    code = "MATCH.TEMPLATE_INVALID"


class TooManyItems(ServiceRefusal):
    """More items than one call may bring."""

    code = "MATCH.TOO_MANY_ITEMS"


class AccessRefusal(ServiceRefusal):
    code = "ACCESS.REFUSED"


class Unauthenticated(AccessRefusal):
    """No key, or one that is unknown, revoked or expired."""

    code = "ACCESS.UNAUTHENTICATED"


class SessionEnded(Unauthenticated):
    """The session of a person at the console is over, or was ended."""

    code = "ACCESS.SESSION_ENDED"


class Forbidden(AccessRefusal):
    """The key's role or tenant may not do this."""

    code = "ACCESS.FORBIDDEN"


class CrossSite(Forbidden):
    """A session's cookie came with a call that our own page did not make."""

    code = "ACCESS.CROSS_SITE"


class RateLimited(AccessRefusal):
    """The key has spent its rate."""

    code = "ACCESS.RATE_LIMITED"
    retry_after_s = 1.0


class Busy(ServiceRefusal):
    """A queue is full: nothing was stored."""

    code = "SERVICE.BUSY"
    retry_after_s = 1.0


class NotReady(ServiceRefusal):
    """The service starts, replays or stops: nothing was stored."""

    code = "SERVICE.NOT_READY"
    retry_after_s = 2.0


class Interrupted(ServiceRefusal):
    """A part of the service was lost meanwhile: ask again with the same Idempotency-Key."""

    code = "SERVICE.INTERRUPTED"
    retry_after_s = 1.0


class ExitCode(IntEnum):
    """Exit status of a command."""

    FINE = 0
    NEGATIVE = 1
    BAD_INPUT = 2
    INTERNAL = 3


@frozen
class Fault:
    """An error as the API and the command line show it; the message is one line."""

    code: str
    message: str
    status: int
    exit_code: ExitCode
    retry_after_s: float | None = None
    advice: Mapping[str, str] | None = None


STATUSES: Mapping[int, tuple[type[Exception], ...]] = {
    400: (errors.ImageError, errors.RequestError, Malformed, TemplateInvalid, IndexFault),
    401: (Unauthenticated,),
    403: (
        *(errors.OutletRefused, errors.HolderMismatch, errors.TenantConflict, errors.FaceNotKept),
        *(errors.FourEyes, Forbidden),
    ),
    404: (errors.NotFound, RouteUnknown),
    405: (MethodUnsupported,),
    406: (NotAcceptable,),
    408: (BodyTimeout,),
    409: (
        *(errors.IdempotencyInFlight, errors.LivenessReplayed, errors.CaseMoved),
        *(errors.OutletMoved, errors.HolderMoved, errors.SweepBusy, errors.SweepOver),
    ),
    410: (errors.PlaceUnknown,),
    413: (errors.ImageTooLarge, BodyTooLarge),
    415: (errors.ImageUnsupported, TypeUnsupported),
    422: (
        *(errors.IdempotencyMismatch, errors.TextRefused, errors.LivenessRefused),
        *(errors.ProofRefused, errors.EventRefused, errors.NotReported),
        *(errors.ConsentWithdrawn, errors.CalibrationError),
        *(IdentifierMissing, TooManyItems, FaceUnusable),
    ),
    429: (errors.Overloaded, errors.TooManyFailures, RateLimited, Busy),
    500: (errors.VectorUnusable, errors.SosieError, VectorInvalid),
    503: (
        *(errors.DeadlinePassed, errors.KeyRingError, errors.ModelError, errors.RegistryError),
        *(errors.NotInstalled, errors.DeviceFailed, errors.LeaseLost, errors.GalleryBehind),
        *(errors.StorageFailed, ServiceRefusal, SnapshotDamaged, ShardLost),
    ),
    507: (errors.StorageFull,),
}
"""Errors by their status; of others that of the nearest base counts."""
_STATUS_OF = {kind: status for status, kinds in STATUSES.items() for kind in kinds}
_INTERNAL = (
    *(*STATUSES[500], errors.StorageFull, errors.DeviceFailed, errors.LeaseLost),
    *(errors.GalleryBehind, errors.StorageFailed, SnapshotDamaged, ShardLost),
)
"""Errors by which a command ends as by a fault of ours."""


_CAMARA = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    406: "NOT_ACCEPTABLE",
    409: "CONFLICT",
    415: "UNSUPPORTED_MEDIA_TYPE",
    429: "TOO_MANY_REQUESTS",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
"""Codes of CAMARA's errors by status; others of the client's are INVALID_ARGUMENT."""


def name_for_camara(fault: Fault) -> Fault:
    """The fault with the code that CAMARA has for it."""
    if fault.code == errors.NotFound.code:
        return replace(fault, code="IDENTIFIER_NOT_FOUND")
    prefix, _, own = fault.code.partition(".")
    if prefix == "CAMARA":
        return replace(fault, code=own)
    usual = "INVALID_ARGUMENT" if fault.status < 500 else "UNAVAILABLE"
    return replace(fault, code=_CAMARA.get(fault.status, usual))


RETRIABLE = frozenset({409, 429, 503, 507})
RETRY_AFTER_S = 1.0
FINAL = (
    errors.CaseMoved,
    errors.OutletMoved,
    errors.HolderMoved,
    errors.LivenessReplayed,
    errors.SweepBusy,
    errors.SweepOver,
    errors.NotInstalled,
    errors.TooManyFailures,
)
"""Errors that a retry does not change, or not for hours."""


def describe(error: Exception) -> Fault:
    """The fault for an error; for an unforeseen one with its type alone, as its text may contain
    anything."""
    kind = next((one for one in type(error).__mro__ if one in _STATUS_OF), None)
    if kind is not None:
        status, wait_s = _STATUS_OF[kind], getattr(error, "retry_after_s", None)
        if wait_s is None and status in RETRIABLE and kind not in FINAL:
            wait_s = RETRY_AFTER_S
        code, text = getattr(error, "code", "INDEX.REFUSED"), " ".join(str(error).split())
        exit_code = ExitCode.INTERNAL if kind in _INTERNAL else ExitCode.BAD_INPUT
        return Fault(code, text, status, exit_code, wait_s)
    message = f"internal error ({type(error).__name__}): run again with --debug and report it"
    return Fault("INTERNAL", message, 500, ExitCode.INTERNAL)


def require_sound(items: Sequence[T | errors.ImageError], paths: Sequence[Path] = ()) -> list[T]:
    """All items; raises the first that is an error, with its file if `paths` are given."""
    assert len(paths) in (0, len(items)), "a path for each item, or none"
    sound = []
    for place, item in enumerate(items):
        if isinstance(item, errors.ImageError):
            raise name_error(item, paths[place]) if paths else item
        sound.append(item)
    return sound


def name_error(error: errors.ImageError, path: Path) -> errors.ImageError:
    """The same error, prefixed with its file."""
    return type(error)(f"{path}: {error}")


_PLACE = r"(?: - at `\$(?P<path>[\w.\[\]]*)`)?"


_PLAIN = re.compile(
    "(?P<text>Expected `[^`]+`(?:, got `[^`]+`| of length [<>]= \\d+| [<>]=? -?[0-9.e+-]+)?"
    f"|Invalid base64 encoded string|Invalid RFC3339 encoded date){_PLACE}"
)


_MISSING = re.compile(f"Object missing required field `(?P<name>\\w+)`{_PLACE}")


_UNKNOWN = re.compile(f"(?s:Object contains unknown field `(?P<name>.*?)`){_PLACE}")


_ENUM = re.compile(f"(?s:Invalid enum value .*?){_PLACE}")


_OWN = re.compile(f"(?s:.*?){_PLACE}")


_NAME = re.compile(r"(?:[a-z_][A-Za-z_]*(?:\d{1,2}[A-Za-z_]+)*\d{0,2}|\d{1,3})")


MAX_NAME_LENGTH = 64


def name_safely(name: str) -> str:
    """A client's name of a field or part where it looks like one, else empty: it may be a
    person's."""
    is_name = len(name) <= MAX_NAME_LENGTH and all(map(_NAME.fullmatch, name.split(".")))
    return name if is_name else ""


def describe_invalid(error: Invalid, kind: Any) -> Malformed | TooManyItems:
    """Names the first field that is wrong, and never its value."""
    text, own = str(error), error.__cause__
    patterns = [_MISSING, _UNKNOWN, _ENUM, _PLAIN]
    if isinstance(own, ValueError):
        # Of a wire type, whose messages repeat nothing.
        patterns = [_OWN]
    found = next(filter(None, (one.fullmatch(text) for one in patterns)), None)
    steps = _steps(found)
    place = _type_at(kind, steps)
    if found is None or place is None:
        return Malformed("the request is not what /openapi.json describes")
    told = found.groupdict()
    name, fault = told.get("name", ""), told.get("text", "")
    fault = fault[:1].lower() + fault[1:]
    if found.re is _OWN:
        fault = str(own)
    elif found.re is _MISSING:
        fault = "missing"
    elif found.re is _UNKNOWN:
        known = ", ".join(_members(place)[0].__struct_fields__)
        name, fault = name_safely(name), f"unknown field: known are {known}"
    elif found.re is _ENUM:
        choices = [one if isinstance(one, EnumType) else get_args(one) for one in _members(place)]
        fault = f"not one of {', '.join(map(str, chain.from_iterable(choices)))}"
    elif fault.startswith("invalid base64"):
        fault = "not base64: send it without line breaks and without `data:image/…;base64,`"
    elif steps == ["items"] and fault.startswith("expected `array` of length <="):
        return TooManyItems(f"more items than one call may bring: {fault}")
    path = [*steps, name] if name else steps
    fields = ("/" + "/".join(path),) if path else ()
    return Malformed(f"{'.'.join(path) or 'the request'}: {fault}", fields=fields)


def _steps(found: re.Match[str] | None) -> list[str]:
    path = (found["path"] or "") if found else ""
    return path.replace("[", ".").replace("]", "").strip(".").split(".") if path else []


def _type_at(kind: Any, steps: list[str]) -> Any:
    """The type of the field at this path; None where there is none, as in an invented path."""
    for step in steps:
        members = _members(kind)
        if step.isdigit():
            kind = next((one for member in members for one in get_args(member)), None)
        else:
            first = members[0]
            kind = get_type_hints(first).get(step) if isinstance(first, type) else None
        if kind is None:
            return None
    return kind


def _members(kind: Any) -> list[Any]:
    """The types of a union, without null."""
    if get_origin(kind) in {Union, UnionType}:
        return [one for part in get_args(kind) for one in _members(part) if one is not NoneType]
    return [kind]
