"""How many files one enrollment passes through: a reader who follows it opens each of them.

`pytest -s tests/serving/api/test_enrollment_files.py` prints the files in the order of entry.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.serving.api.conftest import Start

ROOT = Path(__file__).parents[3]
PRODUCT = tuple(f"{ROOT / package}/" for package in ("engine", "indexes", "serving"))
MOST_FILES = 65


class FileTrace:
    """Product files entered by any thread that starts after `threading.setprofile`."""

    def __init__(self) -> None:
        self.is_on = False
        self.files: dict[str, None] = {}
        self.moves = 0
        self._last: dict[int, str] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if not self.is_on or event != "call" or not file.startswith(PRODUCT):
            return
        self.files.setdefault(file)
        thread = threading.get_ident()
        self.moves += self._last.get(thread, file) != file
        self._last[thread] = file


@pytest.fixture
def trace() -> Iterator[FileTrace]:
    made = FileTrace()
    threading.setprofile(made)
    yield made
    threading.setprofile(None)


def test_one_enrollment_passes_through_few_files(
    trace: FileTrace,
    start_service: Start,
    activation: Callable[..., dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    service = start_service()
    trace.is_on = True
    answer = service.ask(
        "POST", "/v1/enrollments", body=activation(), headers={"idempotency-key": "files"}
    )
    trace.is_on = False
    with capsys.disabled():
        names = "\n".join(str(Path(file).relative_to(ROOT)) for file in trace.files)
        sys.stdout.write(f"\n{len(trace.files)} files, {trace.moves} moves\n{names}\n")
    assert answer.status_code == 201
    assert len(trace.files) <= MOST_FILES
