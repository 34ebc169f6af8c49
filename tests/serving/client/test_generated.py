"""The client for threads is the one for asyncio, generated anew whenever that changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_client_for_threads_is_up_to_date() -> None:
    command = [sys.executable, ".ci/generate_client.py"]
    made = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert (ROOT / "serving/client/client.py").read_text() == made.stdout, "run `make client`"
