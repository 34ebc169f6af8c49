"""Why a call has no answer. A text names the correlator to look for in the service's log."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trail:
    """How a call went: what to ask the operator for, and how to ask again.

    `idempotency_key` is None for calls that store nothing. After more than one attempt, an earlier
    one may have been carried out: a line that is closed already is not found.
    """

    correlator: str
    attempts: int
    idempotency_key: str | None = None


class CallFailed(Exception):
    """A call that has no answer."""

    def __init__(self, text: str, trail: Trail) -> None:
        super().__init__(f"{text} (correlator {trail.correlator}, attempts: {trail.attempts})")
        self.trail = trail

    @property
    def correlator(self) -> str:
        return self.trail.correlator

    @property
    def attempts(self) -> int:
        return self.trail.attempts

    @property
    def idempotency_key(self) -> str | None:
        return self.trail.idempotency_key


class ApiError(CallFailed):
    """The service refused it: `code` is stable, `message` one line for people."""

    def __init__(self, status: int, code: str, message: str, trail: Trail) -> None:
        super().__init__(f"{status} {code}: {message}", trail)
        self.status, self.code, self.message = status, code, message


class Unavailable(CallFailed):
    """Nobody could answer in time; the same call, with the same key, may succeed later.

    `status` and `code` are those of the last attempt that was answered, if one was.
    """

    def __init__(
        self, reason: str, trail: Trail, status: int | None = None, code: str | None = None
    ) -> None:
        super().__init__(f"no answer in time, last: {reason}", trail)
        self.status, self.code = status, code
