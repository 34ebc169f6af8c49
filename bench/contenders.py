"""Whoever matches pairs in a benchmark, each in a process of its own and told when to run."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.photographs import PhotographPairs
from engine.errors import RequestError

WORKER = Path(__file__).parent / "peers" / "worker.py"
CHECKOUT = Path(__file__).parents[1]
SILENCE_TIMEOUT_S = 600.0
"""A contender that says nothing for so long is ended."""


class Unavailable(Exception):
    """A contender cannot run here; the message says why and goes into the report."""


@dataclass(frozen=True, slots=True)
class Round:
    """One round: `scores` are None where a photograph showed no face; `stages` mean ms a photo."""

    seconds: float
    scores: tuple[float | None, ...]
    stages: Mapping[str, float] = field(default_factory=dict)


class Contender:
    """A worker that has loaded its models and waits; close it, or use it in a `with`."""

    def __init__(
        self, python: Path, contender: str, photographs: PhotographPairs, **setup: Any
    ) -> None:
        """Raises `Unavailable` where the interpreter lacks a package or a model won't load."""
        self._process = _start(python)
        pairs = [[str(one), str(two)] for one, two in photographs.pairs]
        try:
            ready = self._ask({"contender": contender, "pairs": pairs, **setup})
        except BaseException:
            self.close()
            raise
        self.runtime = str(ready["ready"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def match(self, pairs: int, *, singly: bool = False) -> Round:
        """Match the first so many pairs: all at hand at once, or each when the last is done.

        Raises `Unavailable` where it fails; it has ended then.
        """
        answer = self._ask({"pairs": pairs, "singly": singly})
        return Round(answer["seconds"], tuple(answer["scores"]), answer.get("stages", {}))

    def close(self) -> None:
        """End the worker."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        watchdog = threading.Timer(SILENCE_TIMEOUT_S, self._process.kill)
        watchdog.start()
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            watchdog.cancel()
        if not line:
            raise Unavailable(f"its process ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Unavailable(_shorten(str(answer["error"])))
        return answer


def _start(python: Path) -> subprocess.Popen[str]:
    environment = dict(os.environ)
    environment.pop("PYTHONPATH", None)
    if (CHECKOUT / "pyproject.toml").is_file():
        # The same code in every interpreter; an installed Sosie must be in each of them instead,
        # for its folder would bring the packages of this interpreter along.
        environment["PYTHONPATH"] = str(CHECKOUT)
    try:
        return subprocess.Popen(
            [str(python), str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
    except OSError as error:
        raise RequestError(f"{python} does not start as a Python: {error.strerror}") from error


def _shorten(text: str) -> str:
    return " ".join(text.split())[:200]
