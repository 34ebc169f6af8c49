"""The deployment that the demo plays on: a real home in a folder that is gone afterwards."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path

from engine.errors import SosieError
from engine.faces.extractor import StageTimes
from engine.matching.documents import Document
from engine.matching.judge import Judge, JudgedBatch
from engine.matching.registrar import Registrar
from engine.matching.requests import Answer, EnrollmentRequest
from engine.matching.sampling import make_samples
from engine.registry.records import Carrier
from serving.batches import require_sound
from serving.compose import Deployment
from serving.demo.pictures import Picture
from serving.homes import create_home
from serving.sections import RegistrySettings
from serving.settings import Settings

CARRIER, OUTLET = "demo", "demo-1"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TimedJudge(Judge):
    """The judge, and how long each batch took."""

    seconds: list[float] = field(default_factory=list)

    def judge(
        self,
        requests: Sequence[EnrollmentRequest],
        *,
        sequence: int,
        next_reference_id: Callable[[], int],
        now: datetime,
    ) -> JudgedBatch:
        start = time.perf_counter()
        judged = Judge.judge(
            self, requests, sequence=sequence, next_reference_id=next_reference_id, now=now
        )
        self.seconds.append(time.perf_counter() - start)
        return judged


@dataclass(frozen=True, slots=True)
class Activation:
    """What an outlet sends for one line."""

    key: str
    msisdn: str = field(repr=False)
    live: Picture
    portrait: Picture
    document: Document


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """An answer, and the milliseconds until it was there: `extract_ms` for both photographs,
    `judge_ms` with the search, `commit_ms` until it is on the disk, `total_ms` from first to last.
    """

    answer: Answer
    photographs: tuple[StageTimes, ...]
    references_added: int
    extract_ms: float
    judge_ms: float
    commit_ms: float
    total_ms: float


class Stage:
    """An opened deployment with one carrier and one outlet."""

    def __init__(self, deployment: Deployment, registrar: Registrar, judge: TimedJudge) -> None:
        self.deployment = deployment
        self.registrar = registrar
        self._judge = judge

    def activate(self, activation: Activation) -> Answered:
        """Two photographs in, one durable decision out; raises what could not be judged."""
        references = len(self.registrar.gallery)
        start = time.perf_counter()
        photographs = (activation.live.data, activation.portrait.data)
        extractions = require_sound(self.deployment.extractor.extract(photographs))
        live, portrait = require_sound(
            make_samples(photographs, extractions, self.deployment.vault)
        )
        request = EnrollmentRequest(
            idempotency_key=activation.key,
            carrier=CARRIER,
            outlet=OUTLET,
            document=activation.document,
            msisdn=activation.msisdn,
            live=live,
            portrait=portrait,
        )
        extracted = time.perf_counter()
        answer = self.registrar.enroll([request])[0]
        end = time.perf_counter()
        if isinstance(answer, SosieError):
            raise answer
        judge_s = self._judge.seconds[-1]
        return Answered(
            answer=answer,
            photographs=tuple(one.stages for one in extractions),
            references_added=len(self.registrar.gallery) - references,
            extract_ms=(extracted - start) * 1e3,
            judge_ms=judge_s * 1e3,
            commit_ms=(end - extracted - judge_s) * 1e3,
            total_ms=(end - start) * 1e3,
        )


@contextmanager
def open_stage(settings: Settings, cache: Path) -> Iterator[Stage]:
    """A deployment on SQLite in a temporary folder, whatever registry the settings name."""
    settings = settings.model_copy(update={"registry": RegistrySettings()})
    with tempfile.TemporaryDirectory(prefix="sosie-demo-") as folder:
        home = Path(folder) / "home"
        create_home(home, settings)
        with Deployment(home, settings, cache) as deployment:
            deployment.store.add_carrier(Carrier(CARRIER, "Demo"), actor="demo")
            deployment.store.add_outlet(OUTLET, CARRIER, actor="demo")
            parts = {part.name: getattr(deployment.judge, part.name) for part in fields(Judge)}
            judge = TimedJudge(**parts)
            with Registrar(deployment.store.writer(), judge) as registrar:
                yield Stage(deployment, registrar, judge)
