"""A deployment with one enrolled face, and photographs of it; copied for every test that asks."""

import functools
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageEnhance, ImageOps
from skimage import data
from typer import testing
from typer.main import get_command
from typer.testing import CliRunner

from engine.faces import extractor as extracting
from engine.faces.image_files import ImageLimits
from engine.faces.images import Decoder
from engine.models import onnx_sessions

NUMBER, OTHER_NUMBER = "110105199003071239", "110105198503071257"
NAME = "Aileen Probe"
MSISDN, OTHER_MSISDN = "+8613800138000", "+8613800138001"


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as the one JSON document that it must be."""
        return json.loads(self.out)

    def check(self, subject: str) -> dict[str, str]:
        """What `sosie doctor` has found of a subject."""
        (found,) = [one for one in self.json["checks"] if one["subject"] == subject]
        return dict(found)


@dataclass(frozen=True)
class Photographs:
    """Files: the astronaut three times, a stranger twice, a picture without a face."""

    live: Path
    portrait: Path
    later: Path
    stranger: Path
    stranger_again: Path
    faceless: Path


Sosie = Callable[..., Outcome]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Photographs:
    folder = tmp_path_factory.mktemp("photographs")
    names = ("live.jpg", "portrait.png", "later.jpg", "stranger.png", "again.png", "none.jpg")
    made = Photographs(*(folder / name for name in names))
    astronaut = Image.fromarray(data.astronaut())
    astronaut.save(made.live, quality=92)
    turned = ImageEnhance.Brightness(astronaut.rotate(3)).enhance(0.85)
    turned.crop((60, 0, 400, 380)).save(made.portrait)
    ImageOps.mirror(astronaut).save(made.later, quality=70)
    face = Image.fromarray((data.lfw_subset()[0] * 255).astype("uint8")).resize((200, 200))
    face.save(made.stranger)
    ImageEnhance.Brightness(face).enhance(0.9).save(made.stranger_again)
    Image.fromarray(data.rocket()).save(made.faceless)
    return made


@pytest.fixture
def astronaut() -> Image.Image:
    """The picture behind `photographs.live`."""
    return Image.fromarray(data.astronaut())


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> dict[str, str | None]:
    """No variable of the machine's that Sosie would read."""
    foreign = {name: None for name in os.environ if name.startswith("SOSIE_")}
    return {**foreign, "COLUMNS": "200"}


class SharedDecoder(Decoder):
    """Its processes decode for one command after another: each takes 0.15 s to start."""

    def close(self) -> None:
        """Nothing: `Decoder.close` ends them."""


@pytest.fixture(scope="session")
def sosie(environment) -> Iterator[Sosie]:
    """`sosie(*arguments, env={}, given="")` runs a command in this process."""
    from engine.models import rewriting
    from serving.cli.main import app

    open_one, rewrite = onnx_sessions._open_one, rewriting.rewrite
    opened: dict[tuple[object, ...], Any] = {}
    decoders: dict[ImageLimits | None, SharedDecoder] = {}

    def open_decoder(limits: ImageLimits | None) -> SharedDecoder:
        if limits not in decoders:
            decoders[limits] = SharedDecoder(limits)
        return decoders[limits]

    def rewrite_once(model: bytes, *how: Any) -> Any:
        key = (hashlib.sha256(model).digest(), repr(how))
        if key not in opened:
            opened[key] = rewrite(model, *how)
        return opened[key]

    def open_once(runtime: Any, card: Any, graph: bytes, *how: object) -> Any:
        if card.name not in ("yunet", "sface"):
            return open_one(runtime, card, graph, *how)
        key = (runtime, hashlib.sha256(graph).digest(), repr(how))
        if key not in opened:
            opened[key] = open_one(runtime, card, graph, *how)
        return opened[key]

    def run(*arguments: object, env: dict[str, str] | None = None, given: str = "") -> Outcome:
        variables = {**environment, **(env or {})}
        with pytest.MonkeyPatch.context() as patch:
            # A graph is rewritten once by the same steps, which takes half of a command's time, and
            # one of the built-in models loaded once: it takes 100 MB and half a second.
            patch.setattr(rewriting, "rewrite", rewrite_once)
            patch.setattr(onnx_sessions, "_open_one", open_once)
            patch.setattr(extracting, "Decoder", open_decoder)
            result = CliRunner().invoke(app, list(map(str, arguments)), input=given, env=variables)
        return Outcome(result.exit_code, result.stdout, result.stderr)

    with pytest.MonkeyPatch.context() as patch:
        # The tree of commands is built once, as in any process: it takes longer than most do.
        patch.setattr(testing, "_get_command", functools.cache(get_command))
        yield run
    for decoder in decoders.values():
        Decoder.close(decoder)


@pytest.fixture
def start(environment, tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`start(*arguments)` runs the command in another process, its output piped; a module, or
    code, in its place."""
    started: list[subprocess.Popen[str]] = []
    # A background job of a shell ignores interrupts, and its children would too.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)

    def begin(
        *arguments: object, module: str = "serving.cli.main", code: str = ""
    ) -> subprocess.Popen[str]:
        variables = {**os.environ, **environment}
        process = subprocess.Popen(
            [sys.executable, *(("-c", code) if code else ("-m", module)), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={name: value for name, value in variables.items() if value is not None},
            cwd=tmp_path,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()
    signal.signal(signal.SIGINT, inherited)


@pytest.fixture
def become(monkeypatch) -> Callable[[str], None]:
    """`become(name)`: the commands of this test are run by that account from now on."""
    return lambda name: monkeypatch.setattr("serving.cli.output.name_actor", lambda: f"cli:{name}")


HOLD = """
import sys, time
from pathlib import Path
from serving.deployment.deployment import Deployment
from serving.settings.settings import load_settings
home = Path(sys.argv[1])
deployment = Deployment(home, load_settings(home))
deployment.writer
print("held", flush=True)
time.sleep(600)
"""


@contextmanager
def hold_lease(home: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process has the writer's lease of a home."""
    command = [sys.executable, "-c", HOLD, str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="session")
def empty_home(sosie, tmp_path_factory) -> Path:
    """Carriers blue and red with an outlet each, no one enrolled; not to be changed."""
    home = tmp_path_factory.mktemp("homes") / "empty"
    assert sosie("init", home, "--carrier", "blue", "--outlet", "b1").code == 0
    assert sosie("carrier", "add", "red", "--name", "Red", "--home", home).code == 0
    assert sosie("outlet", "add", "r1", "--carrier", "red", "--home", home).code == 0
    return home


@pytest.fixture(scope="session")
def enrolled_home(sosie, empty_home, photographs) -> tuple[Path, dict[str, Any]]:
    """The same with the astronaut enrolled, and that answer; not to be changed."""
    home = empty_home.with_name("enrolled")
    shutil.copytree(empty_home, home)
    outcome = sosie(*enrollment(home, photographs), "--json")
    assert outcome.code == 0, outcome.err
    return home, outcome.json


@pytest.fixture
def home(empty_home, tmp_path) -> Path:
    """A copy of the empty deployment, for this test alone."""
    return Path(shutil.copytree(empty_home, tmp_path / "home"))


@pytest.fixture
def full_home(enrolled_home, tmp_path) -> Path:
    """A copy of the deployment with one person, for this test alone."""
    return Path(shutil.copytree(enrolled_home[0], tmp_path / "full"))


@pytest.fixture
def caught_home(full_home, sosie, photographs) -> Path:
    """The same, where the astronaut has come again under another document."""
    changes = {"document_number": OTHER_NUMBER, "msisdn": "+8613800138001", "consent_ref": "form 7"}
    again = enrollment(full_home, photographs, live=photographs.later, **changes)
    assert sosie(*again, "--json").json["decision"] == "rejected"
    return full_home


@pytest.fixture
def enrolled(enrolled_home) -> dict[str, Any]:
    """The answer that the astronaut's enrollment got."""
    return enrolled_home[1]


@pytest.fixture
def request_of(photographs) -> Callable[..., list[object]]:
    """`request_of(home, **changes)`: the arguments of an honest `sosie enroll`."""
    return lambda home, **changes: enrollment(home, photographs, **changes)


def enrollment(home: Path, photographs: Photographs, **changes: object) -> list[object]:
    """The arguments of an honest `sosie enroll`; anything can be given instead, `None` leaves out.

    A keyword `document_number` is the option `--document-number`.
    """
    options: dict[str, object] = {
        "home": home,
        "live": photographs.live,
        "portrait": photographs.portrait,
        "document_type": "cn-ric",
        "document_number": NUMBER,
        "name": NAME,
        "msisdn": MSISDN,
        "outlet": "b1",
    }
    arguments: list[object] = ["enroll"]
    for name, value in (options | changes).items():
        if value is not None:
            arguments += [f"--{name.replace('_', '-')}", value]
    return arguments


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """`contents(folder)`: every file below it but the lease, which names only a process, and
    the database's journal, which is overwritten also by what is taken back."""

    def read(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.endswith((".lease", "-journal"))
        }

    return read


@pytest.fixture
def assert_refused() -> Callable[..., None]:
    """`assert_refused(outcome, code)`: exit 2, one line for people, nothing on standard output.

    The line of a request that came as far as the registrar follows that of its key.
    """

    def check(outcome: Outcome, *words: str) -> None:
        assert outcome.code == 2, outcome
        assert outcome.out == ""
        line = re.sub(r"\Aidempotency key [-0-9a-f]{36}\n", "", outcome.err)
        assert line.startswith("sosie: ")
        assert line.count("\n") == 1
        assert line.endswith("\n")
        for word in words:
            assert word in line

    return check
