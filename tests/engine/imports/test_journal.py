from pathlib import Path

import pytest

from engine.errors import RequestError
from engine.imports.import_report import Entry, Identity, Journal, Tally

IDENTITY = Identity("deployment", "digest", "terms")


def entry(chunk: int) -> Entry:
    tally = Tally(rows=10 * chunk, failures={"NO_FACE": chunk})
    return Entry(chunk, 10 * chunk, 100 * chunk, chunk, tally)


@pytest.fixture
def path(tmp_path) -> Path:
    journal = Journal.begin(tmp_path / "journal", IDENTITY)
    for chunk in (1, 2, 3):
        journal.add(entry(chunk))
    return tmp_path / "journal"


def resume(path: Path) -> Journal:
    journal = Journal.resume(path, IDENTITY)
    assert journal is not None
    return journal


def test_without_a_file_there_is_no_journal(tmp_path) -> None:
    assert Journal.resume(tmp_path / "none", IDENTITY) is None


def test_a_torn_line_is_dropped_and_the_next_one_is_complete(path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole) - 1, len(whole) - 60, -1):
        path.write_bytes(whole[:length])
        journal = resume(path)
        assert journal.entry == entry(2)
        journal.drop_uncommitted(lambda _: True)
        journal.add(entry(3))
        assert path.read_bytes() == whole


def test_a_torn_head_is_no_journal(path) -> None:
    path.write_bytes(path.read_bytes().splitlines()[0][:-5])
    assert Journal.resume(path, IDENTITY) is None


@pytest.mark.parametrize("committed", [0, 1, 3])
def test_entries_whose_chunks_were_not_committed_are_dropped(path, committed: int) -> None:
    journal = resume(path)
    journal.drop_uncommitted(lambda one: one.chunk <= committed)
    assert journal.entry == (entry(committed) if committed else None)
    journal.add(entry(committed + 1))
    assert resume(path).entry == entry(committed + 1)


@pytest.mark.parametrize("changed", ["deployment_id", "source_digest", "terms_digest"])
def test_the_journal_of_another_import_is_refused(changed: str, path) -> None:
    other = Identity(
        **{**{name: getattr(IDENTITY, name) for name in Identity.__slots__}, changed: "x"}
    )
    with pytest.raises(RequestError, match="--no-resume"):
        Journal.resume(path, other)


@pytest.mark.parametrize("text", ["{}\n", "[1]\n", "no json\n", '{"format": 2}\n'])
def test_another_file_is_refused(text: str, path) -> None:
    path.write_text(text)
    with pytest.raises(RequestError, match="not an import journal"):
        Journal.resume(path, IDENTITY)


def test_nothing_but_a_journal_is_replaced(path) -> None:
    path.write_text("my notes\n")
    with pytest.raises(RequestError, match="not an import journal"):
        Journal.begin(path, IDENTITY)
    assert path.read_text() == "my notes\n"


def test_a_new_journal_replaces_any_other(path) -> None:
    Journal.begin(path, IDENTITY)
    assert resume(path).entry is None


def test_a_full_disk_is_reported_in_one_line(tmp_path) -> None:
    (tmp_path / "journal").symlink_to("/dev/full")
    journal = Journal(tmp_path / "journal", {}, [])
    with pytest.raises(RequestError, match="No space left") as caught:
        journal.add(entry(1))
    assert "\n" not in str(caught.value)
