"""Bounds on comparisons with holders: on those that fail, and on those that tell of one face.

A decision is one bit about a stored face, and a score an equation: whoever may ask for ever
computes it. Counts leak away at an even rate; beyond a bound the caller waits, and people have a
case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from engine.cases.case import ActorKind, CaseKind, CaseOrigin, find_actor_kind, person_of
from engine.cases.opening import CaseBatch, NewCase
from engine.errors import TooManyFailures
from engine.registry.reader import Reader
from engine.registry.records import ALIVE, Changes, Tally, utc_now
from engine.registry.rows import HOLDER_TALLY, KEY_TALLY, SHOWN_TALLY
from engine.registry.writer import Writer

T = TypeVar("T")


class ChangeRunner(Protocol):
    """Performs changes one after the other on the one writer."""

    def run(self, perform: Callable[[Writer, datetime], T]) -> T:
        """Perform a change between two batches."""
        ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Who compares faces, as the audit names it; `outlet` where it acts for one alone."""

    actor: str
    outlet: str | None = None

    @property
    def is_command(self) -> bool:
        """Whether it is a command at the home itself: it has the key ring, so nothing bounds it."""
        return find_actor_kind(self.actor) is ActorKind.COMMAND


@dataclass(frozen=True, slots=True)
class Bound:
    """`most` at once, all of which are forgotten, evenly, in `period`; 0 is no bound."""

    most: int
    period: timedelta

    @property
    def each(self) -> timedelta:
        """How long one takes to be forgotten."""
        return self.period / max(self.most, 1)

    def wait(self, level: float) -> timedelta:
        """How long until one more fits; nothing where it fits now."""
        excess = level + 1 - self.most if self.most else 0.0
        return excess * self.each if excess > 0 else timedelta()


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a deployment; [templates.md](docs/templates.md) says where they come from.

    `holder`: failed comparisons with one holder, by whomever. `shown`: answers that tell of a
    holder by face alone, or with a score. `outlet_key`, `other_key`: failures of one key, an
    outlet's or any other.
    """

    holder: Bound = Bound(20, timedelta(days=4))
    shown: Bound = Bound(60, timedelta(days=4))
    outlet_key: Bound = Bound(200, timedelta(days=1))
    other_key: Bound = Bound(5_000, timedelta(days=1))

    @property
    def is_any(self) -> bool:
        """Whether anything is bounded."""
        return any(one.most for one in (self.holder, self.shown, self.outlet_key, self.other_key))

    def bound_of(self, name: str, caller: Caller) -> Bound:
        """The bound of a count, by how its name begins."""
        if caller.is_command:
            return NO_BOUND
        kind = name.partition(":")[0]
        if kind == KEY_TALLY:
            return self.other_key if caller.outlet is None else self.outlet_key
        return self.holder if kind == HOLDER_TALLY else self.shown


NO_BOUND = Bound(0, timedelta(days=1))
NO_LIMITS = Limits(*(NO_BOUND,) * 4)


def name_holder(lookup: bytes) -> str:
    """The count of a document's failures. By its look-up, or one that nobody holds would tell
    itself apart by never being refused."""
    return f"{HOLDER_TALLY}:{lookup.hex()}"


def name_shown(document_id: str) -> str:
    """The count of the answers that tell of a document's holder."""
    return f"{SHOWN_TALLY}:{document_id}"


def name_key(caller: Caller) -> str:
    """The count of a key's failures, or of all keys and sessions of its person."""
    return f"{KEY_TALLY}:{person_of(caller.actor)}"


class Levels:
    """Levels of counts at one moment, kept up to date with what is added."""

    def __init__(
        self, limits: Limits, registry: Reader, names: Iterable[str], now: datetime
    ) -> None:
        self._limits = limits
        self._found = registry.tallies(sorted(set(names))) if limits.is_any else {}
        self._now = now
        self._levels: dict[str, float] = {}

    def require(self, caller: Caller, names: Iterable[str]) -> None:
        """`TooManyFailures` where one of these counts takes no more."""
        longest = max((self._wait(name, caller) for name in names), default=timedelta())
        if longest:
            raise refuse(longest)

    def add(self, caller: Caller, name: str, amount: float = 1.0) -> list[Tally]:
        """What counts one more, or `amount`; nothing where nothing is bounded or changed."""
        bound = self._limits.bound_of(name, caller)
        if not bound.most:
            return []
        level = self.level(name, caller)
        if amount < 0 and not level:
            return []
        self._levels[name] = max(0.0, level + amount)
        # One above the bound tells an answer that came too late.
        return [Tally(name, amount, bound.each, bound.most + 1)]

    def is_full(self, caller: Caller, name: str) -> bool:
        """Whether one more would be refused."""
        return bool(self._wait(name, caller))

    def level(self, name: str, caller: Caller) -> float:
        """How many stand in a count now."""
        if name not in self._levels:
            found = self._found.get(name)
            leaked = 0.0 if found is None else (self._now - found.at) / self._each(name, caller)
            self._levels[name] = 0.0 if found is None else max(0.0, found.level - max(0.0, leaked))
        return self._levels[name]

    def _each(self, name: str, caller: Caller) -> timedelta:
        return self._limits.bound_of(name, caller).each

    def _wait(self, name: str, caller: Caller) -> timedelta:
        bound = self._limits.bound_of(name, caller)
        return bound.wait(self.level(name, caller)) if bound.most else timedelta()


def refuse(wait: timedelta) -> TooManyFailures:
    """The refusal: the same for a holder and for a key."""
    seconds = max(1.0, wait.total_seconds())
    return TooManyFailures(
        "too many comparisons failed, and people look into it: wait as long as Retry-After says",
        seconds,
    )


def find_case(
    limits: Limits, registry: Reader, caller: Caller, name: str, document_ids: Sequence[str]
) -> NewCase | None:
    """The case to be opened about a count that is full; None where people have or had one lately,
    and for a document that nobody holds."""
    about_key = name.startswith(KEY_TALLY)
    if not about_key and not document_ids:
        return None
    key = name if about_key else f"{name.partition(':')[0]}:{document_ids[0]}"
    known = registry.cases.of_groups([key]).get(key)
    since = utc_now() - limits.bound_of(name, caller).period
    if known is not None and (known.state in ALIVE or known.opened_at > since):
        return None
    return NewCase(
        kind=CaseKind.PROBING,
        origin=CaseOrigin.REVERIFICATION,
        document_ids=document_ids,
        group_key=key,
    )


class Guard:
    """Bounds and counts what one caller compares with holders.

    What is counted is committed before the answer is given, and an answer that a concurrent one
    has overtaken at the bound is not given.
    """

    def __init__(
        self, limits: Limits, registry: Reader, runner: ChangeRunner, caller: Caller
    ) -> None:
        self._limits = limits
        self._registry = registry
        self._runner = runner
        self._caller = caller

    def require(self, names: Sequence[str], document_ids: Sequence[str] = ()) -> None:
        """`TooManyFailures`, with a case, where the key or one of these counts takes no more.

        `document_ids` are the documents of the names, in their order.
        """
        asked = [name_key(self._caller), *names]
        levels = self._read(asked)
        try:
            levels.require(self._caller, asked)
        except TooManyFailures:
            self._open_cases(levels, asked, document_ids)
            raise

    def count(self, names: Sequence[str], *, is_failure: bool) -> list[Tally]:
        """What counts one more for each of the names; a failure is the key's too."""
        given = [name_key(self._caller), *names] if is_failure else list(names)
        levels = self._read(given)
        return [tally for name in given for tally in levels.add(self._caller, name)]

    def settle(self, names: Sequence[str], document_ids: Sequence[str] = ()) -> None:
        """After what was counted is durable: opens the cases, refuses what came too late."""
        asked = [name_key(self._caller), *names]
        levels = self._read(asked)
        self._open_cases(levels, asked, document_ids)
        for name in asked:
            most = self._limits.bound_of(name, self._caller).most
            if most and levels.level(name, self._caller) > most:
                levels.require(self._caller, [name])

    def _read(self, names: Sequence[str]) -> Levels:
        return Levels(self._limits, self._registry, names, utc_now())

    def _open_cases(
        self, levels: Levels, names: Sequence[str], document_ids: Sequence[str]
    ) -> None:
        documents = dict(zip(names[1:], document_ids, strict=False))
        full = [name for name in names if levels.is_full(self._caller, name)]
        for name in full:
            self._open_case(name, [documents[name]] if name in documents else [])

    def _open_case(self, name: str, document_ids: Sequence[str]) -> None:
        given = (self._limits, self._registry, self._caller, name, document_ids)
        if find_case(*given) is None:
            return

        def perform(writer: Writer, now: datetime) -> None:
            new = find_case(*given)
            if new is None:
                return
            cases = CaseBatch(self._registry, now)
            cases.open(new, self._caller.actor)
            writer.commit(cases.add_to(Changes(sequence=writer.sequence, audit=())))

        self._runner.run(perform)
