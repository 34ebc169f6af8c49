import contextlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engine.accuracy.photographs import Source, open_wheel
from engine.faces.extractor import Extractor, open_extractor
from serving.demo.demo_run import run_demo


@dataclass(frozen=True)
class DemoResult:
    """A finished demo: exit code, output, and files that it left in its temporary folder."""

    code: int
    output: str
    left_behind: list[Path]

    @property
    def report(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.output)
        return document


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Callable[..., DemoResult]:
    """`demo(faces=None, gallery_size=500, as_json=True, **environment)` runs it."""

    def run(
        faces: Path | None = None, gallery_size: int = 500, as_json: bool = True, **environment: str
    ) -> DemoResult:
        folder = tmp_path_factory.mktemp("demo-temporary")
        output = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
            patch.setattr("tempfile.tempdir", str(folder))
            for name, value in environment.items():
                patch.setenv(name, value)
            code = run_demo(faces=faces, gallery_size=gallery_size, as_json=as_json)
        return DemoResult(code, output.getvalue(), list(folder.iterdir()))

    return run


@pytest.fixture(scope="session")
def finished(demo) -> DemoResult:
    """The demo on the wheel's faces, in JSON."""
    return demo()


@pytest.fixture(scope="session")
def wheel() -> Source:
    return open_wheel()


@pytest.fixture(scope="session")
def extractor() -> Iterator[Extractor]:
    with open_extractor() as opened:
        yield opened


@pytest.fixture(scope="session")
def make_folder(wheel, tmp_path_factory) -> Callable[..., Path]:
    """`make_folder({"ann": "face 0, face 90", "b.png": "astronaut"})`: photographs on disk.

    A name with a suffix is a single photograph, any other the folder of a person.
    """
    pictures = {picture.label: picture for person in wheel.people for picture in person.pictures}

    def make(people: dict[str, str]) -> Path:
        root = tmp_path_factory.mktemp("faces")
        for name, labels in people.items():
            chosen = [pictures[label] for label in labels.split(", ")]
            if "." in name:
                (root / name).write_bytes(chosen[0].data)
                continue
            (root / name).mkdir()
            for number, picture in enumerate(chosen, start=1):
                (root / name / f"{name}_{number:04d}.png").write_bytes(picture.data)
        return root

    return make
