"""The lines of README.md and of the quick starts, pasted as they stand by somebody new."""

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
BLOCK = re.compile(r"^```(python)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TOLD = {
    "Use it": "the same decision",
    "You develop a carrier's systems": "FACE_MISMATCH",
    "You are a fraud analyst": "DUPLICATE_IDENTITY",
    "You run the service": "Passed.",
    "You do research": "exact8",
}
"""What is read at the end of each part, beside that no line failed."""

ENDED = "trap 'kill $(jobs -p) 2>/dev/null || :; wait' EXIT\n"
"""A line that ends what a failed one left in the background."""


def read_lines(text: str) -> str:
    """The lines of a part for a shell that ends where one fails; where the page says so its answer
    is no."""
    blocks = (
        f"python3 - <<'END'\n{lines}END\n" if is_python else lines
        for is_python, lines in BLOCK.findall(text)
    )
    return re.sub("# (?=rejected)", "|| (($? == 1)) # ", "".join(blocks))


def test_every_line_does_what_its_page_says(environment, tmp_path) -> None:
    pages = [(ROOT / name).read_text("utf-8") for name in ("README.md", "docs/quick-start.md")]
    begin, *_ = pages[1].split("\n## ")
    parts = dict(one.split("\n", 1) for page in pages for one in page.split("\n## ")[1:])
    assert {name for name, text in parts.items() if read_lines(text)} == TOLD.keys()
    # The packages are there: pip looks whether the extras have all, and installs nothing.
    variables = {
        **{name: one for name, one in (os.environ | environment).items() if one is not None},
        **dict.fromkeys(("PIP_DRY_RUN", "PIP_NO_INDEX"), "1"),
        "PIP_NO_BUILD_ISOLATION": "0",
        "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}",
    }
    running = {}
    for name in TOLD:
        (folder := tmp_path / str(len(running))).mkdir()
        (folder / "sosie").symlink_to(ROOT)
        running[name] = subprocess.Popen(
            ["bash", "-ec", ENDED + read_lines(begin) + read_lines(parts[name])],
            cwd=folder,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    # All have ended before one is judged.
    outputs = {name: shell.communicate()[0] for name, shell in running.items()}
    for name, output in outputs.items():
        found = (running[name].returncode, TOLD[name] in output)
        assert found == (0, True), (name, output[-3000:])
