"""How a call of the desk crosses to another process: errors go as values, never as exceptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import GalleryBehind, LeaseLost, RequestError, SosieError
from indexes.errors import IndexFault, ShardLost
from serving.refusals import Interrupted, ServiceRefusal
from serving.service.desk import CallContext

QUEUED = frozenset({"enroll", "identify", "note"})
"""Gathered with others of their kind; every other call is carried out by a thread of its own."""
ABOUT_HOLDERS = frozenset(
    {"check_line", "check_document", "read_lines", "dispute_line", "close_line", "erase"}
)
ABOUT_FRAUD = frozenset(
    {
        "step_case",
        "expect_sweep",
        "start_sweep",
        "steer_sweep",
        "read_sweep",
        "list_sweeps",
        "list_groups",
        "read_group",
    }
)
OPERATIONS = QUEUED | ABOUT_HOLDERS | ABOUT_FRAUD
"""The methods of a `Desk` that another process may ask for, besides `status`."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a call came to: a value, or the error that its caller must see. Both can be pickled."""

    value: Any = None
    error: SosieError | ServiceRefusal | None = None

    def unwrap(self) -> Any:
        """The value; raises the error where there is one."""
        if self.error is not None:
            raise self.error
        return self.value


def presentable(error: Exception) -> SosieError | ServiceRefusal:
    """The error as a caller may see it; of an unforeseen one the type, and nothing of its text.

    Whatever says that the registrar or its gallery was lost is `Interrupted`: it may or may not
    have committed, and its caller asks again with the same key.
    """
    if isinstance(error, LeaseLost | GalleryBehind | ShardLost):
        return Interrupted(
            "the registry was interrupted and is opened again: "
            "ask again, with the same Idempotency-Key if the call has one"
        )
    if isinstance(error, IndexFault):
        return RequestError(str(error))
    if isinstance(error, SosieError | ServiceRefusal):
        return error
    return SosieError(f"the call met an internal error ({type(error).__name__}): report it")


def find_context(arguments: Sequence[Any]) -> CallContext | None:
    """Who asks, and for how long, among the arguments of a call."""
    for argument in arguments:
        if isinstance(argument, CallContext):
            return argument
    return None
