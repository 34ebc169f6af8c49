import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from stdnum.cn import ric

from engine.cases import steps
from engine.errors import FourEyes
from engine.matching.calibration import Rate, Thresholds
from engine.matching.checks.document import AuthorityCheck, AuthorityTerms
from engine.matching.checks.limits import Guard, LimitsCheck
from engine.matching.checks.lines import LineCheck
from engine.matching.checks.liveness import NOT_ASKED, LivenessCheck, LivenessTerms
from engine.matching.checks.order import CHECKS, replay
from engine.matching.checks.people import PeopleCheck
from engine.matching.comparison import WatchList
from engine.matching.judge import Judge
from engine.matching.recovery import restore_gallery
from engine.matching.registrar import Observer, Registrar, RegistrarConfig
from engine.matching.requests import EnrollmentRequest, GuardianShown
from engine.matching.samples import Sample
from engine.registry.accounts import Carrier
from engine.registry.audit import AuditEntry
from engine.registry.enrollments import InFlight
from engine.registry.keyring import KeyRing
from engine.registry.store import Reader, Store
from engine.registry.vault import Vault
from indexes.gallery import Gallery
from schema.actors import Actor, Caller
from schema.cases import Outcome
from schema.decisions import DecidedEnrollment
from schema.documents import Document
from schema.options import NO_LIMITS, NO_RULES, Limits, LineLimits, PeopleRules
from schema.reasons import Reason

DIM = 64
ANY_LINES = LineLimits()
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
THRESHOLDS = Thresholds(
    verify=0.40, same_document=0.42, review=0.60, certain=0.70, verify_fused=0.46, one_person=0.35
)
MODEL_DIGEST = "d" * 64
TEST = Caller("key:k1")
CHILD, GROWN_UP = date(2012, 5, 1), date(1980, 5, 1)
ANNE, BORIS = Actor("Anne (key:a)", "Anne"), Actor("Boris (key:b)", "Boris")


class People:
    """Faces drawn from a seed: one person's samples score about 0.9, strangers' near 0."""

    def __init__(self, seed: int = 1, dim: int = DIM, outlet: str = "blue-1") -> None:
        self._random = np.random.default_rng(seed)
        self._dim, self._outlet = dim, outlet
        self._serial = itertools.count(1)

    def person(self) -> NDArray[np.float32]:
        return self._unit(self._random.standard_normal(self._dim))

    def sample(self, person: NDArray[np.float32], *problems: Reason, noise: float = 0.3) -> Sample:
        vector = self._unit(person + noise * self.person())
        # Of a file of its own, be its face the same.
        digest = hashlib.sha256(vector.tobytes() + self._random.bytes(8)).digest()
        return Sample(vector, digest, problems)

    def request(
        self, person: NDArray[np.float32] | None = None, noise: float = 0.3, **changes: Any
    ) -> EnrollmentRequest:
        """An honest request of a person; anything can be given instead."""
        serial = next(self._serial)
        person = self.person() if person is None else person
        fields: dict[str, Any] = {
            "idempotency_key": f"key-{serial}",
            "carrier": "blue",
            "outlet": self._outlet,
            "document": Document("cn-ric", resident_number(serial), f"Holder {serial}"),
            "msisdn": f"+8613{serial:09d}",
            "live": self.sample(person, noise=noise),
            "portrait": self.sample(person, noise=noise),
        }
        return EnrollmentRequest(**fields | changes)

    def between(self, person: NDArray[np.float32], score: float) -> NDArray[np.float32]:
        """A face with exactly this score to the person."""
        other = self._random.standard_normal(self._dim)
        other = other - (other @ person) * person
        return self._unit(score * person + np.sqrt(1 - score**2) * self._unit(other))

    def _unit(self, vector: NDArray[Any]) -> NDArray[np.float32]:
        unit: NDArray[np.float32] = (vector / np.linalg.norm(vector)).astype(np.float32)
        return unit


def resident_number(serial: int) -> str:
    """A well-formed Chinese resident identity number (GB 11643) for each serial."""
    body = f"110105{1950 + serial // 336000 % 50}{serial // 28000 % 12 + 1:02d}"
    body += f"{serial // 1000 % 28 + 1:02d}{serial % 1000:03d}"
    return body + str(ric.calc_check_digit(body + "0"))


def card(serial: int, born_on: date | None = GROWN_UP) -> Document:
    """A document whose number tells no date of birth."""
    return Document("id-kitas", f"2C11{serial:08d}", "A Holder", born_on=born_on)


def guard_of(
    store: Reader, registrar: Registrar, caller: Caller = TEST, limits: Limits = NO_LIMITS
) -> Guard:
    return Guard(limits, store, registrar, caller, InFlight())


class Holder(NamedTuple):
    """Somebody who is enrolled: the face, the request, and what was decided."""

    person: NDArray[np.float32]
    request: EnrollmentRequest
    decided: DecidedEnrollment


CHOSEN = (AuthorityCheck, LivenessCheck, LineCheck, PeopleCheck, LimitsCheck)


@dataclass
class Lab:
    """A deployment in miniature on one database."""

    store: Store
    vault: Vault
    people: People
    folder: Path

    def request(self, person: NDArray[np.float32] | None = None, **changes: Any) -> Any:
        """An honest request of a person; anything can be given instead."""
        return self.people.request(person, **changes)

    def guardian(
        self, person: NDArray[np.float32], serial: int, *, portrait: bool = True, **changes: Any
    ) -> GuardianShown:
        shown = GuardianShown(
            document=card(serial),
            live=self.people.sample(person),
            portrait=self.people.sample(person) if portrait else None,
        )
        return replace(shown, **changes)

    def enroll(self, *requests: EnrollmentRequest, **terms: Any) -> list[Any]:
        """What a registrar of these terms answers, which is closed again."""
        with self.registrar(**terms) as registrar:
            return registrar.enroll(requests)

    def replays(self, *answers: Any) -> bool:
        return all(replay(self.store.enrollment(one.enrollment_id)).agrees for one in answers)

    def holder(self, registrar: Registrar) -> Holder:
        """A person whom this registrar has enrolled."""
        person, request = self.newcomer()
        return Holder(person, request, registrar.enroll([request])[0].decided)

    def entries(self, *actions: str) -> list[AuditEntry]:
        """The entries of the audit with these actions."""
        entries = [row.entry for row in self.store.audit_entries()]
        return [entry for entry in entries if entry.action in actions]

    def newcomer(self) -> tuple[NDArray[np.float32], EnrollmentRequest]:
        """A person and an honest request of theirs."""
        person = self.people.person()
        return person, self.request(person)

    @contextmanager
    def registrar(
        self,
        config: RegistrarConfig | None = None,
        watchlist: WatchList | None = None,
        gallery: Gallery | None = None,
        observer: Observer | None = None,
        limits: Limits = NO_LIMITS,
        thresholds_for: Callable[[int], Thresholds] | None = None,
        liveness: LivenessTerms = NOT_ASKED,
        look_ups: AuthorityTerms | None = None,
        lines: LineLimits = ANY_LINES,
        people: PeopleRules = NO_RULES,
        clock: Callable[[], datetime] = lambda: NOW,
    ) -> Iterator[Registrar]:
        writer = self.store.writer()
        if gallery is None:
            gallery = restore_gallery(self.store, self.folder).gallery
        terms = (look_ups, liveness, lines, people, limits)
        judge = Judge(
            store=self.store,
            gallery=gallery,
            watch=watchlist or WatchList(self.vault.dim, self.store.watchlist()),
            thresholds=THRESHOLDS,
            model_digest=self.store.model_digest,
            false_candidates=lambda size, _: Rate(size * 1e-6, 0.0, 1.0),
            thresholds_for=thresholds_for,
            unkept=people.unkept,
            unsearched=people.unsearched,
            checks={**CHECKS, **dict(zip(CHOSEN, terms, strict=True))},
        )
        try:
            registrar = Registrar(writer, judge, config, clock=clock, observer=observer)
        except BaseException:
            writer.close()
            raise
        with registrar:
            yield registrar


def close(registrar: Registrar, lab: Lab, case_id: str, outcome: Outcome) -> None:
    """Two people do, and not one of them alone."""
    given = (registrar, lab.store, case_id, outcome, ())
    steps.propose(*given, ANNE, keep_lines=True)
    with pytest.raises(FourEyes):
        steps.close(*given, ANNE, keep_lines=True)
    steps.close(*given, BORIS, keep_lines=True)


@pytest.fixture
def people() -> People:
    return People()


@pytest.fixture
def make_lab(tmp_path) -> Callable[..., Lab]:
    """`make_lab(url)`: a new registry there, of a new key ring or of this vault; others come."""
    seeds = itertools.count(1)

    def make(url: str, vault: Vault | None = None) -> Lab:
        vault = vault or Vault(KeyRing.create(tmp_path / "keyring.json"), DIM)
        store = Store.create(url, vault, model_digest=MODEL_DIGEST)
        for code in ("blue", "red"):
            store.add_carrier(Carrier(code, code.title()), actor="test")
            store.add_outlet(f"{code}-1", code, actor="test")
        return Lab(store, vault, People(next(seeds)), tmp_path / "gallery")

    return make


@pytest.fixture
def lab(make_lab, database_url) -> Iterator[Lab]:
    made = make_lab(database_url)
    yield made
    made.store.close()


@pytest.fixture
def registrar(lab) -> Iterator[Registrar]:
    """A registrar as `lab` opens it where nothing is said."""
    with lab.registrar() as opened:
        yield opened


@pytest.fixture
def busy() -> Callable[[Registrar], AbstractContextManager[None]]:
    """`with busy(registrar)`: its thread does something long until the block ends."""

    @contextmanager
    def hold(registrar: Registrar) -> Iterator[None]:
        held, release = threading.Event(), threading.Event()

        def wait(*_: object) -> None:
            held.set()
            assert release.wait(120)

        future = registrar.schedule(wait)
        assert held.wait(120)
        try:
            yield
        finally:
            release.set()
            future.result(120)

    return hold
