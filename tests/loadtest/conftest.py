"""The real application on a socket, faces from scikit-image, and the load test as a process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import skimage.data

from engine.accuracy.photographs import WHEEL_PEOPLE
from engine.registry.accounts import Carrier
from engine.registry.store import PERSONAL_ROLES
from schema.options import Limits
from serving.deployment.deployment import Deployment, create_home
from serving.settings.settings import SETTINGS_FILE, Settings, make_settings
from tests.bench.conftest import photograph
from tests.keys import add_key
from tests.serving.api.conftest import Service, serving
from tests.serving.client.conftest import start_listening
from tests.serving.conftest import Outcome

PARTS = {"one": (22, 3), "two": (18, 2), "three": (16, 2), "four": (16, 2), "five": (23, 3)}
"""People in each folder, and photographs of each person; nobody is in two folders, so that the
load tests can run at once."""
KEYS = {"enroll": ("carrier", "blue"), "fraud": ("fraud", None)}
MANY = 1_000_000


@pytest.fixture(scope="session")
def faces(tmp_path_factory) -> Path:
    """A folder for each part in LFW's layout: one picture of each person, shifted and lit
    differently."""
    folder = tmp_path_factory.mktemp("loadtest")
    rng = np.random.default_rng(5)
    again = [place for places in WHEEL_PEOPLE for place in places[1:]]
    people = iter(np.delete(skimage.data.lfw_subset()[:100], again, axis=0))
    for part, (count, photographs) in PARTS.items():
        for person in range(count):
            photograph(next(people), folder / part / f"Person_{person:02d}", photographs, rng)
    return folder


@pytest.fixture(scope="session")
def service(tmp_path_factory) -> Iterator[Service]:
    """The application over an empty gallery, with the bounds that it has by default; each load test
    erases whom it enrolled."""
    home = tmp_path_factory.mktemp("loaded") / "home"
    create_home(home, Settings())
    written = home / SETTINGS_FILE
    # Else whoever is in an open case stays until it is closed.
    written.write_text(written.read_text().replace("# case_hold_days = 30", "case_hold_days = 0"))
    keys = {}
    # Pictures of 25 pixels, enlarged, are as unclear as they look.
    lenient = make_settings({"quality": {"live": {"min_clarity": 0, "min_sharpness": 0}}})
    with Deployment(home, lenient) as deployment:
        deployment.store.add_carrier(Carrier("blue", "Blue", MANY), actor="test")
        deployment.store.add_outlet("b1", "blue", actor="test")
        for name, (role, carrier) in KEYS.items():
            person = name if role in PERSONAL_ROLES else None
            given = {"label": name, "person": person}
            keys[name] = add_key(deployment.store, deployment.vault, role, carrier, **given)
        with serving(home, keys, deployment.extractor) as start:
            yield start(limits=Limits())


listen = pytest.fixture(scope="session")(start_listening)


@pytest.fixture(scope="session")
def begin(service, faces, tmp_path_factory) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`begin(shape, url, part, *options)` starts a load test in another process."""
    started: list[subprocess.Popen[str]] = []
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    keys.write_text(json.dumps(service.keys))
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("SOSIE_")}

    def start(shape: str, url: str, part: str, *options: object) -> subprocess.Popen[str]:
        reach = ("--url", url, "--keys", keys, "--outlet", "b1", "--faces", faces / part)
        arguments = [str(one) for one in (shape, *reach, *options)]
        process = subprocess.Popen(
            [sys.executable, "-m", "loadtest", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=inherited,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str]) -> Outcome:
    """Waits for the end of a load test."""
    out, err = process.communicate(timeout=120)
    return Outcome(process.returncode, out, err)
