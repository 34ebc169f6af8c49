"""What a second model would have decided is recorded beside what was decided."""

from typing import Any

import numpy as np

from engine.matching.calibration import Thresholds
from engine.matching.checks.face import FacePart
from engine.matching.checks.order import BLANK
from engine.matching.checks.second_model import SecondModel
from engine.matching.policy import Candidate, Evidence
from engine.matching.samples import Sample
from engine.registry.references import SecondTemplate

DIGEST = "sha256:second"
FIRST = Thresholds(verify=0.4, same_document=0.4, review=0.5, certain=0.7)
OTHER = Thresholds(verify=0.2, same_document=0.3, review=0.6, certain=0.8)


def unit(*numbers: float) -> Any:
    vector = np.array(numbers, np.float32)
    return vector / np.linalg.norm(vector)


def sample(*numbers: float) -> Sample:
    return Sample(unit(1, 0), b"", second=SecondTemplate(DIGEST, unit(*numbers)))


def test_a_second_model_decides_by_its_own_scores_and_thresholds_alone() -> None:
    model = SecondModel(DIGEST, 3, OTHER)
    found = (Candidate(7, "another", 0.75),)
    face = FacePart(live_portrait_score=0.9, holder_score=0.9, candidates=found, searched=10)
    evidence = Evidence(FIRST, BLANK).having(face)
    pair = sample(1, 0, 0), sample(1, 0, 0)

    def say(known: Any, held: Any = (3,)) -> Any:
        told = model.describe(*pair, evidence, held, known, is_match=True)
        return told.decision

    same, far = unit(1, 0.1, 0), unit(0, 0, 1)
    assert say({3: same, 7: far}) == "approved", "the candidate is nobody like it"
    assert say({3: same, 7: unit(1, 1, 0)}) == "review"
    assert say({3: same, 7: same}) == "rejected"
    assert say({3: far, 7: far}) == "rejected", "another face holds the document"
    assert say({3: same}) is None, "it has not seen the candidate"
    assert say({7: far}) is None, "nor the holder"
    plain = SecondModel(DIGEST, 3).describe(*pair, evidence, (3,), {3: same}, is_match=True)
    assert plain.thresholds is None
    assert plain.decision is None
    unseen = Sample(unit(1, 0), b"")
    assert model.describe(unseen, pair[1], evidence, (), {}, is_match=False) is None
