"""How much of the product one enrollment passes through: a reader who follows it opens each file.

`pytest -s tests/serving/api/test_enrollment_files.py` prints the files in the order of entry.
"""

import json
import pickle
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

from serving.deployment.deployment import Deployment
from serving.settings.settings import load_settings
from tests.serving.api.conftest import serving

ROOT = Path(__file__).parents[3]
PRODUCT = tuple(f"{ROOT / package}/" for package in ("schema", "indexes", "engine", "serving"))
BOUNDS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"files": (60, 46), "moves": (614, 360), "lines": (23_325, 15_000)}
)
"""Bounds only fall, to the goals beside them."""
BACKGROUND = {"lifecycle", "retention", "erasures", "webhooks", "line-steps", "audit-export"}
"""Threads that look after the service, whatever is asked of it."""


class FileTrace:
    """Product files entered by every thread that starts after `threading.setprofile`, but for
    those of `BACKGROUND`, and the moves from one to another while a thread is in the product: how
    often it is woken, and which of a pool, is chance."""

    def __init__(self) -> None:
        self.is_on = False
        self.files: dict[str, None] = {}
        self.moves: Counter[str] = Counter()
        """By the name of a thread."""
        self.last: dict[str, str] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if not self.is_on or event != "call" or not file.startswith(PRODUCT):
            return
        thread = threading.current_thread().name
        if thread in BACKGROUND:
            return
        self.files.setdefault(file)
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(PRODUCT):
            caller = caller.f_back
        self.moves[thread] += caller is not None and self.last.get(thread, file) != file
        self.last[thread] = file


def trace_enrollment(home: Path, keys: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
    trace = FileTrace()
    threading.setprofile(trace)
    with (
        Deployment(home, load_settings(home)) as deployment,
        serving(home, keys, deployment.extractor) as start,
    ):
        service = start()
        trace.is_on = True
        answer = service.enroll(body, "files")
        trace.is_on = False
    return {"status": answer.status_code, "files": [*trace.files], "moves": trace.moves}


def test_one_enrollment_passes_through_few_files(keyed_home, activation, tmp_path, capsys) -> None:
    home = shutil.copytree(keyed_home[0], tmp_path / "served")
    # In a process of its own, where no thread runs before it is traced.
    child = subprocess.run(
        [sys.executable, "-m", __name__],
        cwd=ROOT,
        input=pickle.dumps((home, keyed_home[1], activation())),
        stdout=subprocess.PIPE,
        check=True,
    )
    traced = json.loads(child.stdout)
    assert traced["status"] == 201
    files = [Path(file) for file in traced["files"]]
    figures = {
        "files": len(files),
        "moves": sum(traced["moves"].values()),
        "lines": sum(len(file.read_text("utf-8").splitlines()) for file in files),
    }
    with capsys.disabled():
        names = "\n".join(str(file.relative_to(ROOT)) for file in files)
        sys.stdout.write(f"\n{names}\n{figures} {traced['moves']}\n")
    assert {"faces-0", "registrar-0"} <= traced["moves"].keys()
    assert {name: one for name, one in figures.items() if one > BOUNDS[name][0]} == {}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(trace_enrollment(*pickle.load(sys.stdin.buffer))))
