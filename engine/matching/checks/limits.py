"""Bounds on what callers find out of stored faces: by failures, and by answers near a threshold.

A decision is one bit about a stored face, and a score an equation: whoever may ask for ever
computes it. What tells little is free: that a holder is clearly themselves, or a stranger clearly
nobody. Whatever lies near a threshold is counted, for each carrier and holder, whether it was a
hit or not. A stranger's face that hits is as good as a photograph: so faces that a carrier searches
for are counted, too, whatever is found. Counts leak away at an even rate; beyond a bound the caller
waits, and people have a case.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from engine.cases.opening import CaseBatch, NewCase
from engine.errors import SosieError, TooManyFailures, TooManySearches
from engine.matching.checks.face import FacePart, name_watched
from engine.matching.checks.lines import LinePart
from engine.matching.checks.liveness import LivenessPart
from engine.matching.checks.people import PeoplePart
from engine.matching.judge import AttemptBatch, DecidedAttempt, DecisionCheck
from engine.matching.policy import Candidate, Evidence, Verdict
from engine.matching.requests import Attempt, name_counted
from engine.registry.audit import AuditEntry
from engine.registry.cases import CaseRecord
from engine.registry.database import is_id, utc_now
from engine.registry.enrollments import HOLDER_TALLY, SHOWN_TALLY, InFlight, Tally
from engine.registry.store import Reader
from engine.registry.writer import ChangeRunner, Writer
from indexes.base import Closing
from schema import frozen
from schema.actors import Caller
from schema.cases import ALIVE, CaseKind, CaseOrigin
from schema.options import NO_LIMITS, Limits
from schema.reasons import Decision, Reason, Told

NEAR = 0.1
"""How far from a threshold a score is clear of it: whoever knows a face as well as one photograph
of it tells is surprised by less, and learns next to nothing from what is no surprise."""
SEARCHED = 2
"""What a hit of a search near its threshold counts for: whoever searches tries until there is one.
Not more, for strangers are found too: at 100,000 references, 1,000 newcomers a day and 0.3
strangers for each, it ends an honest key every 86 days, and 3 would every day (simulated)."""
MISSED = 0.04
"""How far below its threshold a tenant's search counts one: misses that are nearly hits tell, too.
Not further, for strangers are that near by the dozen."""
KEYS_OF_CARRIER = 4
"""All keys of a carrier together may fail as often as so many that are no outlet's."""
_KEY, _CARRIER, _ENDED, _FACES = "key", "carrier", "ended", "faces"
_LATELY = timedelta(days=4)


@frozen
class Bound:
    """`most` at once, all of which are forgotten, evenly, in `period`; 0 is no bound."""

    most: int
    period: timedelta

    @property
    def each(self) -> timedelta:
        """The time that one takes to be forgotten."""
        return self.period / max(self.most, 1)

    def wait(self, level: float) -> timedelta:
        """The time until one more fits; nothing where it fits now."""
        excess = level + 1 - self.most if self.most else 0.0
        return excess * self.each if excess > 0 else timedelta()


def find_bound(limits: Limits, name: str, caller: Caller) -> Bound:
    """The bound of a count, by how its name begins."""
    if caller.is_command:
        return Bound(0, timedelta(days=1))
    kind = name.partition(":")[0]
    of_holder, of_key = timedelta(hours=limits.holder_h), timedelta(hours=limits.key_h)
    failures = limits.key_failures if caller.outlet is None else limits.outlet_key_failures
    shown, holder = (
        Bound(most, of_holder) for most in (limits.holder_shown, limits.holder_failures)
    )
    # A tenant's key that has met a full holder has had its share; who works on cases waits
    # until one more fits. Nobody waits where holders are not bounded any more.
    met, of_ended = (shown, shown.each) if caller.carrier is None else (holder, of_holder)
    return {
        _KEY: Bound(failures, of_key),
        _CARRIER: Bound(KEYS_OF_CARRIER * limits.key_failures, of_key),
        _ENDED: Bound(min(1, met.most), of_ended),
        _FACES: Bound(limits.searched_faces, timedelta(days=1)),
        HOLDER_TALLY: holder,
        SHOWN_TALLY: shown,
    }[kind]


def name_holder(document: str, caller: Caller) -> str:
    """The count of what a caller's carrier, or with scores anybody else, finds out of a holder.

    `document` is its id; of one that nobody holds its look-up, or it would tell itself apart by
    never being refused.
    """
    if caller.carrier is None:
        return f"{SHOWN_TALLY}:{document}"
    return f"{HOLDER_TALLY}:{document}:{caller.carrier}"


def name_keys(caller: Caller) -> list[str]:
    """The counts of failures: the carrier's first, then the key's, or that of all keys and
    sessions of its person."""
    of_carrier = [] if caller.carrier is None else [f"{_CARRIER}:{caller.carrier}"]
    return [*of_carrier, f"{_KEY}:{caller.person}"]


def name_ended(caller: Caller) -> str:
    """The mark of a key whose searches by face have ended."""
    return f"{_ENDED}:{caller.person}"


def lift_end(case: CaseRecord) -> tuple[Tally, ...]:
    """The count that lets a key search again, once two people closed its case as unfounded."""
    if not (case.group_key or "").startswith(f"{_ENDED}:"):
        return ()
    assert case.group_key is not None
    return (Tally(case.group_key, -1.0, timedelta(days=1), 1.0),)


def is_near(score: float, threshold: float) -> bool:
    """True where an answer at this threshold would have been a surprise either way."""
    return abs(score - threshold) < NEAR


class Levels:
    """Levels of counts at one moment, kept up to date with what is added."""

    def __init__(
        self, limits: Limits, registry: Reader, names: Iterable[str], now: datetime
    ) -> None:
        self._limits = limits
        self._found = registry.tallies(sorted(set(names))) if limits != NO_LIMITS else {}
        self._now = now
        self._levels: dict[str, float] = {}

    def require(
        self, caller: Caller, names: Iterable[str], beside: Mapping[str, int] | None = None
    ) -> None:
        """`TooManyFailures` where one of these counts takes no more, with what is in flight."""
        waits = [(self._wait(name, caller, (beside or {}).get(name, 0)), name) for name in names]
        longest, name = max(waits, default=(timedelta(), ""))
        if longest:
            raise refuse(longest, name)

    def add(self, caller: Caller, name: str, amount: float = 1.0) -> list[Tally]:
        """What counts one more, or `amount`; nothing where nothing is bounded or changed."""
        bound = find_bound(self._limits, name, caller)
        if not bound.most:
            return []
        level = self.level(name, caller)
        if amount < 0 and not level:
            return []
        self._levels[name] = min(bound.most, max(0.0, level + amount))
        return [Tally(name, amount, bound.each, bound.most)]

    def require_room(self, caller: Caller, name: str, amount: int) -> None:
        """`TooManyFailures` where so many more are more than the bound."""
        least = min(amount, find_bound(self._limits, name, caller).most)
        if longest := self._wait(name, caller, least - 1):
            raise refuse(longest)

    def is_full(self, caller: Caller, name: str, beside: int = 0) -> bool:
        """True where one more would be refused, or so many beside it."""
        return bool(self._wait(name, caller, beside))

    def level(self, name: str, caller: Caller) -> float:
        """The present level of a count."""
        if name not in self._levels:
            found, each = self._found.get(name), find_bound(self._limits, name, caller).each
            self._levels[name] = 0.0 if found is None else found.level_at(self._now, each)
        return self._levels[name]

    def _wait(self, name: str, caller: Caller, beside: int = 0) -> timedelta:
        bound = find_bound(self._limits, name, caller)
        return bound.wait(self.level(name, caller) + beside) if bound.most else timedelta()


def refuse(wait: timedelta, name: str = "") -> TooManyFailures:
    """The refusal: the same for a holder and for a key."""
    seconds = max(1.0, wait.total_seconds())
    said = "too much was asked of one face or too much failed, and people look into it"
    kind = TooManyFailures
    if name.startswith(f"{_FACES}:"):
        said, kind = "your carrier searched for as many faces as a day takes", TooManySearches
    return kind(f"{said}: wait as long as Retry-After says", seconds)


def find_case(limits: Limits, registry: Reader, caller: Caller, name: str) -> NewCase | None:
    """The case to be opened about a count that is full; None where people have or had one lately,
    and for a document that nobody holds."""
    kind, document, *_ = name.split(":")
    is_of_holder = kind in {HOLDER_TALLY, SHOWN_TALLY}
    if is_of_holder and not is_id(document):
        return None
    key = f"{kind}:{document}" if is_of_holder else name
    known = registry.cases.of_groups([key]).get(key)
    since = utc_now() - min(find_bound(limits, name, caller).period, _LATELY)
    if known is not None and (known.state in ALIVE or known.opened_at > since):
        return None
    return NewCase(
        kind=CaseKind.PROBING,
        origin=CaseOrigin.REVERIFICATION,
        document_ids=(document,) if is_of_holder else (),
        group_key=key,
    )


class Guard(Closing):
    """Bounds and counts what one call finds out of holders, from its question to its end.

    Bounds are asked before anything is compared, and what is in flight counts meanwhile; what is
    counted is committed before the answer is given.
    """

    def __init__(
        self,
        limits: Limits,
        registry: Reader,
        runner: ChangeRunner,
        caller: Caller,
        in_flight: InFlight,
    ) -> None:
        self._limits = limits
        self._registry = registry
        self._runner = runner
        self.caller = caller
        self._in_flight = in_flight
        self._held: list[str] = []
        # The count of faces that are searched for; of those who are no carrier's there is none.
        self._faces = [] if caller.carrier is None else [f"{_FACES}:{caller.carrier}"]

    def close(self) -> None:
        self._in_flight.remove(self._held)
        self._held.clear()

    def require(self, *documents: str) -> None:
        """`TooManyFailures`, with a case, where the carrier, the key or one of these holders takes
        no more; a document is given by its id, or by its look-up where nobody holds it."""
        names = [name_holder(one, self.caller) for one in documents]
        self._hold(names)
        self._require([*name_keys(self.caller), *names])

    def hold_faces(self, faces: int) -> None:
        """Has so many faces, which are to be searched for, count as in flight."""
        # Of a bound that is smaller than a call, the call takes all.
        self._hold(self._faces * min(faces, self._limits.searched_faces))

    def require_search(self) -> None:
        """The same for a search by the faces that are held, which tells of any holder."""
        self._require([*name_keys(self.caller), name_ended(self.caller), *self._faces])

    def _hold(self, names: Sequence[str]) -> None:
        self._held += names
        self._in_flight.add(names)

    def _require(self, asked: Sequence[str]) -> None:
        # Before counts are read: what is counted meanwhile counts twice, and not never.
        beside = {name: self._in_flight.others(name) for name in asked}
        levels = self._read(asked)
        try:
            levels.require(self.caller, asked, beside)
        except TooManyFailures:
            self._open_cases(levels, asked)
            raise

    def tells(self, score: float | None, threshold: float) -> bool:
        """True where an answer by this score is counted: to those who see scores each is."""
        if self.caller.carrier is None or score is None:
            return True
        return not score >= threshold or is_near(score, threshold)

    def count(self, *documents: str, is_failure: bool) -> list[Tally]:
        """The counts of one more for each of the documents; a failure is the key's too."""
        names = [name_holder(one, self.caller) for one in documents]
        given = [*name_keys(self.caller), *names] if is_failure else names
        levels = self._read(given)
        return [tally for name in given for tally in levels.add(self.caller, name)]

    def weigh_search(self, told: Sequence[str]) -> tuple[list[Tally], bool]:
        """What a search counts for by its faces, and since it told so often of these documents;
        and whether it met a holder of whom no more may be told: then it is not answered, and was
        the key's last."""
        names = Counter(name_holder(one, self.caller) for one in told)
        ended = name_ended(self.caller)
        levels = self._read([*names, ended, *self._faces])
        # By one that was answered since this was asked.
        levels.require(self.caller, [ended])
        tallies: list[Tally] = []
        for one in self._faces:
            tallies += levels.add(self.caller, one, self._held.count(one))
        is_met = False
        for name, times in names.items():
            most = find_bound(self._limits, name, self.caller).most
            is_met |= 0 < most < levels.level(name, self.caller) + times
            tallies += levels.add(self.caller, name, times)
        if is_met:
            tallies += levels.add(self.caller, ended)
        return tallies, is_met

    def settle(self, *documents: str, is_met: bool = False) -> None:
        """After what was counted is durable: opens the cases; refuses what met a full holder."""
        names = [*name_keys(self.caller), *(name_holder(one, self.caller) for one in documents)]
        asked = [*names, name_ended(self.caller)] if is_met else names
        levels = self._read(asked)
        self._open_cases(levels, asked)
        if is_met:
            levels.require(self.caller, [name_ended(self.caller)])

    def _read(self, names: Sequence[str]) -> Levels:
        return Levels(self._limits, self._registry, names, utc_now())

    def _open_cases(self, levels: Levels, names: Sequence[str]) -> None:
        for name in names:
            # Or calls of many faces would end just below the bound.
            beside = self._held.count(name) - 1 if name in self._faces else 0
            if levels.is_full(self.caller, name, beside):
                self._open_case(name)

    def _open_case(self, name: str) -> None:
        given = (self._limits, self._registry, self.caller, name)
        if find_case(*given) is None:
            return

        def perform(writer: Writer, now: datetime) -> None:
            new = find_case(*given)
            if new is None:
                return
            cases = CaseBatch(self._registry, now)
            cases.open(new, self.caller.actor)
            writer.commit(cases.writes())

        self._runner.run(perform)


def find_failed(made: DecidedAttempt) -> list[bytes]:
    """The look-ups of documents whose holder's face was not shown with them beyond doubt."""
    attempt, reasons = made.attempt, made.verdict.reasons if made.verdict.findings else ()
    unseen = [one for one in reasons if one.row.told is Told.HOLDER_SHOWN]
    unseen = unseen if unseen and made.evidence.of(LinePart).is_holder_unseen else []
    rows = (
        (Reason.DOCUMENT_HELD_BY_ANOTHER_FACE, attempt.document_lookup),
        (
            Reason.GUARDIAN_MISMATCH,
            None if attempt.guardian is None else attempt.guardian.document_lookup,
        ),
        (Reason.REPLACEMENT_REFUSED, attempt.replaced_lookup),
        # Nor with these is it told again and again whether a face is like the holder's.
        (Reason.REPLACEMENT_ASKED, attempt.replaced_lookup),
        (Reason.GUARDIAN_CHANGED, attempt.document_lookup),
        *((one, attempt.document_lookup) for one in unseen),
    )
    return [lookup for reason, lookup in rows if reason in reasons and lookup is not None]


SEARCHES_ENDED = "searches.ended"


class LimitsCheck(DecisionCheck):
    """The bounds on what the attempts of a batch find out, each counted after those before it."""

    unasked = NO_LIMITS

    def __init__(self, batch: AttemptBatch, terms: Limits) -> None:
        super().__init__(batch, terms)
        attempts, registry = batch.attempts, batch.registry
        asked = [(one, one.request.caller) for one in attempts if one.request.caller is not None]
        names = [name for _, caller in asked for name in (*name_keys(caller), name_ended(caller))]
        watched = [
            name_watched(key) for found in batch.comparisons.watched.values() for key, _ in found
        ]
        for one, caller in asked:
            documents = [*map(self._find_counted, one.lookups), *batch.owners.values(), *watched]
            names += [name_holder(key, caller) for key in documents]
        replaced = [batch.document(one.replaced_lookup) for one in attempts if one.replaced_lookup]
        self._of_replaced = {one.id: registry.tally_names(one.id) for one in replaced if one}
        names += [name for some in self._of_replaced.values() for name in some]
        self._levels = Levels(terms, registry, names, batch.now)
        self._reported: set[str] = set()

    def _find_counted(self, lookup: bytes) -> str:
        return name_counted(lookup, self._batch.document(lookup))

    def admit(self, attempt: Attempt) -> None:
        """`TooManyFailures` for one of a key, or about a document, of which no more is taken."""
        caller = attempt.request.caller
        if caller is not None:
            held = [name_holder(self._find_counted(one), caller) for one in attempt.lookups]
            self._levels.require(caller, [*name_keys(caller), name_ended(caller), *held])

    def refuse(self, made: DecidedAttempt) -> SosieError | None:
        """The same for one that would tell of a holder of whom no more may be told: it is its key's
        last, but for a double beyond doubt, whose refusal says nothing new. An entry says so where
        a case is open already: nothing is kept without one."""
        caller = made.attempt.request.caller
        if caller is None:
            return None
        told = _weigh_told(made.evidence, made.verdict)
        try:
            for one, amount in told.items():
                self._levels.require_room(caller, name_holder(one, caller), amount)
        except TooManyFailures as error:
            if SEARCHED in told.values():
                outlet = made.attempt.outlet.code
                self._batch.writes.append(AuditEntry(caller.actor, SEARCHES_ENDED, outlet))
                self._count(caller, {name_ended(caller): 1.0})
            return error
        return None

    def write(self, made: DecidedAttempt) -> None:
        """What a decision counts for, and the cases about counts that are full by it.

        A rejection by what was compared is its key's failure, and a first face that people are
        asked about, which tells how others have opened lines; an approval takes one off.
        """
        attempt, evidence, verdict = made.attempt, made.evidence, made.verdict
        if made.verdict.decision is Decision.APPROVED:
            self._follow(attempt)
        caller = attempt.request.caller
        if caller is None:
            return
        told = _weigh_told(evidence, verdict)
        told |= {self._find_counted(one): 1 for one in find_failed(made)}
        score, own = evidence.of(FacePart).holder_score, attempt.document_lookup
        if (
            own is not None
            and score is not None
            and is_near(score, evidence.thresholds.same_document)
        ):
            told.setdefault(self._find_counted(own), 1)
        about: dict[str, float] = {name_holder(one, caller): told[one] for one in told}
        if made.verdict.decision is Decision.APPROVED:
            about |= dict.fromkeys(name_keys(caller), -1)
        elif (
            evidence.of(PeoplePart).first_after is not None
            if verdict.decision is Decision.REVIEW
            # Without a result that holds nothing was compared: that finds nothing out.
            else evidence.of(LivenessPart).liveness_brings is not Decision.REJECTED
        ):
            about |= dict.fromkeys(name_keys(caller), 1)
        self._count(caller, about)

    def _count(self, caller: Caller, about: Mapping[str, float]) -> None:
        """Counts, and opens a case for each count that is full by it."""
        for name, amount in about.items():
            self._batch.writes += self._levels.add(caller, name, amount)
        for name in about:
            if name in self._reported or not self._levels.is_full(caller, name):
                continue
            self._reported.add(name)
            case = find_case(self._terms, self._batch.registry, caller, name)
            if case is not None:
                self._batch.cases.open(case, caller.actor)

    def _follow(self, attempt: Attempt) -> None:
        """What counted about a document that was replaced counts about its successor, which has
        its reference: a new number is no new try at the same face."""
        old = self._batch.document(attempt.replaced_lookup)
        own = self._batch.document(attempt.document_lookup)
        if old is None or own is None:
            return
        nobody = Caller("sosie")
        for name in self._of_replaced[old.id]:
            if level := self._levels.level(name, nobody):
                successor = name.replace(old.id, own.id)
                self._batch.writes += self._levels.add(nobody, successor, level)


def _weigh_told(evidence: Evidence, verdict: Verdict) -> dict[str, int]:
    """The holders, and the entries of the watch-list, of whom a decision tells, and what that
    counts for: of one who is found beyond doubt it says nothing new, but a face that is known could
    try out documents for ever."""
    if not verdict.findings:
        return {}
    saying = set(verdict.reasons) - verdict.idle
    told: list[Candidate] = []
    for part in (evidence.of(FacePart), evidence.of(PeoplePart).guardian):
        if part is not None and any(one.row.is_searched for one in saying):
            told += part.candidates
        if part is not None and Reason.WATCHLISTED in saying:
            told += part.watched
    certain = evidence.thresholds.certain
    near = {one.document_id for one in told if one.score < certain or is_near(one.score, certain)}
    return {one.document_id: SEARCHED if one.document_id in near else 1 for one in told}
