"""The scenes of the demo: who brings what, and how it must end."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import ImageError, RequestError, SosieError
from engine.faces.extractor import Extracted, Extractor, StageTimes
from engine.matching.documents import Document
from engine.matching.judge import Judge, JudgedBatch
from engine.matching.registrar import Registrar
from engine.matching.requests import Answer, EnrollmentRequest
from engine.matching.sampling import make_samples
from engine.reasons import IMAGE_REASONS, Decision, Reason
from engine.registry.records import Carrier
from serving.compose import Deployment, create_home
from serving.demo.data import (
    Album,
    Picture,
    Source,
    blur,
    forge_document,
    make_document,
    take_again,
)
from serving.errors import require_sound
from serving.settings import RegistrySettings, Settings

# The deployment that the demo plays on: a real home in a folder that is gone afterwards.

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


# Who plays in the demo: people with fit photographs who don't look like each other.

PICTURES_NEEDED = (4, 2, 2)
"""By the subscriber, the thief and the newcomer."""
MOST_RETAKES = 8


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with pictures that are fit for enrollment; photographs first, then made ones."""

    label: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """What extraction said of all the photographs; `problems` counts reasons and error codes."""

    photographs: int
    fit: int
    problems: dict[str, int]


@dataclass(frozen=True, slots=True)
class Cast:
    """The subscriber has the most photographs; nobody scores `verify` with another."""

    subscriber: Person
    thief: Person
    newcomer: Person
    survey: Survey

    @property
    def people(self) -> tuple[Person, Person, Person]:
        return self.subscriber, self.thief, self.newcomer


def choose_cast(source: Source, extractor: Extractor, verify: float) -> Cast:
    """Extracts every photograph, then takes the first three people who will do.

    `RequestError` says how many there are where they are fewer.
    """
    pictures = [picture for album in source.albums for picture in album.pictures]
    extracted = extractor.extract([picture.data for picture in pictures])
    survey = _count(extracted)
    fit = list(_keep_fit(source.albums, extracted))
    # Stable: people with equally many photographs stay in the source's order.
    fit.sort(key=lambda one: -len(one[0].pictures))
    people = _choose_strangers(fit, extractor, verify)
    if len(people) < len(PICTURES_NEEDED):
        raise RequestError(
            f"too few usable faces: {survey.fit} of {survey.photographs} photographs are fit, "
            f"people found: {len(people)}, people needed: {len(PICTURES_NEEDED)}"
        )
    subscriber, thief, newcomer = people
    return Cast(subscriber, thief, newcomer, survey)


def _count(extracted: Sequence[Extracted]) -> Survey:
    problems: Counter[str] = Counter()
    fit = 0
    for one in extracted:
        if isinstance(one, ImageError):
            problems[one.code] += 1
        else:
            problems.update(reason.value for reason in one.problems)
            fit += not one.problems
    return Survey(len(extracted), fit, dict(problems.most_common()))


def _keep_fit(
    albums: Sequence[Album], extracted: Sequence[Extracted]
) -> Iterator[tuple[Person, NDArray[np.float32]]]:
    """Each person's fit photographs with their vectors, float32[n, d]."""
    results = iter(extracted)
    for album in albums:
        pictures, vectors = [], []
        for picture in album.pictures:
            one = next(results)
            if isinstance(one, ImageError) or one.problems:
                continue
            assert one.quality is not None
            assert one.vector is not None
            pictures.append(replace(picture, inter_eye_px=one.quality.inter_eye_px))
            vectors.append(one.vector)
        if pictures:
            yield Person(album.label, tuple(pictures)), np.stack(vectors)


def _choose_strangers(
    fit: Sequence[tuple[Person, NDArray[np.float32]]], extractor: Extractor, verify: float
) -> list[Person]:
    """The first people of whom no two match: a flat folder may show one person twice."""
    chosen: list[Person] = []
    vectors_of_chosen: list[NDArray[np.float32]] = []
    for person, vectors in fit:
        if len(chosen) == len(PICTURES_NEEDED):
            break
        if any((vectors @ others.T).max() >= verify for others in vectors_of_chosen):
            continue
        completed = _complete(person, PICTURES_NEEDED[len(chosen)], extractor)
        if completed is not None:
            chosen.append(completed)
            vectors_of_chosen.append(vectors)
    return chosen


def _complete(person: Person, needed: int, extractor: Extractor) -> Person | None:
    """The person with as many pictures as needed, or `None` where too few retakes are fit."""
    missing = needed - len(person.pictures)
    if missing <= 0:
        return person
    originals = itertools.cycle(person.pictures)
    retakes = [take_again(next(originals), serial) for serial in range(1, MOST_RETAKES + 1)]
    extracted = extractor.extract([retake.data for retake in retakes])
    fit = [
        retake
        for retake, one in zip(retakes, extracted, strict=True)
        if not isinstance(one, ImageError) and not one.problems
    ]
    if len(fit) < missing:
        return None
    return replace(person, pictures=(*person.pictures, *fit[:missing]))


_FIRST_SERIAL = 10_000_000
"""Beyond any document of the synthetic gallery."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One activation; `ends_as_told` judges its answer, `adds_reference` the gallery after it."""

    who: str
    what: str
    activation: Activation
    ends_as_told: Callable[[Answer], bool]
    adds_reference: bool = False
    is_repeat: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """A scene and how it ended."""

    scene: Scene
    answered: Answered
    as_told: bool


def write_story(cast: Cast) -> list[Scene]:
    """The scenes in order; A subscribes, B steals, C is new."""
    a, b, c = (person.pictures for person in cast.people)
    own, other = make_document(_FIRST_SERIAL, "A"), make_document(_FIRST_SERIAL + 1, "A. Nother")
    new = make_document(_FIRST_SERIAL + 2, "C")
    forged = forge_document(_FIRST_SERIAL + 3, "B")
    keys = _number_keys()
    first = Activation(*next(keys), a[0], a[1], own)
    return [
        Scene("A", "opens a line", first, _is_approved, adds_reference=True),
        Scene(
            "A",
            "comes as somebody else",
            Activation(*next(keys), a[2], a[3], other),
            _is_caught,
        ),
        Scene(
            "B",
            "brings A's document",
            Activation(*next(keys), b[0], a[1], own),
            _is_rejected_for(Reason.FACE_MISMATCH, Reason.DOCUMENT_HELD_BY_ANOTHER_FACE),
        ),
        Scene(
            "B",
            "swaps the portrait in it",
            Activation(*next(keys), b[0], b[1], own),
            _is_rejected_for(Reason.DOCUMENT_HELD_BY_ANOTHER_FACE),
        ),
        Scene(
            "A",
            "returns for a second line",
            Activation(*next(keys), a[2], a[1], own),
            _is_approved,
        ),
        Scene(
            "C",
            "shows a blurred face",
            Activation(*next(keys), blur(c[1]), c[0], new),
            _is_sent_back,
        ),
        Scene(
            "C",
            "shows a sharp one",
            Activation(*next(keys), c[1], c[0], new),
            _is_approved,
            adds_reference=True,
        ),
        Scene(
            "B",
            "brings a made-up number",
            Activation(*next(keys), b[0], b[1], forged),
            _is_rejected_for(Reason.DOCUMENT_INVALID),
        ),
        Scene("A", "sends request 1 again", first, _is_approved, is_repeat=True),
    ]


def tell(stage: Stage, scenes: Sequence[Scene]) -> Iterator[Told]:
    """Plays the scenes one after another."""
    for scene in scenes:
        answered = stage.activate(scene.activation)
        as_told = (
            scene.ends_as_told(answered.answer)
            and answered.references_added == scene.adds_reference
            and answered.answer.is_repeated == scene.is_repeat
        )
        yield Told(scene, answered, as_told)


def _number_keys() -> Iterator[tuple[str, str]]:
    """Idempotency-Keys, each with a telephone number to be opened."""
    for number in range(1, 100):
        yield f"demo-{number}", f"+8613800000{number:03d}"


def _is_approved(answer: Answer) -> bool:
    return answer.decision is Decision.APPROVED


def _is_rejected_for(*reasons: Reason) -> Callable[[Answer], bool]:
    def holds(answer: Answer) -> bool:
        return answer.decision is Decision.REJECTED and set(answer.reasons) == set(reasons)

    return holds


def _is_caught(answer: Answer) -> bool:
    """Refused, or put before people: either way no second identity without a look at it."""
    endings = {
        (Decision.REJECTED, (Reason.DUPLICATE_IDENTITY,)),
        (Decision.REVIEW, (Reason.POSSIBLE_DUPLICATE,)),
    }
    return (answer.decision, answer.reasons) in endings


def _is_sent_back(answer: Answer) -> bool:
    return answer.decision is Decision.REJECTED and set(answer.reasons) <= IMAGE_REASONS
