"""Honest enrollments of one carrier while many keys of another send slow and large bodies.

`python -m tests.security.honest_beside_attack [--rate-limit N] [--honest N] [KIND ...]` starts a
service on this machine, prints a line for each kind of attack, and asserts nothing: its figures
depend on the machine. Wanted: 100 of 100 answered 201 within 3 s, and readiness 200.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import skimage.data
from PIL import Image, ImageEnhance

from bench.suites.serve.process import serve
from engine.registry.accounts import ApiKey
from engine.registry.database import utc_now
from serving.access.authentication import make_key
from serving.demo.scenario import make_document
from serving.deployment.deployment import Deployment
from serving.settings.settings import load_settings
from tests.security.costly_files import write

WITHIN_S = 3.0
MANY = {f"{count} keys, slow and large": (count, 24) for count in (2, 10, 50)}
"""By how many keys of the attacker's carrier, with so many connections each."""


@dataclass
class Seen:
    """What came of the honest calls and of readiness."""

    first: list[float] = field(default_factory=list)
    """Seconds to the 201 where the first attempt was answered so."""
    latency: list[float] = field(default_factory=list)
    """Seconds to the 201, repeats after 429 and 503 included."""
    failed: int = 0
    ready: Counter[int] = field(default_factory=Counter)

    def line(self, honest: int) -> str:
        first = sum(one <= WITHIN_S for one in self.first)
        late = np.quantile(self.latency, (0.5, 0.95)) if self.latency else (np.nan, np.nan)
        return (
            f"{first}/{honest} at once, {sum(one <= WITHIN_S for one in self.latency)}/{honest} "
            f"with repeats within {WITHIN_S:g} s; p50 {late[0]:.2f} s, p95 {late[1]:.2f} s; "
            f"ready {dict(self.ready)}"
        )


def body_of(serial: int, outlet: str, live: bytes, portrait: bytes) -> dict[str, Any]:
    document = make_document(serial, f"Holder {serial}")
    rest = {
        "outlet": outlet,
        "document": {"type": document.type, "number": document.number, "name": document.name},
        "msisdn": f"+8613{serial:09d}",
        "consent_ref": "C-1",
        "captured_at": datetime.now(UTC).isoformat(),
    }
    return {
        "files": {
            "live": ("live.jpg", live),
            "portrait": ("portrait.jpg", portrait),
            "request": (None, json.dumps(rest), "application/json"),
        }
    }


def photographs(serial: int) -> tuple[bytes, bytes]:
    faces = skimage.data.lfw_subset()
    pixels = (faces[serial % 100] * 255).astype(np.uint8)
    face = Image.fromarray(pixels).convert("RGB").resize((250, 250))
    return write(face, "JPEG"), write(ImageEnhance.Brightness(face).enhance(0.9), "JPEG")


def enroll(client: httpx.Client, url: str, serial: int, run: str, seen: Seen) -> None:
    live, portrait = photographs(serial)
    body = body_of(serial, "b1", live, portrait)
    began = time.monotonic()
    for attempt in range(10):
        try:
            answer = client.post(
                f"{url}/v1/enrollments", headers={"idempotency-key": f"{run} {serial}"}, **body
            )
        except httpx.TransportError:
            continue
        took = time.monotonic() - began
        if answer.status_code in (200, 201):
            seen.latency.append(took)
            if not attempt:
                seen.first.append(took)
            return
        if answer.status_code not in (429, 503):
            break
        time.sleep(float(answer.headers.get("retry-after", 1)))
    seen.failed += 1


def watch(url: str, seen: Seen, stop: threading.Event) -> None:
    with httpx.Client(timeout=5) as client:
        while not stop.wait(0.25):
            try:
                seen.ready[client.get(f"{url}/health/ready").status_code] += 1
            except httpx.TransportError:
                seen.ready[0] += 1


@contextmanager
def slow_bodies(url: str, keys: dict[str, str], kind: str) -> Iterator[None]:
    """A process that sends them."""
    count, each = MANY[kind]
    given = "\n".join(keys[f"r1 {number}"] for number in range(count))
    # Others would send them from machines of their own.
    command = ["nice", "-n", "19", sys.executable, "-m", "tests.security.slow_bodies"]
    command += [str(httpx.URL(url).port), str(each)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as process:
        process.stdin.write(given)
        process.stdin.close()
        try:
            yield
        finally:
            process.terminate()


def run(url: str, keys: dict[str, str], kind: str, honest: int, at: int) -> Seen:
    seen, stop = Seen(), threading.Event()
    watching = threading.Thread(target=watch, args=(url, seen, stop))
    watching.start()
    with (
        slow_bodies(url, keys, kind),
        httpx.Client(timeout=30, headers={"authorization": f"Bearer {keys['b1']}"}) as client,
    ):
        time.sleep(3)
        waiting = []
        for serial in range(honest):
            thread = threading.Thread(
                target=enroll, args=(client, url, at * 10_000 + serial, kind, seen)
            )
            thread.start()
            waiting.append(thread)
            time.sleep(0.5)
        for thread in waiting:
            thread.join()
    stop.set()
    watching.join()
    return seen


@contextmanager
def make_home() -> Iterator[tuple[Path, Path, dict[str, str]]]:
    """A home with two carriers, an outlet and a key each."""
    command = str(Path(sys.executable).with_name("sosie"))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"

        def sosie(*arguments: str) -> str:
            done = subprocess.run([command, *arguments], capture_output=True, text=True, check=True)
            return done.stdout

        sosie("init", str(home), "--carrier", "blue", "--outlet", "b1")
        sosie("carrier", "add", "red", "--name", "Red", "--home", str(home))
        keys = {}
        of_red = [f"r1 {number}" for number in range(50)]
        with Deployment(home, load_settings(home)) as deployment:
            deployment.store.add_outlet("r1", "red", actor="test")
            for name, carrier in {"b1": "blue", **dict.fromkeys(of_red, "red")}.items():
                made = make_key(deployment.vault)
                given = (made.id, made.digest, "outlet", carrier, name[:2], utc_now())
                deployment.store.add_api_key(ApiKey(*given, label=name), actor="test")
                keys[name] = made.text
        yield home, keys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=[])
    parser.add_argument("--honest", type=int, default=100)
    parser.add_argument("--rate-limit", default="0")
    given = parser.parse_args()
    os.environ["SOSIE_SERVE__RATE_LIMIT"] = given.rate_limit
    # All of them share this machine's address, as whoever attacks from many would not.
    os.environ["SOSIE_SERVE__CONNECTIONS_PER_ADDRESS"] = "0"
    for name in ("HOLDER_FAILURES", "HOLDER_SHOWN", "OUTLET_KEY_FAILURES", "KEY_FAILURES"):
        # The same faces come again for each kind of attack, and are rejected as duplicates.
        os.environ[f"SOSIE_LIMITS__{name}"] = "0"
    with make_home() as (home, keys), serve(home) as (service, _):
        url = f"http://127.0.0.1:{service.port}"
        for at, kind in enumerate(given.kinds or MANY, 1):
            seen = run(url, keys, kind, given.honest, at)
            load = os.getloadavg()[0]
            sys.stdout.write(f"{kind:22} {seen.line(given.honest)}; load {load:.1f}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
