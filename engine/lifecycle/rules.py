"""Rules of the life of lines: when a holder is asked for, and what follows where nobody comes.

A rule waits for an event of a line and is data, in TOML; a set of them is a carrier's.
"""

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import field, replace
from datetime import date, timedelta
from graphlib import CycleError, TopologicalSorter
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import msgspec

from engine.errors import RequestError
from engine.registry.lines import Step
from schema import frozen
from schema.decoding import StrictValue, Value
from schema.lines import LineEventKind, LineService, LineStatus
from schema.options import CarrierPeople, KeepFaces, LineLimits, PeopleRules, ProofBrings
from schema.people import Channel, ProofLevel, ProofWay

BUILT_IN = (
    "bangladesh", "china", "ghana", "india", "indonesia", "korea", "mexico", "nigeria", "pakistan",
    "philippines", "thailand", "vietnam",
)  # fmt: skip
"""Names of built-in sets, each with its source; they lie beside this module."""
ENDING = frozenset({LineEventKind.PORT_OUT, LineEventKind.TRANSFER})
"""What ends a line: its number goes to another carrier, or to another holder, who has to enroll."""
SIM_CHANGES = (LineEventKind.SIM_SWAP, LineEventKind.ESIM_DOWNLOAD, LineEventKind.PORT_IN)
"""What gives a number another SIM."""
_STATES = (*(one.value for one in LineService), LineStatus.CLOSED.value)
"""States that a rule brings, each stricter than those before."""
_BY_PEOPLE = {LineEventKind.CLOSED, LineEventKind.DISPUTED, LineEventKind.RESTORED}
_AWAITED = frozenset(set(LineEventKind) - ENDING - _BY_PEOPLE)
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d{1,6})([smhd])")
MOST_NAME = 60
_Most = Annotated[int, msgspec.Meta(ge=0)]
CHECKED_FOR = timedelta(days=183)
"""So long after somebody has read its source a set is taken to follow it."""


class Reverify(StrictValue, kw_only=True):
    """A rule as its file has it: at the event `on` the line is put into `at_once`, where that is
    given; while its holder has not come, the steps of `then` follow, `TIME STATE` each, the time
    since the one before. Whoever opened the line by a proof of the level `unless_proof`, or of a
    higher one, is not asked for."""

    on: str
    name: str = ""
    at_once: str | None = None
    unless_proof: ProofLevel | None = None
    then: tuple[str, ...]


class RulesAbout(Value, kw_only=True):
    """What a set of rules says beside them. Of lines of a person over all carriers `person_limit`
    bounds those in use, `channel_limits` those of whoever opens one by a channel, `day_limit` those
    opened within 24 hours; each further one is approved over the first, at most `approval_h` ago;
    0: no limit. `keep_faces`: what becomes of faces, where they say it; `proofs`, `verified_by` and
    `face_tries` are as `[people]` has them. From `filing_persons` stored on the authority wants to
    be told; 0: never. `source` and `note` say whose rules they are, and how far these follow them,
    `checked_on` when somebody last read the source."""

    title: str = ""
    source: str = ""
    checked_on: date | None = None
    note: str = ""
    person_limit: _Most = 0
    day_limit: _Most = 0
    approval_h: Annotated[int, msgspec.Meta(ge=0, le=720)] = 0
    channel_limits: Mapping[Channel, _Most] = {}
    keep_faces: KeepFaces | None = None
    proofs: Mapping[ProofWay, ProofBrings] = {}
    verified_by: tuple[ProofWay, ...] = ()
    face_tries: int = 0
    filing_persons: int = 0

    def tell_limits(self, person_limit: int) -> str:
        """The limits on the lines of a person, as people read them."""
        told = [f"{person_limit or 'any number of'} lines a person"]
        told += [f"{self.day_limit} a day"] if self.day_limit else []
        told += ["each further one approved over the first"] if self.approval_h else []
        return ", ".join([*told, *(f"{n} {one}" for one, n in self.channel_limits.items())])

    def tell(self, people: PeopleRules, signed: Container[ProofWay]) -> dict[str, Any]:
        """The words on people that hold: of ways those of `people`, or, where it names none, these
        for which somebody has signed."""
        opened = {way: brings for way, brings in self.proofs.items() if way in signed}
        return {
            "keep_faces": self.keep_faces or people.keep_faces,
            "proofs": people.proofs or opened,
            "verified_by": people.verified_by
            or tuple(one for one in self.verified_by if one in signed and not people.proofs),
            "face_tries": people.face_tries or self.face_tries,
        }


class RuleFile(RulesAbout, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A set of rules as a file has it."""

    title: str
    reverify: tuple[Reverify, ...] = ()


class Rule(Reverify, frozen=True, kw_only=True):
    """A rule that was checked; without a name of its own it has that of its event."""

    on: LineEventKind
    steps: tuple[Step, ...]


class RuleSet(RulesAbout, frozen=True):
    """The rules of a carrier, by the event that each waits for."""

    rules: Mapping[LineEventKind, Rule] = {}


@frozen
class LineRules:
    """The rules of all carriers: `usual`, but for those with a set of their own."""

    usual: RuleSet = field(default_factory=RuleSet)
    own: Mapping[str, RuleSet] = field(default_factory=dict)

    @property
    def sets(self) -> tuple[RuleSet, ...]:
        """The usual set, and those of carriers of their own."""
        return self.usual, *self.own.values()

    @property
    def filing_persons(self) -> int:
        """From so many persons stored on an authority wants to be told; 0: none does."""
        return min(filter(None, (one.filing_persons for one in self.sets)), default=0)

    def list_old(self, today: date) -> list[str]:
        """Titles of the sets whose source nobody has read lately, as they say."""
        dated = {one.title: on for one in self.sets if (on := one.checked_on)}
        return sorted(title for title, on in dated.items() if on + CHECKED_FOR < today)

    def limit(self, person_limit: int, channels: Mapping[str, Channel]) -> LineLimits:
        """The limits on lines of a person over all carriers, `person_limit` in place of the usual
        set's: a carrier's own set says by day and channel what else is asked of what it opens.
        `RequestError` where it has a person's, which would be left out, and nobody would notice."""
        usual = self.usual
        person_limit = person_limit or usual.person_limit
        limited = [code for code, one in self.own.items() if one.person_limit]
        if limited and not person_limit:
            raise RequestError(
                f"the rules of {min(limited)} have a person_limit, which is over all carriers: "
                "set it under [lines], too"
            )

        def join(one: RuleSet) -> LineLimits:
            limits = {**usual.channel_limits, **one.channel_limits}
            outlets = {code: limits.get(channel, 0) for code, channel in channels.items()}
            dated = (one.day_limit or usual.day_limit, one.approval_h or usual.approval_h)
            return LineLimits(person_limit, *dated, outlets)

        return replace(join(usual), own={code: join(one) for code, one in self.own.items()})

    def complete(self, people: PeopleRules, signed: Container[ProofWay] = ()) -> PeopleRules:
        """The rules on people, with what these say of carriers whose own do not, and the ways that
        issuers have `signed` for."""
        usual = replace(people, **self.usual.tell(people, signed))
        carriers = {**people.carriers}
        for code, one in self.own.items():
            given = carriers.get(code, CarrierPeople())
            said = {
                name: said
                for name, said in one.tell(people, signed).items()
                if getattr(given, name) is None and said != getattr(usual, name)
            }
            if said:
                carriers[code] = replace(given, **said)
        return replace(usual, carriers=carriers)

    def find(self, carrier: str, kind: LineEventKind) -> Rule | None:
        """The rule of a carrier that waits for this event."""
        return self.own.get(carrier, self.usual).rules.get(kind)


NO_RULES = LineRules()


def load_rules(name: str, folder: Path = Path()) -> RuleSet:
    """A built-in set by its name, or one of a file, in `folder` unless absolute; none for "".

    `RequestError`, in one line that names the rule, where it cannot be carried out.
    """
    if not name:
        return RuleSet()
    if name in BUILT_IN:
        text = files("engine.lifecycle").joinpath(f"{name}.toml").read_text("utf-8")
    else:
        try:
            text = (folder / name).read_text("utf-8")
        except (OSError, ValueError):
            raise RequestError(
                f"{name} are no rules of lines: name one of {', '.join(BUILT_IN)}, or a TOML file "
                "as docs/lines.md shows"
            ) from None
    return read_rules(text, name)


def read_rules(text: str, name: str) -> RuleSet:
    """The rules in a text of TOML; `RequestError` as `load_rules`."""
    try:
        given = msgspec.toml.decode(text, type=RuleFile)
    except msgspec.DecodeError as error:
        raise RequestError(f"{name} are no rules of lines: {error}; see docs/lines.md") from None
    rules: dict[LineEventKind, Rule] = {}
    for one in given.reverify:
        rule = _check(one, name)
        other = rules.setdefault(rule.on, rule)
        if other is not rule:
            raise RequestError(
                f"{name}: the rules {other.name} and {rule.name} contradict: both wait for "
                f"{rule.on}; keep one of them"
            )
    names = [rule.name for rule in rules.values()]
    if twice := {one for one in names if names.count(one) > 1}:
        raise RequestError(f"{name}: two rules are called {min(twice)}: give each its own name")
    _refuse_loops(rules, name)
    about = {name: getattr(given, name) for name in RulesAbout.__struct_fields__}
    return RuleSet(rules, **about)


def _check(given: Reverify, file: str) -> Rule:
    name = given.name or given.on
    where = f"{file}: the rule {name[:MOST_NAME]}"
    if not (0 < len(name) <= MOST_NAME and name.isprintable()) or ":" in name:
        raise RequestError(f"{where}: a name has 1 to {MOST_NAME} characters, none of them a colon")
    if given.on not in _AWAITED:
        is_end = given.on in {*ENDING, LineEventKind.CLOSED}
        why = "people decide" if given.on in _BY_PEOPLE else "is no event"
        raise RequestError(
            f"{where} waits for {given.on}, which {'ends the line' if is_end else why}: "
            "see docs/lines.md"
        )
    parted = [one.partition(" ") for one in given.then]
    steps = [(read_duration(duration, where), state) for duration, _, state in parted]
    if not steps:
        raise RequestError(f"{where}: then is empty: name what follows, as in then = ['2h closed']")
    if given.at_once == LineStatus.CLOSED:
        raise RequestError(f"{where} closes at once: nobody could come; give a time before it")
    _check_states([*filter(None, [given.at_once]), *(state for _, state in steps)], where)
    return Rule(
        name=name,
        on=LineEventKind(given.on),
        at_once=given.at_once,
        unless_proof=given.unless_proof,
        then=given.then,
        steps=tuple(steps),
    )


def _check_states(states: Sequence[str], where: str) -> None:
    for state in states:
        if state not in _STATES:
            raise RequestError(f"{where}: {state} is no state: take {', '.join(_STATES)}")
    for before, after in pairwise(states):
        if _STATES.index(after) <= _STATES.index(before):
            raise RequestError(
                f"{where} contradicts itself: {after} after {before}; each step must be stricter"
            )


def check_steps(steps: Sequence[Step], where: str) -> tuple[Step, ...]:
    """The steps; `RequestError` for what contradicts itself."""
    _check_states([state for _, state in steps], where)
    return tuple(steps)


def read_duration(text: str, where: str) -> int:
    """Seconds of a time such as 2h or 30d; `RequestError`."""
    found = _DURATION.fullmatch(text)
    seconds = 0 if found is None else int(found[1]) * _UNIT_S[found[2]]
    if not seconds:
        raise RequestError(f"{where}: not a time: write 90m, 2h or 30d")
    return seconds


def _refuse_loops(rules: Mapping[LineEventKind, Rule], file: str) -> None:
    """A rule must not bring, by itself or by others, the event that it waits for."""
    graph: dict[LineEventKind, set[LineEventKind]] = {}
    for rule in rules.values():
        # Whoever comes ends it, and what was suspended is not any more.
        brings = {
            LineEventKind.REVERIFY_ASKED,
            LineEventKind.OVERDUE,
            LineEventKind.REVERIFIED,
            LineEventKind.UNSUSPENDED,
            *(LineEventKind(state) for _, state in rule.steps),
            *map(LineEventKind, filter(None, [rule.at_once])),
        }
        graph[rule.on] = brings & rules.keys()
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        kinds = list(dict.fromkeys(error.args[1]))
        named = " and ".join(sorted(rules[kind].name for kind in kinds))
        raise RequestError(
            f"{file}: the rules loop: {named} would ask again for ever, as each brings about what "
            "the next one waits for; take one of them out"
            if len(kinds) > 1
            else f"{file}: the rule {named} loops: it brings about the {kinds[0]} that it waits for"
        ) from None
