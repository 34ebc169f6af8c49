"""`sosie search` and `erase`; and a second writer, which must stay out."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.cli.inputs import name_actor
from serving.deployment.deployment import Deployment
from serving.settings.settings import load_settings
from tests.serving.conftest import hold_lease

DOCUMENT = ("--document-type", "cn-ric", "--document-number", "110105199003071239")


@pytest.fixture
def held_home(full_home) -> Iterator[Path]:
    """The home, while another process holds the writer's lease."""
    with hold_lease(full_home):
        yield full_home


def test_a_known_face_is_found_with_its_document(full_home, enrolled, sosie, photographs) -> None:
    outcome = sosie("search", photographs.later, "--home", full_home, "--json")
    assert outcome.code == 0
    answer = outcome.json
    assert [one["document_id"] for one in answer["candidates"]] == [enrolled["document_id"]]
    assert (answer["searched"], answer["gallery_sequence"], answer["found"]) == (1, 1, 1)
    assert 0 < answer["expected_false_candidates"]["value"] < 1e-4
    assert enrolled["document_id"] in sosie("search", photographs.later, "--home", full_home).out


def test_a_stranger_is_nobody_and_the_answer_says_what_was_searched(
    full_home, sosie, photographs
) -> None:
    outcome = sosie("search", photographs.stranger, "--home", full_home)
    assert outcome.code == 1
    assert "Nobody at or above" in outcome.out
    assert "1 references searched" in outcome.out
    lowest = sosie("search", photographs.stranger, "--threshold", "-1", "--home", full_home)
    assert lowest.code == 0


def test_who_searches_is_in_the_audit_chain_with_whom_it_showed(
    full_home, enrolled, sosie, photographs
) -> None:
    for face in (photographs.later, photographs.stranger):
        sosie("search", face, "--home", full_home)
    show = ("audit", "show", "--home", full_home, "--json")
    kept = sosie(*show, "--action", "faces.identified").json["entries"]
    assert [one["actor"] for one in kept] == [name_actor()] * 2
    document = enrolled["document_id"]
    told = [{"probes": 1, "candidates": 1, "documents": [document]}]
    told.append({"probes": 1, "candidates": 0, "documents": []})
    assert [one["detail"] for one in kept] == told
    # Who was shown a person is found by the person.
    assert kept[0] in sosie(*show, "--subject", document).json["entries"]


def test_the_threshold_is_given_or_follows_a_rate(
    full_home, sosie, photographs, assert_refused
) -> None:
    command = ("search", photographs.later, "--home", full_home)
    loose = sosie(*command, "--fmr", "1e-2", "--json").json
    strict = sosie(*command, "--fmr", "1e-5", "--json").json
    assert loose["threshold"] < strict["threshold"]
    assert (
        loose["expected_false_candidates"]["value"] > strict["expected_false_candidates"]["value"]
    )
    assert_refused(sosie(*command, "--fmr", "1e-2", "--threshold", "0.5"), "--threshold or --fmr")
    assert_refused(sosie(*command, "--fmr", "1e-11"), "not supported")


def test_a_second_writer_stays_out_while_searches_go_on(
    held_home, sosie, photographs, request_of, assert_refused, contents
) -> None:
    before = contents(held_home)
    request = request_of(held_home, msisdn="+8613800138001")
    assert_refused(sosie(*request), "another process", "stop it first")
    assert sosie(*request, "--json").json["error"]["code"] == "REGISTRY.WRITER_BUSY"
    assert_refused(sosie("erase", *DOCUMENT, "--yes", "--home", held_home), "another process")
    assert_refused(sosie("keys", "rotate", "--home", held_home), "another process")
    assert contents(held_home) == before
    # It writes nothing but that it was asked.
    assert sosie("search", photographs.later, "--home", held_home).code == 0
    assert sosie("audit", "verify", "--home", held_home).code == 0


def test_an_erased_holder_is_found_no_more_and_the_certificate_says_so(
    full_home, enrolled, sosie, photographs, tmp_path, assert_refused
) -> None:
    target = tmp_path / "certificate.json"
    command = ("erase", *DOCUMENT, "--yes", "--home", full_home)
    outcome = sosie(*command, "--certificate", target, "--json")
    assert outcome.code == 0
    assert outcome.json == json.loads(target.read_text())
    assert outcome.json["document_id"] == enrolled["document_id"]
    assert (outcome.json["references"], outcome.json["lines"]) == (1, 1)
    assert sosie("search", photographs.later, "--home", full_home).code == 1
    assert_refused(sosie(*command), "nobody is enrolled")


def test_a_certificate_that_cannot_be_written_was_printed(full_home, sosie, tmp_path) -> None:
    target = tmp_path / "certificate.json"
    target.symlink_to("/dev/full")
    command = ("erase", *DOCUMENT, "--yes", "--home", full_home, "--certificate", target, "--json")
    outcome = sosie(*command)
    assert outcome.code == 3
    assert outcome.json["references"] == 1
    assert "No space left" in outcome.err
    assert outcome.err.count("\n") == 1


def test_nothing_is_erased_unless_it_is_confirmed_and_somebody_is_found(
    full_home, sosie, assert_refused, contents
) -> None:
    with Deployment(full_home, load_settings(full_home)) as deployment:
        deployment.save_snapshot()
    before, snapshot = contents(full_home), contents(full_home / "gallery")
    assert_refused(sosie("erase", *DOCUMENT, "--home", full_home), "--yes")
    assert contents(full_home) == before
    unknown = (*DOCUMENT[:-1], "110105198503071257")
    assert_refused(sosie("erase", *unknown, "--yes", "--home", full_home), "nobody is enrolled")
    assert contents(full_home / "gallery") == snapshot != {}


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 1, 1), ("y", 0, 0)])
def test_a_person_at_a_terminal_is_asked(
    answer: str, code: int, left: int, full_home, environment
) -> None:
    person, terminal = os.openpty()
    os.write(person, f"{answer}\n".encode())
    variables = {name: value for name, value in {**os.environ, **environment}.items() if value}
    command = [sys.executable, "-m", "serving.cli.main", "erase", *DOCUMENT, "--home", full_home]
    done = subprocess.run(
        command, stdin=terminal, capture_output=True, text=True, env=variables, check=False
    )
    os.close(person)
    os.close(terminal)
    assert done.returncode == code
    assert "cannot be undone" in done.stderr
    with Deployment(full_home, load_settings(full_home)) as deployment:
        assert deployment.store.counts()["live_references"] == left
