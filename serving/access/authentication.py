"""API keys and sessions: which are in force, how fast each may call, how much each may have at
once. A key is `sosie_live_<id>_<secret>` or `sosie_sandbox_…`: the id names its row and may be
shown, the secret is known by a digest alone. A session's cookie has the form without a start, and
is no key."""

import asyncio
import hmac
import math
import re
import secrets
import string
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeVar

from engine.errors import NotFound, SealBroken
from engine.registry.accounts import Accounts, ApiKey, Session, bind_secret
from engine.registry.database import AHEAD, utc_now
from engine.registry.store import Reader
from engine.registry.vault import Vault
from schema import frozen
from schema.actors import Role
from serving.access.authorization import MIN_BURST, Holder, Principal
from serving.errors import Busy, RateLimited, SessionEnded, Unauthenticated

MAX_KNOWN = 10_000
"""Most keys, and most unknown ids, in the cache."""
UNKNOWN_PER_S = 100.0
"""Most unknown ids that are looked up in a second."""
KEYS_OF_CARRIER = 10
"""All keys of a carrier together may call as fast as so many without a rate of their own, or as the
fastest of them."""

_Value = TypeVar("_Value")
_REFUSAL = "no key, or not one in force: send it as Authorization: Bearer sosie_…"
_ROUNDING = 1e-9

MAX_LENGTH = 200
"""Longer texts are refused unread."""

_STEM_LENGTH = 8
_CHECK_LENGTH = 4
_SECRET_LENGTH = 43  # of 62 signs: 256 bits

_ID_SIGNS = string.digits + string.ascii_lowercase
_SECRET_SIGNS = string.digits + string.ascii_letters
_KEY = re.compile(
    r"sosie_(?:live_|sandbox_)?"
    rf"([0-9a-z]{{{_STEM_LENGTH + _CHECK_LENGTH}}})_([0-9A-Za-z]{{{_SECRET_LENGTH}}})"
)


class Credential(StrEnum):
    """A presented key or session, by the name of its look-ups."""

    KEY = "api_key"
    SESSION = "session"


@frozen
class NewKey:
    """A fresh key: `text` is for its holder, once; `digest` for the registry."""

    id: str
    text: str = field(repr=False)
    digest: bytes = field(repr=False)


@frozen
class PresentedKey:
    """A text of the form of a key or a session, not yet authenticated."""

    id: str
    secret: str = field(repr=False)
    kind: Credential = Credential.KEY

    @property
    def name(self) -> str:
        """As `Principal.credential`."""
        return f"{'key' if self.kind is Credential.KEY else 'session'}:{self.id}"


def make_key(
    vault: Vault, kind: Credential = Credential.KEY, *, is_of_sandbox: bool = False
) -> NewKey:
    """A new key, or session, with 256 random bits; a key says where it is for."""
    stem = "".join(secrets.choice(_ID_SIGNS) for _ in range(_STEM_LENGTH))
    key_id = stem + _check_signs(vault, stem, kind)
    secret = "".join(secrets.choice(_SECRET_SIGNS) for _ in range(_SECRET_LENGTH))
    place = "" if kind is Credential.SESSION else "sandbox_" if is_of_sandbox else "live_"
    text = f"sosie_{place}{key_id}_{secret}"
    return NewKey(key_id, text, digest_key(vault, key_id, secret, kind))


def parse_key(text: str | None, kind: Credential = Credential.KEY) -> PresentedKey | None:
    """The parts of a text of the form of a key; `None` for any other."""
    if text is None or len(text) > MAX_LENGTH:
        return None
    found = _KEY.fullmatch(text)
    return None if found is None else PresentedKey(found[1], found[2], kind)


def digest_key(vault: Vault, key_id: str, secret: str, kind: Credential = Credential.KEY) -> bytes:
    """The keyed digest of a key (HMAC-SHA256, 32 bytes), which the registry binds to what the key
    may do (`bind_secret`). No slow hash: nobody guesses 256 random bits, and it is computed for
    every request."""
    return vault.look_up(kind, f"{key_id}\0{secret}")


def is_issued_id(vault: Vault, key_id: str, kind: Credential = Credential.KEY) -> bool:
    """False for nearly every id that was never given here, so that made-up keys cost no look-up:
    one in 1.7 million passes."""
    stem, check = key_id[:_STEM_LENGTH], key_id[_STEM_LENGTH:]
    return hmac.compare_digest(_check_signs(vault, stem, kind), check)


def _check_signs(vault: Vault, stem: str, kind: Credential) -> str:
    number = int.from_bytes(vault.look_up(f"{kind}_id", stem)[:8], "big")
    signs = []
    for _ in range(_CHECK_LENGTH):
        number, place = divmod(number, len(_ID_SIGNS))
        signs.append(_ID_SIGNS[place])
    return "".join(signs)


class TokenBucket:
    """`rate` items a second, with a burst of as many or of `MIN_BURST`; for one thread, `now` by a
    monotonic clock in seconds. A call passes while one token is there: a large batch goes into
    debt, which is paid before the next passes."""

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.change_rate(rate)
        self._tokens = self.burst
        self._at = now

    def change_rate(self, rate: float) -> None:
        """From the call before this on; what was taken stays taken."""
        assert rate > 0
        self.rate = rate
        self.burst = max(rate, float(MIN_BURST))

    def give_back(self, items: float) -> None:
        """Gives back a share that was taken, by a call that does not pass for another reason."""
        self._tokens += items

    def take(self, items: float, now: float, *, paid: float = 0) -> float:
        """Takes a call's tokens and returns 0, or takes none and returns the seconds to wait.
        `paid` were taken by the same call before: it passes as if it had asked for all at once."""
        tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        missing = 1.0 - (tokens + paid)
        if missing > _ROUNDING:
            self._tokens = tokens
            return missing / self.rate
        self._tokens = tokens - items
        return 0.0


def count_shares(held: Counter[str | Holder], change: int, holder: Holder) -> None:
    """Counts it for the carrier and for the key; what is 0 is not kept."""
    for one in (holder.tenant, holder):
        held[one] += change
        if not held[one]:
            del held[one]


class Places:
    """So many places, of which a key has its share at most, and all keys of a carrier leave half of
    the rest to others; for one event loop."""

    __slots__ = ("_held", "_of_carrier", "_of_key", "_what", "left")

    def __init__(self, count: int, key_share: float, what: str) -> None:
        self._of_key = max(1, math.ceil(count * key_share))
        self._of_carrier = math.ceil((count + self._of_key) / 2)
        self._held: Counter[str | Holder] = Counter()
        self._what = what
        self.left = count

    def take(self, holder: Holder, count: int = 1) -> None:
        """Takes them until `give_back`; `Busy` where too many are held."""
        for whose, most in ((holder, self._of_key), (holder.tenant, self._of_carrier)):
            if self._held[whose] + count > most:
                by = "key" if whose is holder else "carrier"
                raise Busy(f"too many {self._what} at once by this {by}: try again later")
        if count > self.left:
            raise Busy(f"too many {self._what} at once: try again later")
        self.left -= count
        count_shares(self._held, count, holder)

    def give_back(self, holder: Holder, count: int = 1) -> None:
        self.left += count
        count_shares(self._held, -count, holder)


@dataclass(slots=True)
class _Known:
    """A key or a session in force as looked up, `until` a time of the authenticator's clock, with
    its own and its carrier's `buckets`."""

    principal: Principal
    row: ApiKey | Session
    until: float
    buckets: tuple[TokenBucket, ...]


TOUCHED_AFTER = timedelta(minutes=1)
"""A session that is used is noted as used no more often, or at a quarter of its idle time."""


class Authenticator:
    """Authenticates the keys and sessions of one registry, with a cache; for one event loop. What
    is revoked or expires is refused at the latest `cache_s` after. `rate_limit`, in items a second,
    is for keys without their own (0: none); of every limit this one gives its `share`. A session
    not used for `idle` has ended."""

    def __init__(
        self,
        store: Reader,
        *,
        cache_s: float,
        rate_limit: float = 0.0,
        accounts: Accounts | None = None,
        idle: timedelta = timedelta(minutes=30),
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._idle = idle
        self._vault = store.vault
        self._cache_s = cache_s
        self._rate_limit = rate_limit
        self._replicas, self._enrollment_items = 1, 1.0
        self._clock = clock
        self._now = now
        self._known: dict[str, _Known] = {}
        self._carriers: dict[str, TokenBucket] = {}
        self._absent: dict[str, float] = {}
        self._lookups: dict[str, asyncio.Task[_Known | None]] = {}
        self._unknown = TokenBucket(UNKNOWN_PER_S, clock())

    def share(self, replicas: int, enrolling: int) -> None:
        """From now on calls are spread over so many, enrollments over `enrolling` of them: each
        gives its part of every limit, and those that are sent enrollments charge a part for one,
        so that a key may enroll as often as it may ask."""
        assert 1 <= enrolling <= replicas
        self._enrollment_items = enrolling / replicas
        own = [known.buckets[0] for known in self._known.values() if known.buckets]
        for bucket in {*own, *self._carriers.values()}:
            bucket.change_rate(bucket.rate * self._replicas / replicas)
        self._replicas = replicas

    def admit_known(self, key: str | None, *, enrolls: bool = False) -> Principal | None:
        """The principal of a key seen lately, charged one item; None where it must be looked up.
        `RateLimited`."""
        presented = parse_key(key)
        if presented is None:
            return None
        known = self._known.get(presented.name)
        now = self._clock()
        if known is None or now >= known.until or not self._matches(presented, known):
            return None
        _take(known.buckets, self._weigh(1, enrolls), now)
        return known.principal

    async def admit(self, key: str | None, *, enrolls: bool = False) -> Principal:
        """The same with a look-up; `Unauthenticated` for a key that is not in force."""
        known = await self._find_known(parse_key(key))
        if known is None:
            raise Unauthenticated(_REFUSAL)
        _take(known.buckets, self._weigh(1, enrolls), self._clock())
        return known.principal

    async def admit_session(self, text: str | None, *, enrolls: bool = False) -> Principal:
        """The principal of what a session's cookie holds; `SessionEnded` if it is not in force."""
        known = await self._find_known(parse_key(text, Credential.SESSION))
        if known is None:
            raise SessionEnded("your session has ended: sign in again")
        _take(known.buckets, self._weigh(1, enrolls), self._clock())
        return known.principal

    def is_to_be_touched(self, principal: Principal) -> bool:
        """True where it is time to note that a session is used: once for each such time."""
        known = self._known.get(principal.credential)
        if known is None or not isinstance(known.row, Session):
            return False
        now = self._now()
        if now - known.row.seen_at < min(TOUCHED_AFTER, self._idle / 4):
            return False
        known.row = replace(known.row, seen_at=now)
        return True

    def forget(self, principal: Principal) -> None:
        """Looks it up again when it comes next."""
        self._known.pop(principal.credential, None)

    def charge(self, principal: Principal, items: int, *, enrolls: bool = False) -> None:
        """Charges a call's other items; `RateLimited` beyond its rate."""
        known = self._known.get(principal.credential)
        if known is not None and items > 0:
            due, paid = (self._weigh(count, enrolls) for count in (items, 1))
            _take(known.buckets, due, self._clock(), paid=paid)

    def _weigh(self, items: int, enrolls: bool) -> float:
        return items * self._enrollment_items if enrolls else items

    async def _find_known(self, presented: PresentedKey | None) -> _Known | None:
        if presented is None or not is_issued_id(self._vault, presented.id, presented.kind):
            return None
        known = self._known.get(presented.name)
        if known is None or self._clock() >= known.until or self._is_over(known.row):
            known = await self._look_up(presented)
        return known if known is not None and self._matches(presented, known) else None

    def _matches(self, presented: PresentedKey, known: _Known) -> bool:
        vault, row = self._vault, known.row
        digest = digest_key(vault, presented.id, presented.secret, presented.kind)
        return hmac.compare_digest(bind_secret(vault, row, digest), row.digest)

    async def _look_up(self, presented: PresentedKey) -> _Known | None:
        """The key in force with this id, from the registry; concurrent calls share one look-up."""
        now, name = self._clock(), presented.name
        if now < self._absent.get(name, now):
            return None
        task = self._lookups.get(name)
        if task is None:
            if name not in self._known:
                wait_s = self._unknown.take(1, now)
                if wait_s:
                    raise RateLimited("too many unknown keys are tried: try again later", wait_s)
            task = asyncio.create_task(self._read(presented))
            self._lookups[name] = task
            task.add_done_callback(lambda done: self._settle(name, done))
        # The client of one call may go away: the others still wait for the answer.
        return await asyncio.shield(task)

    def _settle(self, name: str, task: asyncio.Task[_Known | None]) -> None:
        del self._lookups[name]
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio warns where nobody waited

    async def _read(self, presented: PresentedKey) -> _Known | None:
        asked_at, name = self._clock(), presented.name
        is_key = presented.kind is Credential.KEY
        find = self._find_key if is_key else self._find_session
        found = await asyncio.to_thread(find, presented.id)
        until = asked_at + self._cache_s
        if found is None:
            self._known.pop(name, None)
            _remember(self._absent, name, until)
            return None
        if found.expires_at is not None:
            until = min(until, asked_at + (found.expires_at - self._now()).total_seconds())
        known = self._know(found, until)
        _remember(self._known, name, known)
        self._absent.pop(name, None)
        return known

    def _find_key(self, key_id: str) -> ApiKey | None:
        try:
            key = self._store.api_key(key_id)
        except (NotFound, SealBroken):
            return None
        is_over = key.revoked_at is not None or self._is_over(key)
        return None if is_over or not self._is_open(key.outlet) else key

    def _find_session(self, session_id: str) -> Session | None:
        if self._accounts is None:
            return None
        try:
            session = self._accounts.find(session_id)
        except (NotFound, SealBroken):
            return None
        return None if self._is_over(session) or not self._is_open(session.outlet) else session

    def _is_over(self, row: ApiKey | Session) -> bool:
        now = self._now()
        if isinstance(row, Session):
            is_idle = row.seen_at + self._idle <= now
            # By a clock that was ahead it would last as much longer.
            if is_idle or max(row.created_at, row.seen_at) > now + AHEAD:
                return True
        return row.expires_at is not None and row.expires_at <= now

    def _is_open(self, code: str | None) -> bool:
        if code is None:
            return True
        outlet = self._store.outlets([code]).get(code)
        return outlet is not None and outlet.is_open

    def _know(self, row: ApiKey | Session, until: float) -> _Known:
        own_rate = row.rate_limit if isinstance(row, ApiKey) else None
        ends_at = row.expires_at if isinstance(row, Session) else None
        principal = Principal(
            row.id, Role(row.role), row.carrier, row.outlet, own_rate, row.person, ends_at
        )
        before = self._known.get(principal.credential)
        if before is not None and before.principal == principal:
            # It keeps its bucket: a look-up brings no new allowance.
            return replace(before, row=row, until=until)
        rate = self._rate_limit if own_rate is None else own_rate
        if rate <= 0:
            return _Known(principal, row, until, ())
        own = TokenBucket(rate / self._replicas, self._clock())
        of_carrier = None if row.carrier is None else self._bound_carrier(row.carrier, own.rate)
        return _Known(principal, row, until, (own,) if of_carrier is None else (own, of_carrier))

    def _bound_carrier(self, carrier: str, of_key: float) -> TokenBucket | None:
        """The bucket that all keys of a carrier share, at least as fast as this one of them."""
        if not self._rate_limit:
            return None
        rate = max(self._rate_limit * KEYS_OF_CARRIER / self._replicas, of_key)
        bucket = self._carriers.get(carrier)
        if bucket is None:
            bucket = self._carriers[carrier] = TokenBucket(rate, self._clock())
        bucket.change_rate(max(rate, bucket.rate))
        return bucket


def _remember(places: dict[str, _Value], key_id: str, value: _Value) -> None:
    """Adds to a cache; the oldest entry makes room."""
    places.pop(key_id, None)
    if len(places) >= MAX_KNOWN:
        del places[next(iter(places))]
    places[key_id] = value


def _take(buckets: tuple[TokenBucket, ...], items: float, now: float, *, paid: float = 0) -> None:
    """Takes the tokens of a call from each, or from none."""
    taken: list[TokenBucket] = []
    for bucket in buckets:
        wait_s = bucket.take(items, now, paid=paid)
        if wait_s:
            for one in taken:
                one.give_back(items)
            whose = "carrier's keys have" if taken else "key has"
            told = f"the {whose} spent the rate: wait as long as Retry-After says"
            raise RateLimited(told, wait_s)
        taken.append(bucket)
