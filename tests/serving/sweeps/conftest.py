"""A deployment whose gallery has strangers and people under two documents."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.compose import Deployment
from serving.settings import load_settings
from serving.sweeps.manager import SweepDesk
from tests.serving.sweeps.synthetic_people import Gate, make_crowd


@pytest.fixture(scope="session")
def crowd_template(empty_home: Path) -> Path:
    """A home with 400 people, 12 of them under two documents; not to be changed."""
    return make_crowd(empty_home, "crowd")


@pytest.fixture
def crowd_home(crowd_template: Path, tmp_path: Path) -> Path:
    """A copy of it, for this test alone."""
    return Path(shutil.copytree(crowd_template, tmp_path / "crowd"))


@pytest.fixture
def deployment(crowd_home: Path) -> Iterator[Deployment]:
    with Deployment(crowd_home, load_settings(crowd_home), crowd_home / "cache") as opened:
        yield opened


@pytest.fixture
def desk(deployment: Deployment) -> Iterator[SweepDesk]:
    made = SweepDesk(deployment)
    yield made
    made.close()


@pytest.fixture
def gate(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Between the desk of this deployment and its gallery."""
    made = Gate(deployment)
    monkeypatch.setattr(deployment, "joiner", made.joiner)
    yield made
    made.opened.set()
