"""Synthetic people for a deployment, admitted without photographs."""

import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.matching.bulk_enrollment import admit_references
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.joining.join import JoinedGallery, Progress, join_gallery
from serving.demo.scenario import make_document
from serving.deployment.deployment import Deployment
from serving.settings.settings import load_settings

Rows = NDArray[np.float32]
DIM = 128
PEOPLE, TWICE = 400, 12


def strangers(people: int, seed: int = 0) -> Rows:
    """In 128 dimensions no two of hundreds score 0.5."""
    return _unit(np.random.default_rng(seed).standard_normal((people, DIM)))


def second_documents(rows: Rows, seed: int = 1) -> Rows:
    """The same people again: each scores about 0.9 with the first."""
    blur = _unit(np.random.default_rng(seed).standard_normal(rows.shape))
    return _unit(rows + 0.45 * blur)


def make_people_home(empty_home: Path, name: str = "people") -> Path:
    """A copy of a home beside it, with 400 people, 12 of them under two documents; made once."""
    home = empty_home.with_name(name)
    if home.exists():
        return home
    shutil.copytree(empty_home, home)
    with Deployment(home, load_settings(home)) as deployment:
        rows = strangers(PEOPLE)
        fill(deployment, rows)
        fill(deployment, second_documents(rows[:TWICE]), first=PEOPLE)
    return home


def fill(deployment: Deployment, rows: Rows, first: int = 0) -> None:
    """Admits the faces under documents numbered from `first`."""
    serials = range(first, first + len(rows))
    documents = [make_document(serial, f"Holder {serial}") for serial in serials]
    rotated = deployment.vault.rotate(rows)
    admit_references(deployment.registrar, documents, rotated, "test")


class PausedJoin:
    """A join in small tiles that waits after the first one until it is released."""

    def __init__(self) -> None:
        self.reached, self.opened = Event(), Event()
        self.tiles: list[int] = []

    def joiner(self, gallery: Gallery, scanner: Scanner) -> Callable[..., JoinedGallery]:
        def join(threshold: float, *, progress: Any, **options: Any) -> JoinedGallery:
            def report(now: Progress) -> None:
                self.tiles.append(now.tiles_done)
                if now.tiles_done == 1:
                    self.reached.set()
                    assert self.opened.wait(120)
                progress(now)

            return join_gallery(
                gallery, threshold, progress=report, tile_rows=64, scanner=scanner, **options
            )

        return join


def _unit(rows: NDArray[np.floating]) -> Rows:
    units: Rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return units
