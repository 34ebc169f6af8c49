"""The whole application over a home with a planted ring, on a socket, and a real browser."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, sync_playwright

from engine.faces.extractor import Extractor
from engine.matching.bulk_enrollment import (
    HolderCache,
    OpenedLine,
    Subscriber,
    admit_planned,
    plan_admission,
)
from engine.matching.documents import check_document
from engine.matching.samples import Sample, seal_crop
from engine.registry.vault import Vault
from engine.registry.writer import Writer
from serving.demo.scenario import make_document
from serving.deployment.deployment import Deployment
from serving.settings.settings import SETTINGS_FILE, load_settings
from tests.serving.api.conftest import extractor, keyed_home, service, serving
from tests.serving.api.driver import Service
from tests.serving.client.conftest import listening

__all__ = ["extractor", "keyed_home", "service"]

CHROMIUM = Path("/usr/bin/chromium")
RING = 7
"""Documents of one face; one more looks like the last of them alone."""


@dataclass(frozen=True)
class Site:
    """A running console: its address, the keys by their names in KEYS, the service behind it."""

    url: str
    keys: dict[str, str] = field(repr=False)
    service: Service = field(repr=False)


@pytest.fixture(scope="session")
def site(keyed_home, extractor, tmp_path_factory) -> Iterator[Site]:
    home = keep_faces(keyed_home[0], tmp_path_factory.mktemp("console") / "home")
    plant_ring(home)
    with open_site(home, keyed_home[1], extractor) as opened:
        yield opened


@contextmanager
def open_site(
    home: Path, keys: dict[str, str], extractor: Extractor, port: int = 0, **changes: Any
) -> Iterator[Site]:
    """The console of a home, by default at any port."""
    with serving(home, keys, extractor) as start:
        service = start(**changes)
        with listening(service.app, service.loop, port) as found:
            yield Site(f"http://127.0.0.1:{found}", keys, service)


def keep_faces(home: Path, copy: Path) -> Path:
    """A copy of a home, which keeps the faces of whoever enrolls."""
    settings = shutil.copytree(home, copy) / SETTINGS_FILE
    settings.write_text(settings.read_text().replace('# keep = "none"', 'keep = "all"'))
    return copy


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, with a camera that shows a test picture.

    For one file at a time: while Playwright runs no other test can run a loop of its own.
    """
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM}: apt-get install --no-install-recommends chromium")
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not start for root, as CI is.
        started = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", *camera]
        )
        yield started
        started.close()


def plant_ring(home: Path) -> None:
    """Enters a ring of documents with a face each, and their lines."""
    import_subscribers(
        home,
        lambda vault, dim, now: [
            make_subscriber(vault, place, vector, now)
            for place, vector in enumerate(make_ring(dim))
        ],
    )


def import_subscribers(
    home: Path, make: Callable[[Vault, int, datetime], Sequence[Subscriber]]
) -> None:
    """Enters what `make(vault, dim, now)` gives, as an import would."""
    with Deployment(home, load_settings(home)) as deployment:
        registrar = deployment.registrar

        def enter(writer: Writer, now: datetime) -> None:
            subscribers = make(deployment.vault, registrar.gallery.dim, now)
            plan = plan_admission(
                deployment.store, registrar.gallery, HolderCache(), subscribers, same_document=0.5
            )
            kept = deployment.settings.crops
            admit_planned(
                writer, registrar.gallery, plan, actor="test", subject="ring", detail={}, crops=kept
            )

        registrar.run(enter)
        registrar.close()


def make_ring(dim: int) -> NDArray[np.float32]:
    """Unit rows float32[RING + 1, dim]: each less like the others than the one before it, and at
    last one that is like its predecessor in what that has of its own."""
    generator = np.random.default_rng(7)
    basis = np.linalg.qr(generator.standard_normal((dim, RING + 2)))[0].T
    closeness = np.linspace(0.9, 0.5, RING)[:, None]
    ring = np.sqrt(closeness) * basis[0] + np.sqrt(1 - closeness) * basis[1:-1]
    outside = 0.8 * basis[RING] + 0.6 * basis[RING + 1]
    return np.concatenate([ring, outside[None]]).astype(np.float32)


def make_subscriber(
    vault: Vault, place: int, vector: NDArray[np.float32], now: datetime
) -> Subscriber:
    document = make_document(place, f"Ring Member {place}")
    checked = check_document(document, now.date())
    opened_at = datetime.now(UTC) - timedelta(days=30 - place)
    carrier, outlet = ("blue", "b1") if place % 2 else ("red", "r1")
    line = OpenedLine(f"+861390013{8000 + place}", carrier, outlet, opened_at)
    if place == 0:
        # Of one no face is kept.
        return Subscriber(document.name, checked, vector, line)
    digest, shade = bytes([place] * 32), np.full((112, 112, 3), 40 + 25 * place, np.uint8)
    crop = seal_crop(vault, digest, shade)
    live = Sample(None, digest, quality={"sharpness": 200.0 + place}, crop=crop)
    return Subscriber(document.name, checked, vector, line, samples={"live": live})
