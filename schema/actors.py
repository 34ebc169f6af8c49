"""Actors, and outlets that may not act."""

import re
import unicodedata
from dataclasses import field
from enum import StrEnum

from schema import frozen


@frozen
class Actor:
    """The taker of a step: `name` as the audit chain has it, and the person behind it, whom the
    history names.

    A person may have several keys, sessions, and an account of the machine besides.
    """

    name: str
    person: str

    def is_person(self, other: str) -> bool:
        """True for the same person, however the name is written."""
        return fold_person(self.person) == fold_person(other)


def fold_person(person: str) -> str:
    """One spelling for one person, however the name is written."""
    return " ".join(unicodedata.normalize("NFKC", person).casefold().split())


LONGEST_PERSON = 160
"""Of a name in an actor: the whole fits the columns that name actors."""


def describe_actor(person: str | None, credential: str) -> str:
    """Names an actor for the audit chain: the person, and in brackets by which key or
    session; the credential alone where it is no person's."""
    return credential if person is None else f"{person[:LONGEST_PERSON]} ({credential})"


CREDENTIALS, CREDENTIAL_ID_LENGTH = ("key", "session"), 12
_OF_PERSON = re.compile(rf"(.+) \((?:{'|'.join(CREDENTIALS)}):[0-9a-z]{{{CREDENTIAL_ID_LENGTH}}}\)")


def person_of(actor: str) -> str:
    """The person in what `describe_actor` says; any other actor as it is."""
    found = _OF_PERSON.fullmatch(actor)
    return actor if found is None else found[1]


def is_credential(name: str) -> bool:
    """True where a history would take this name for a key, a session or the machine's own, or for
    that of another person: nobody is called so."""
    folded = fold_person(name)
    start, colon, _ = folded.partition(":")
    is_prefixed = bool(colon) and start in {*CREDENTIALS, _MACHINE, "cli", "outlet"}
    return is_prefixed or folded == _MACHINE or person_of(folded) != folded


_MACHINE = "sosie"


class ActorKind(StrEnum):
    """An actor is this service itself, a command at its home, a person, or a key that
    is no person's."""

    SERVICE = "service"
    COMMAND = "command"
    PERSON = "person"
    KEY = "key"


def find_actor_kind(actor: str) -> ActorKind:
    """Tells the kind of an actor, as `describe_actor` and the commands name them."""
    start = actor.partition(":")[0]
    if start in CREDENTIALS:
        return ActorKind.KEY
    return {_MACHINE: ActorKind.SERVICE, "cli": ActorKind.COMMAND}.get(start, ActorKind.PERSON)


class Restriction(StrEnum):
    """Why an outlet may enroll nobody: suspended by one person at once, barred by a second."""

    SUSPENDED = "suspended"
    BARRED = "barred"


class Role(StrEnum):
    """`outlet` acts for one outlet, `carrier` for one tenant, `fraud` and `operator` for all;
    `metrics` reads the metrics alone."""

    OUTLET = "outlet"
    CARRIER = "carrier"
    FRAUD = "fraud"
    OPERATOR = "operator"
    METRICS = "metrics"


@frozen
class Caller:
    """Who compares faces, as the audit names it; `outlet` where it acts for one alone, `carrier`
    where it is a tenant's."""

    actor: str
    outlet: str | None = None
    carrier: str | None = None
    is_command: bool = field(init=False)
    """True of a command at the home itself: it has the key ring, so nothing bounds it. A key is
    none, whatever its person is called."""
    person: str = field(init=False)
    """The spelling by which the person, or else the key, is counted."""

    def __post_init__(self) -> None:
        person = person_of(self.actor)
        is_named_so = find_actor_kind(self.actor) is ActorKind.COMMAND
        object.__setattr__(self, "is_command", is_named_so and person == self.actor)
        object.__setattr__(self, "person", fold_person(person))
