"""Phases of the service and of its backups; what it keeps, and what it deletes."""

from enum import StrEnum


class Phase(StrEnum):
    """Phase of the registrar; it answers calls in `ready`, and in `full` and `silent` as far as it
    can."""

    STARTING = "starting"
    WAITING = "waiting"
    """For the writer's lease, which another process still holds."""
    REPLAYING = "replaying"
    READY = "ready"
    FULL = "full"
    """The database has no room left."""
    SILENT = "silent"
    """The database does not answer."""
    DRAINING = "draining"
    FAILED = "failed"


class BackupState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Retained(StrEnum):
    """What may expire, in the order in which it does."""

    ATTEMPTS = "attempts"
    """Of rejected attempts: evidence, consent, capture time, stored answer, template, crops. The
    decision stays, with its reasons."""
    REVIEWS = "reviews"
    """The same of attempts that people decided."""
    DOCUMENTS = "documents"
    """Number, name and look-ups of documents known from such attempts alone."""
    LINES = "lines"
    """The numbers of closed lines; the lines stay."""
    ANSWERS = "answers"
    """Stored answers by Idempotency-Key: the same request would be judged anew."""
    CROPS = "crops"
    LIVENESS = "liveness"
    """What capture systems said of faces, and when."""
    EXCEPTIONS = "exceptions"
    """Decided, and without a line in use: who had no usable face, and why."""
    GUARDIANS = "guardians"
    """Who answered for whom, since the end of the year in which that ended."""
    EVENTS = "events"
    """What systems of carriers were told, or could have read."""
    LINE_EVENTS = "line_events"
    """What happened to lines: ids, moments and causes."""
    WATCHLIST = "watchlist"
    """Entries since they were added, their faces and look-ups with them."""
    FACES = "faces"
    """Enrolled ones, since the last line of their holder was closed."""


class CropScope(StrEnum):
    """Photographs whose crops are kept."""

    NONE = "none"
    CASES = "cases"
    """Those of attempts that open a case; others are held for a while, and kept where a case comes
    to name their document."""
    ALL = "all"
