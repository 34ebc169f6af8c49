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

from engine.faces.extractor import Extractor
from serving.deployment.deployment import Deployment
from serving.settings.settings import load_settings
from tests.serving.api.conftest import Start

ROOT = Path(__file__).parents[3]
PRODUCT = tuple(f"{ROOT / package}/" for package in ("engine", "indexes", "schema", "serving"))
MOST_FILES = 65
# The loop, its worker, and the threads of the queues. Others look after the service meanwhile, and
# on a busy machine more of them happen to.
PASSED = ("Thread", "asyncio", "faces", "extract", "registrar")


class FileTrace:
    """Product files entered by threads of `PASSED` that start after `threading.setprofile`."""

    def __init__(self) -> None:
        self.is_on = False
        self.files: dict[str, None] = {}
        self.moves = 0
        self.last: dict[str, str] = {}
        """By the name of a thread."""

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if not self.is_on or event != "call" or not file.startswith(PRODUCT):
            return
        thread = threading.current_thread().name
        if not thread.startswith(PASSED):
            return
        self.files.setdefault(file)
        self.moves += self.last.get(thread, file) != file
        self.last[thread] = file


@pytest.fixture
def trace() -> Iterator[FileTrace]:
    made = FileTrace()
    threading.setprofile(made)
    yield made
    threading.setprofile(None)


@pytest.fixture
def extractor(trace: FileTrace, enrolled_home: tuple[Path, dict[str, Any]]) -> Iterator[Extractor]:
    """One of this test's own: the threads of the others' run already, and are not traced."""
    assert not trace.is_on
    home, _ = enrolled_home
    with Deployment(home, load_settings(home)) as deployment:
        yield deployment.extractor


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
    assert {next(one for one in PASSED if name.startswith(one)) for name in trace.last} == {*PASSED}
    assert len(trace.files) <= MOST_FILES
