"""Threads may decode a type for the first time at once."""

import subprocess
import sys

RACE = """
import sys
from threading import Thread
from msgspec import convert, defstruct
from schema.decoding import prepare

sys.setswitchinterval(1e-6)
for _ in range(3000):
    inner = defstruct("Inner", [("text", str)])
    kind = defstruct("Outer", [("one", inner), ("all", dict[str, inner])])
    decode = lambda: convert({"one": {"text": "a"}, "all": {}}, prepare(kind))
    threads = [Thread(target=decode) for _ in range(4)]
    [one.start() for one in threads]
    [one.join() for one in threads]
"""


def test_threads_that_first_decode_a_type_at_once_do_not_crash() -> None:
    assert subprocess.run([sys.executable, "-c", RACE], check=False, timeout=300).returncode == 0
