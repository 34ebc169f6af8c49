"""A duplicate that the service lets through fails the load test."""

import re
from typing import Any

import pytest

from engine.matching.checks.face import FaceCheck
from tests.loadtest.conftest import finish

LOAD = ("--class", "enroll", "--rate", 10, "--seconds", 2.5, "--arrivals", "constant")
SAME_PHOTOGRAPHS = 0.9999
"""Only a race shows the very same photographs under two documents."""


@pytest.fixture
def misses(monkeypatch) -> list[str]:
    """Makes the search overlook the first planted duplicate; lists the document missed."""
    look, missed = FaceCheck.search, []

    def overlook(check: FaceCheck, place: int, own: Any) -> Any:
        found, decided = look(check, place, own)
        if own is None and not missed and found and found[0].score < SAME_PHOTOGRAPHS:
            missed.append(found[0].document_id)
            return (), {}
        return found, decided

    monkeypatch.setattr(FaceCheck, "search", overlook)
    return missed


def test_a_missed_duplicate_fails_the_load_test_and_is_named_by_its_plan_number(
    listen, begin, misses, tmp_path
) -> None:
    report = tmp_path / "report.html"
    outcome = finish(begin("steady", listen(), "one", *LOAD, "--html", report))
    assert len(misses) == 1
    assert outcome.code == 1, outcome.err

    named = re.search(
        r"wrong +#(\d+) planted duplicate: expected .*DUPLICATE.*, answered approved \(key (\S+)\)",
        outcome.out,
    )
    assert named is not None, outcome.out
    assert re.search(r"failed +wrong decisions: [1-9]", outcome.out)

    # No phone number, document or photograph of a person.
    for text in (outcome.out, report.read_text(encoding="utf-8")):
        assert not re.search(r"\+86|UTO\d|Utopian", text)
