"""The scenario of the demo: participants, gallery, steps, and the answer that each must get."""

import itertools
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field, replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from stdnum.cn import ric

from engine.accuracy.photographs import Person, Picture, Source, blur, retake
from engine.accuracy.population import Population
from engine.errors import ImageError, RequestError, SosieError
from engine.faces.extractor import Extracted, Extractor
from engine.matching.bulk_enrollment import admit_references
from engine.matching.requests import Answer, EnrollmentRequest
from engine.matching.samples import take_samples
from engine.registry.accounts import Carrier
from schema import frozen
from schema.documents import Document
from schema.reasons import About, Decision, Reason
from serving.deployment.deployment import Deployment, create_home
from serving.errors import require_sound
from serving.settings.sections import RegistrySettings
from serving.settings.settings import Settings

CARRIER, OUTLET = "demo", "demo-1"
SEED = 1
_AREA = "110101"
_FIRST_BIRTHDAY = date(1801, 1, 1)
"""Resident numbers began in 1984: with this birthday one is well-formed and belongs to nobody."""
_NUMBERS_A_DAY = 1_000


def make_document(serial: int, name: str) -> Document:
    """A well-formed Chinese resident identity number (GB 11643) for each serial from 0."""
    days, order = divmod(serial, _NUMBERS_A_DAY)
    body = f"{_AREA}{_FIRST_BIRTHDAY + timedelta(days):%Y%m%d}{order:03d}"
    return Document("cn-ric", body + ric.calc_check_digit(f"{body}0"), name)


def forge_document(serial: int, name: str) -> Document:
    """The number of `make_document` with a wrong check digit."""
    sound = make_document(serial, name)
    wrong = "1" if sound.number[-1] != "1" else "2"
    return Document(sound.type, sound.number[:-1] + wrong, name)


def admit_synthetic_gallery(
    deployment: Deployment, population: Population, size: int, report: Callable[[int, int], None]
) -> None:
    """Admits `size` references drawn from the model's own statistics, rotated like real ones."""
    vectors = deployment.vault.rotate(population.references(size, SEED))
    documents = [make_document(serial, f"Synthetic {serial:05d}") for serial in range(size)]
    admit_references(deployment.registrar, documents, vectors, "demo", report)
    # Or the first step of a new installation would wait for code that is compiled.
    deployment.restored.gallery.warm()


@frozen
class ScenarioStep:
    """One enrollment, and what it must lead to."""

    who: str
    what: str
    key: str
    msisdn: str = field(repr=False)
    live: Picture
    portrait: Picture
    document: Document
    is_expected: Callable[[Answer], bool]
    adds_reference: bool = False
    is_repeat: bool = False


@frozen(eq=False)
class StepResult:
    """A step with its answer, and the milliseconds that it took in all."""

    step: ScenarioStep
    answer: Answer
    references_added: int
    total_ms: float

    @property
    def as_expected(self) -> bool:
        return (
            self.step.is_expected(self.answer)
            and self.references_added == self.step.adds_reference
            and self.answer.is_repeated == self.step.is_repeat
        )


def run_step(deployment: Deployment, step: ScenarioStep) -> StepResult:
    """Enrolls two photographs under a document; raises `SosieError` where that is refused."""
    registrar = deployment.registrar
    references = len(registrar.gallery)
    start = time.perf_counter()
    photographs = (step.live.data, step.portrait.data)
    taken = take_samples(photographs, deployment.extractor, deployment.vault)
    live, portrait = require_sound(taken)
    request = EnrollmentRequest(
        idempotency_key=step.key,
        carrier=CARRIER,
        outlet=OUTLET,
        document=step.document,
        msisdn=step.msisdn,
        live=live,
        portrait=portrait,
    )
    answer = registrar.enroll([request])[0]
    total_ms = (time.perf_counter() - start) * 1e3
    if isinstance(answer, SosieError):
        raise answer
    return StepResult(step, answer, len(registrar.gallery) - references, total_ms)


@contextmanager
def open_demo_deployment(settings: Settings) -> Iterator[Deployment]:
    """A deployment on SQLite in a temporary folder, whatever registry the settings name, with one
    carrier and one outlet."""
    settings = settings.model_copy(update={"registry": RegistrySettings()})
    with tempfile.TemporaryDirectory(prefix="sosie-demo-") as folder:
        home = Path(folder) / "home"
        create_home(home, settings)
        with Deployment(home, settings) as deployment:
            deployment.store.add_carrier(Carrier(CARRIER, "Demo"), actor="demo")
            deployment.store.add_outlet(OUTLET, CARRIER, actor="demo")
            yield deployment


PICTURES_NEEDED = (4, 2, 2)
"""By the subscriber, the impostor and the newcomer."""
MAX_RETAKES = 8


@frozen
class Survey:
    """Extraction results of all photographs; `problems` counts reasons and error codes."""

    photographs: int
    fit: int
    problems: dict[str, int]


@frozen
class DemoParticipants:
    """Subscriber, impostor and newcomer: no two match; the first has the most photographs."""

    people: tuple[Person, ...]
    survey: Survey


def choose_participants(source: Source, extractor: Extractor, verify: float) -> DemoParticipants:
    """Extracts every photograph and chooses the first three suitable people; `RequestError` where
    there are fewer."""
    pictures = [picture for person in source.people for picture in person.pictures]
    extracted = extractor.extract([picture.data for picture in pictures])
    survey = _count(extracted)
    fit = list(_keep_fit(source.people, extracted))
    # Stable: people with equally many photographs stay in the source's order.
    fit.sort(key=lambda one: -len(one[0].pictures))
    people = _choose_strangers(fit, extractor, verify)
    if len(people) < len(PICTURES_NEEDED):
        raise RequestError(
            f"too few usable faces: {survey.fit} of {survey.photographs} photographs are fit, "
            f"people found: {len(people)}, people needed: {len(PICTURES_NEEDED)}"
        )
    return DemoParticipants(tuple(people), survey)


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
    people: Sequence[Person], extracted: Sequence[Extracted]
) -> Iterator[tuple[Person, NDArray[np.float32]]]:
    """Each person's fit photographs with their vectors, float32[n, d]."""
    results = iter(extracted)
    for person in people:
        pictures, vectors = [], []
        for picture in person.pictures:
            one = next(results)
            if isinstance(one, ImageError) or one.problems:
                continue
            assert one.quality is not None
            assert one.vector is not None
            pictures.append(replace(picture, inter_eye_px=one.quality.inter_eye_px))
            vectors.append(one.vector)
        if pictures:
            yield Person(person.label, tuple(pictures)), np.stack(vectors)


def _choose_strangers(
    fit: Sequence[tuple[Person, NDArray[np.float32]]], extractor: Extractor, verify: float
) -> list[Person]:
    """The first people of whom no two match: a flat folder may hold one person twice."""
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
    retakes = [retake(next(originals), serial) for serial in range(1, MAX_RETAKES + 1)]
    extracted = extractor.extract([picture.data for picture in retakes])
    fit = [
        picture
        for picture, one in zip(retakes, extracted, strict=True)
        if not isinstance(one, ImageError) and not one.problems
    ]
    if len(fit) < missing:
        return None
    return replace(person, pictures=(*person.pictures, *fit[:missing]))


_FIRST_SERIAL = 10_000_000
"""Above every serial of the synthetic gallery."""


def list_steps(participants: DemoParticipants) -> list[ScenarioStep]:
    """The steps in order: A is the subscriber, B the impostor, C the newcomer."""
    a, b, c = (person.pictures for person in participants.people)
    own, other = make_document(_FIRST_SERIAL, "A"), make_document(_FIRST_SERIAL + 1, "A. Nother")
    new = make_document(_FIRST_SERIAL + 2, "C")
    forged = forge_document(_FIRST_SERIAL + 3, "B")
    held, mismatch = Reason.DOCUMENT_HELD_BY_ANOTHER_FACE, Reason.FACE_MISMATCH
    numbers = itertools.count(1)

    def step(
        who: str,
        what: str,
        pictures: tuple[Picture, Picture],
        document: Document,
        is_expected: Callable[[Answer], bool],
        *,
        adds_reference: bool = False,
    ) -> ScenarioStep:
        number = next(numbers)
        key, msisdn = f"demo-{number}", f"+8613800000{number:03d}"
        return ScenarioStep(
            who, what, key, msisdn, *pictures, document, is_expected, adds_reference
        )

    first = step("A", "opens a line", (a[0], a[1]), own, _is_approved, adds_reference=True)
    unsound = _is_rejected_for(Reason.DOCUMENT_INVALID)
    return [
        first,
        step("A", "uses another document", (a[2], a[3]), other, _is_duplicate),
        step("B", "brings A's document", (b[0], a[1]), own, _is_rejected_for(mismatch, held)),
        step("B", "swaps the portrait in it", (b[0], b[1]), own, _is_rejected_for(held)),
        step("A", "returns for a second line", (a[2], a[1]), own, _is_approved),
        step("C", "shows a blurred face", (blur(c[1]), c[0]), new, _is_unusable),
        step("C", "shows a sharp one", (c[1], c[0]), new, _is_approved, adds_reference=True),
        step("B", "brings a made-up number", (b[0], b[1]), forged, unsound),
        replace(first, what="sends request 1 again", adds_reference=False, is_repeat=True),
    ]


def _is_approved(answer: Answer) -> bool:
    return answer.decision is Decision.APPROVED


def _is_rejected_for(*reasons: Reason) -> Callable[[Answer], bool]:
    def holds(answer: Answer) -> bool:
        return answer.decision is Decision.REJECTED and set(answer.reasons) == set(reasons)

    return holds


def _is_duplicate(answer: Answer) -> bool:
    """Rejected, or sent to review: nobody gets a second identity unseen."""
    endings = {
        (Decision.REJECTED, (Reason.DUPLICATE_IDENTITY,)),
        (Decision.REVIEW, (Reason.POSSIBLE_DUPLICATE,)),
    }
    return (answer.decision, answer.reasons) in endings


def _is_unusable(answer: Answer) -> bool:
    is_of_photograph = all(one.row.about is About.PHOTOGRAPH for one in answer.reasons)
    return answer.decision is Decision.REJECTED and is_of_photograph
