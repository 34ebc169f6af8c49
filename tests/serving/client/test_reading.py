"""The client's answers are the service's: field by field, and the version to come included."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from datetime import UTC, datetime
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest
from pydantic import BaseModel

from serving.api.schemas.documents import ErasureAnswer
from serving.api.schemas.enrollments import EnrollmentAnswer, EnrollmentRecordAnswer
from serving.api.schemas.health import KeyAnswer, ReadyAnswer, VersionAnswer
from serving.api.schemas.identifications import IdentificationAnswer
from serving.api.schemas.lines import ClosedLineAnswer, DisputeAnswer, LinesAnswer
from serving.api.schemas.matching import MatchAnswer, TemplatesAnswer
from serving.api.schemas.verifications import VerificationAnswer
from serving.client import answers, decisions
from serving.client.reading import read_answer

PAIRS = [
    (EnrollmentAnswer, decisions.Enrollment),
    (EnrollmentRecordAnswer, decisions.EnrollmentRecord),
    (MatchAnswer, answers.MatchAnswer),
    (TemplatesAnswer, answers.Templates),
    (VerificationAnswer, answers.Verification),
    (IdentificationAnswer, answers.Identification),
    (LinesAnswer, answers.HolderLines),
    (DisputeAnswer, answers.Dispute),
    (ClosedLineAnswer, answers.ClosedLine),
    (ErasureAnswer, answers.ErasureCertificate),
    (ReadyAnswer, answers.Readiness),
    (VersionAnswer, answers.Version),
    (KeyAnswer, answers.KeyHolder),
]


def strip(hint: Any) -> Any:
    """A type without annotations, `None`, lists and dictionaries around it."""
    if get_origin(hint) is Annotated:
        return strip(get_args(hint)[0])
    if get_origin(hint) in {Union, UnionType}:
        return strip(next(one for one in get_args(hint) if one is not type(None)))
    if get_origin(hint) in {list, tuple}:
        return strip(get_args(hint)[0])
    if get_origin(hint) is dict:
        return strip(get_args(hint)[1])
    return hint


def is_optional(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return is_optional(get_args(hint)[0])
    return get_origin(hint) in {Union, UnionType} and type(None) in get_args(hint)


def compare(model: type[BaseModel], kind: Any) -> None:
    ours = {field.name: field for field in dataclasses.fields(kind)}
    hints = get_type_hints(kind)
    assert ours.keys() == model.model_fields.keys(), kind
    for name, theirs in model.model_fields.items():
        assert is_optional(hints[name]) or not is_optional(theirs.annotation), (kind, name)
        if not theirs.is_required():
            assert ours[name].default is not dataclasses.MISSING, (kind, name)
        inner = strip(theirs.annotation)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            compare(inner, strip(hints[name]))


@pytest.mark.parametrize(("model", "kind"), PAIRS)
def test_an_answer_has_the_fields_that_the_service_documents(
    model: type[BaseModel], kind: Any
) -> None:
    compare(model, kind)


def test_every_answer_of_the_client_is_compared() -> None:
    reached = set()

    def reach(kind: Any) -> None:
        if dataclasses.is_dataclass(kind):
            reached.add(kind)
            for hint in get_type_hints(kind).values():
                reach(strip(hint))

    for _, kind in PAIRS:
        reach(kind)
    known = {
        kind
        for module in (answers, decisions)
        for kind in vars(module).values()
        if dataclasses.is_dataclass(kind)
    }
    assert known == reached


def test_moments_numbers_and_nests_are_read() -> None:
    line = {
        "line_id": "l",
        "number": None,
        "carrier": "blue",
        "outlet": "b1",
        "status": "closed",
        "opened_at": "2026-01-31T12:00:00+00:00",
        "closed_at": "2026-02-01T12:00:00Z",
        "colour": "unknown to this version",
    }
    value = {"is_holder": True, "score": 1, "threshold": 0.4, "lines": [line]}
    read = read_answer(answers.HolderLines, value)
    assert read.lines[0].opened_at == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert read.lines[0].number is None
    assert type(read.score) is float


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"is_holder": "yes", "score": None, "threshold": 0.4, "lines": []},
        {"is_holder": True, "score": "high", "threshold": 0.4, "lines": []},
        {"is_holder": True, "score": None, "threshold": 0.4, "lines": {}},
        {"is_holder": True, "score": None, "threshold": 0.4, "lines": [{"line_id": "l"}]},
        {"is_holder": True, "score": None, "threshold": None, "lines": []},
    ],
)
def test_a_misfit_is_refused_and_not_guessed(value: Any) -> None:
    with pytest.raises(ValueError, match="not "):
        read_answer(answers.HolderLines, value)


def test_the_client_needs_nothing_of_the_service() -> None:
    code = """
import sys
import serving.client
heavy = {"numpy", "pydantic", "fastapi", "starlette", "ray", "sqlalchemy", "engine", "structlog"}
print(sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
