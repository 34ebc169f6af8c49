"""The error tree of the service: why a call was not carried out, besides what the engine says.

A message is one line, says what to do, and never holds an image, a name or a number.
"""

from __future__ import annotations

from typing import ClassVar


class ServiceRefusal(Exception):
    """A call that was not carried out; `code` is stable, the message is for people.

    `retry_after_s` is set where the same call may succeed later.
    """

    code: ClassVar[str] = "SERVICE.REFUSED"
    retry_after_s: float | None = None

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type[ServiceRefusal], tuple[str, float | None]]:
        return type(self), (str(self), self.retry_after_s)


class Malformed(ServiceRefusal):
    """The body or a header is not what the interface describes."""

    code = "REQUEST.MALFORMED"


class IdempotencyKeyMissing(Malformed):
    code = "REQUEST.IDEMPOTENCY_KEY_MISSING"


class IdempotencyKeyInvalid(Malformed):
    """Not 1 to 255 printable characters of ASCII."""

    code = "REQUEST.IDEMPOTENCY_KEY_INVALID"


class CaptureTimeInvalid(Malformed):
    """A capture time that no honest clock shows."""

    code = "REQUEST.CAPTURE_TIME"


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
    """The content type is none that this route reads."""

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


class Forbidden(AccessRefusal):
    """The key's role or tenant may not do this."""

    code = "ACCESS.FORBIDDEN"


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
