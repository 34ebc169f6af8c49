"""A deployment whose gallery has strangers and people under two documents."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.sweeps.estimate import SweepOrder
from schema.sweeps import SweepRecord
from serving.deployment.deployment import Deployment
from serving.settings.settings import load_settings
from serving.sweeps.manager import SweepManager
from tests.serving.sweeps.synthetic_people import PausedJoin, make_people_home


@pytest.fixture(scope="session")
def people_template(empty_home) -> Path:
    """A home with 400 people, 12 of them under two documents; not to be changed."""
    return make_people_home(empty_home)


@pytest.fixture
def people_home(people_template, tmp_path) -> Path:
    """A copy of it, for this test alone."""
    return Path(shutil.copytree(people_template, tmp_path / "people"))


@pytest.fixture
def deployment(people_home) -> Iterator[Deployment]:
    with Deployment(people_home, load_settings(people_home)) as opened:
        yield opened


@pytest.fixture
def manager(deployment) -> Iterator[SweepManager]:
    made = SweepManager(deployment)
    yield made
    made.close()


@pytest.fixture
def paused_join(deployment, monkeypatch) -> Iterator[PausedJoin]:
    """The join of this deployment's sweeps, which waits after its first tile."""
    made = PausedJoin()
    monkeypatch.setattr(deployment.snapshots, "joiner", made.joiner)
    yield made
    made.opened.set()


@pytest.fixture
def begun(manager, paused_join) -> SweepRecord:
    """A sweep that waits after its first tile."""
    record = manager.start(SweepOrder(threshold=0.47), "key:fraud")
    assert paused_join.reached.wait(120)
    return record
