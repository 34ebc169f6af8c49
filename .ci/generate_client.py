"""Prints `serving/client/client.py`: `async_client.py` without asyncio."""

import subprocess
import sys
from pathlib import Path
from shutil import copy
from tempfile import TemporaryDirectory

from unasync import Rule, unasync_files

FOLDER = Path(__file__).resolve().parents[1] / "serving" / "client"
NAMES = {
    "asyncio": "time",
    "aclose": "close",
    "AsyncClient": "Client",
    "AsyncBaseTransport": "BaseTransport",
}
HEADER = "# Generated from async_client.py by `make client`: change that file, not this one.\n"


def tidy(text: str, *command: str) -> str:
    """The text after a `ruff` command, with the settings of this project."""
    name = str(FOLDER / "client.py")
    ruff = [sys.executable, "-m", "ruff", *command, "--quiet", "--stdin-filename", name, "-"]
    return subprocess.run(ruff, input=text, stdout=subprocess.PIPE, text=True, check=True).stdout


with TemporaryDirectory() as folder:
    source = copy(FOLDER / "async_client.py", folder)
    unasync_files([source], [Rule("async_client.py", "client.py", NAMES)])
    made = Path(folder, "client.py").read_text()
sys.stdout.write(tidy(tidy(HEADER + made, "check", "--fix", "--select", "I"), "format"))
