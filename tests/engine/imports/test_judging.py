from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.imports.faces import RowFaces
from engine.imports.faults import Code, Field, RowFault
from engine.imports.judging import judge_row
from engine.imports.rows import Row
from engine.matching.comparison import fuse_vectors
from engine.matching.documents import CheckedDocument
from engine.reasons import Reason

VERIFY = 0.4
DOCUMENT = CheckedDocument("cn-ric", "1", "name", date(2020, 1, 1), (Reason.DOCUMENT_EXPIRED,))


def pair(score: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    one, other = np.eye(2, 8, dtype=np.float32)
    return one, (score * one + np.sqrt(1 - score**2) * other).astype(np.float32)


def judge(live: Any, portrait: Any, *faults: RowFault) -> Any:
    return judge_row(RowFaces(Row(1, faults, "Name", DOCUMENT), live, portrait, 2), VERIFY)


def test_two_photographs_of_one_person_make_one_reference() -> None:
    live, portrait = pair(0.8)
    judged = judge(live, portrait)
    assert judged.faults == ()
    assert judged.is_fused
    assert np.array_equal(judged.subscriber.vector, fuse_vectors(live, portrait))


@pytest.mark.parametrize(("score", "passes"), [(0.41, True), (0.39, False), (-0.5, False)])
def test_the_verify_threshold_decides(score: float, passes: bool) -> None:
    judged = judge(*pair(score))
    assert (judged.subscriber is not None) is passes
    assert [fault.code for fault in judged.faults] == ([] if passes else [Reason.FACE_MISMATCH])


def test_one_fit_photograph_stands_alone_and_the_other_is_a_warning() -> None:
    live, _ = pair(0.8)
    blurred = (RowFault(Field.PORTRAIT, Reason.BLURRED),)
    judged = judge(live, blurred)
    assert np.array_equal(judged.subscriber.vector, live)
    assert not judged.is_fused
    assert [(one.code, one.is_failure) for one in judged.faults] == [(Reason.BLURRED, False)]
    assert judge(None, live).subscriber is not None


def test_without_a_fit_photograph_the_row_fails_with_every_reason() -> None:
    missing = (RowFault(Field.LIVE, Code.FILE_MISSING),)
    blurred = (RowFault(Field.PORTRAIT, Reason.BLURRED), RowFault(Field.PORTRAIT, Reason.POSE))
    judged = judge(missing, blurred)
    assert judged.subscriber is None
    assert all(fault.is_failure for fault in judged.faults)
    assert len(judged.faults) == 3


def test_a_path_that_leads_out_fails_the_row_whatever_else_it_has() -> None:
    live, _ = pair(0.8)
    assert judge(live, (RowFault(Field.PORTRAIT, Code.PATH_OUTSIDE),)).subscriber is None


def test_a_fault_of_the_row_keeps_it_out_and_faces_are_looked_at_all_the_same() -> None:
    bad = RowFault(Field.MSISDN, Code.NUMBER_INVALID)
    judged = judge(*pair(0.1), bad)
    assert judged.subscriber is None
    assert [fault.code for fault in judged.faults] == [Code.NUMBER_INVALID, Reason.FACE_MISMATCH]
    assert judged.is_expired
