"""The scenes of the demo: who brings what, and how it must end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from engine.matching.requests import Answer
from engine.reasons import IMAGE_REASONS, Decision, Reason
from serving.demo.cast import Cast
from serving.demo.crowd import forge_document, make_document
from serving.demo.pictures import blur
from serving.demo.stage import Activation, Answered, Stage

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
