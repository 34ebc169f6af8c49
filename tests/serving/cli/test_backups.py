"""`sosie backup` and `sosie restore` on a home, served or not."""

import re
import shutil
from pathlib import Path

from serving.cli import output
from tests.row_codes import alter
from tests.serving.conftest import OTHER_NUMBER, enrollment


def test_a_home_is_backed_up_and_restored_and_the_loss_is_told(
    full_home, sosie, photographs, tmp_path
) -> None:
    copy = tmp_path / "copy"
    made = sosie("backup", copy, "--home", full_home, "--json")
    assert made.code == 0, made.err
    assert sosie("backup", copy, "--home", full_home).code == 2
    changes = {"document_number": OTHER_NUMBER, "msisdn": "+8613800138001", "consent_ref": "form 7"}
    later = enrollment(full_home, photographs, live=photographs.later, **changes)
    assert sosie(*later, "--json").code == 1
    refused = sosie("restore", copy, "--home", full_home)
    assert refused.code == 2
    assert "give --replace" in refused.err
    done = sosie("restore", copy, "--home", full_home, "--replace", "--json")
    assert done.code == 0, done.err
    assert done.json["lost"]["entries"]["enrollment.decided"] == 1
    assert Path(done.json["replaced"]).exists()
    assert sosie("doctor", "--home", full_home).code == 0
    assert sosie("audit", "verify", "--home", full_home).code == 0
    assert sosie(*later, "--json").json["decision"] == "rejected"


def test_a_lost_registry_comes_back_and_its_progress_is_told_in_lines_where_no_terminal_is(
    full_home, sosie, tmp_path, monkeypatch
) -> None:
    copy = tmp_path / "copy"
    assert sosie("backup", copy, "--home", full_home).code == 0
    for one in full_home.glob("registry.sqlite*"):
        one.unlink()
    shutil.rmtree(full_home / "gallery", ignore_errors=True)
    monkeypatch.setattr(output, "TELL_EVERY_S", 0.0)
    told = sosie("restore", copy, "--home", full_home)
    assert told.code == 0, told.err
    assert re.search(r"^restoring: [\d,]+ of [\d,]+$", told.err, re.MULTILINE)
    assert "cannot be told" in told.out
    assert sosie("doctor", "--home", full_home).code == 0


def test_damaged_rows_go_along_and_both_ways_say_so(full_home, sosie, tmp_path) -> None:
    copy = tmp_path / "copy"
    alter(full_home, "UPDATE carriers SET name = 'another'")
    made = sosie("backup", copy, "--home", full_home)
    done = sosie("restore", copy, "--home", full_home, "--replace", "--json")
    assert (made.code, done.code) == (1, 1)
    assert all(one in made.out for one in done.json["damage"])
    assert "carriers: row red was altered" in made.out
