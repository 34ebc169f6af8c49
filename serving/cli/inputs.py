"""Inputs of commands: a home, photographs, documents, files to write."""

from __future__ import annotations

import json
import os
import pwd
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from engine.errors import (
    ImageTooLarge,
    NotInstalled,
    RegistryError,
    RequestError,
    advise_extra,
    file_errors,
)
from engine.formatting import is_visible, size
from schema import frozen
from serving.errors import ExitCode, require_sound

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.matching.samples import Sample
    from schema.documents import Document
    from schema.reasons import ToldKind
    from serving.deployment.deployment import Deployment

MAX_DOCUMENT_BYTES = 64 * 1024


@frozen
class Globals:
    """The options that stand before the command."""

    home: Path | None


def option(help_text: str | None, metavar: str | None = None, *names: str, **more: Any) -> Any:
    """The default of a parameter that is an option; of a bool it is a flag without a negation."""
    return typer.Option(more.pop("default", None), *names, metavar=metavar, help=help_text, **more)


def argument(help_text: str | None, metavar: str | None = None, **more: Any) -> Any:
    """The default of a parameter that is an argument."""
    return typer.Argument(more.pop("default", ...), metavar=metavar, help=help_text, **more)


def _inherit_home(context: typer.Context, given: Path | None) -> Path | None:
    shared = context.find_root().obj
    return given if given is not None or shared is None else shared.home


HOME_OPTION = option(
    "The deployment's folder: SOSIE_HOME, or the current folder, where not given.",
    "DIR",
    callback=_inherit_home,
)
CONFIG_OPTION = option("A settings file in place of the home's sosie.toml.", "FILE")
CERTIFICATE_OPTION = option("Also write the certificate, as JSON.", "FILE")
MSISDN_OPTION = option("The telephone number, as +<country><number>.", "NUMBER")
KIND_OPTION = option(
    "What the portrait is: live, printed or chip; decides how good it must be.",
    "KIND",
    show_default="live; chip for a document's record",
)
POINT_OPTION = option(
    "A point of the face that is meant, where several are shown: shares of width and height.", "X Y"
)
LIVE = "The live photograph; several frames by giving it again, or as a folder."
TYPE_OPTION = option("cn-ric, passport …; an unknown one is answered with the list.", "TYPE")
NUMBER_OPTION = option(
    "As printed; for a passport the machine readable zone. Shells keep what is typed here: "
    "--document keeps it out of their history.",
    "NUMBER",
)
DOCUMENT_OPTION = option(
    "JSON with type, number, name, expires_on, born_on and msisdn, as far as they are not given "
    "as options; - reads standard input.",
    "FILE",
)


class Details(dict[str, str]):
    """A document and its line, as far as a file and options name them."""

    KEYS = ("type", "number", "name", "expires_on", "born_on", "msisdn")
    __repr__ = object.__repr__

    def require(self, name: str, option: str) -> str:
        if name not in self:
            raise RequestError(f"no {name} is given: use {option}, or --document FILE")
        return self[name]

    def document(self) -> Document:
        """The whole document; `RequestError` names what is missing."""
        from msgspec.structs import replace

        found = self.known_document(self.require("name", "--name"))
        expires, born = self.get("expires_on"), self.get("born_on")
        return replace(
            found,
            expires_on=None if expires is None else read_date(expires),
            born_on=None if born is None else read_date(born, "date of birth"),
        )

    def known_document(self, name: str = "any holder") -> Document:
        """A document to be looked up, which its type and number alone identify."""
        from schema.documents import Document

        kind = self.require("type", "--document-type")
        return Document(kind, self.require("number", "--document-number"), name)


def read_details(source: str | None, **given: str | None) -> Details:
    """Details from a JSON file (`-`: standard input), options first."""
    keys = "give keys as `sosie enroll --help` says"
    written = {} if source is None else read_json(source, keys)
    if written.keys() - Details.KEYS or not all(isinstance(one, str) for one in written.values()):
        raise RequestError(f"{source} must hold texts under the keys {', '.join(Details.KEYS)}")
    return Details(written | {key: value for key, value in given.items() if value is not None})


@frozen
class DocumentOptions:
    """A document that is on record, as options or a file name it."""

    document_type: str | None = TYPE_OPTION
    document_number: str | None = NUMBER_OPTION
    document: str | None = DOCUMENT_OPTION

    def read(self) -> Document:
        given = {"type": self.document_type, "number": self.document_number}
        return read_details(self.document, **given).known_document()


def read_date(text: str, what: str = "day of expiry") -> date:
    """A day as 2031-01-31."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise RequestError(f"the {what} is not a date: write it as 2031-01-31") from None


def read_moment(text: str, what: str = "moment") -> datetime:
    """A moment as 2026-01-31T12:00:00Z; without a time zone it is none."""
    moment = None
    with suppress(ValueError):
        moment = datetime.fromisoformat(text)
    if moment is None or moment.tzinfo is None:
        raise RequestError(f"the {what} is none with a time zone: write it as 2026-01-31T12:00:00Z")
    return moment


def read_photograph(path: Path) -> bytes:
    """The file's bytes; one over the size limit is refused unread."""
    from engine.faces.image_files import ImageLimits

    limit = ImageLimits().max_size_bytes
    with file_errors(f"{path} cannot be read"), path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        data = file.read(limit + 1) if size_bytes <= limit else b""
    if max(size_bytes, len(data)) > limit:
        raise ImageTooLarge(f"{path} is too large: send at most {size(limit)}")
    return data


def sample_photographs(
    deployment: Deployment,
    paths: Sequence[Path],
    kinds: Sequence[ToldKind] = (),
    *,
    with_crops: bool = False,
    judged: Sequence[bool] = (),
) -> list[Sample]:
    """The sample of each photograph, of its kind; raises the first error, which names its file.
    `judged` says of which the liveness is judged."""
    from engine.matching.samples import take_samples

    images = [read_photograph(path) for path in paths]
    samples = take_samples(
        images,
        deployment.extractor,
        deployment.vault,
        kinds,
        with_crops=with_crops,
        second=deployment.second_embedder,
        judged=judged,
    )
    return require_sound(samples, paths)


def list_frames(given: Sequence[Path]) -> list[Path]:
    """The files of one face's frames: those given, of a folder the photographs in it, by name."""
    from engine.accuracy.photographs import list_photographs
    from serving.wire.fields import MAX_FRAMES

    frames = []
    for path in given:
        if path.is_dir():
            inside = list_photographs(path)
            if not inside:
                raise RequestError(f"{path} holds no photograph: give a file, or another folder")
            frames += inside
        else:
            frames.append(path)
    if len(frames) > MAX_FRAMES:
        raise RequestError(f"{len(frames)} frames of one face are given: give at most {MAX_FRAMES}")
    return frames


def require_probe(sample: Sample, path: Path) -> NDArray[np.float32]:
    """The vector of a photograph that may be matched; `RequestError` says what is wrong with it."""
    if not sample.is_usable or sample.vector is None:
        from schema.reasons import ADVICE, Reason

        problems = sample.problems or (Reason.NO_FACE,)
        advice = ADVICE[problems[0]]["en"]
        raise RequestError(f"{path} cannot be matched ({', '.join(problems)}): {advice}")
    return sample.vector


def open_deployment(home: Path | None, *, is_examined: bool = False) -> Deployment:
    """The deployment in a home folder, the current one or SOSIE_HOME; see there."""
    from serving.deployment.deployment import Deployment
    from serving.settings.settings import load_settings, require_home

    folder = require_home(home)
    return Deployment(folder, load_settings(folder), is_examined=is_examined)


def require_place(target: Path | None) -> None:
    """Refuses a file that cannot be written, before the work whose result goes there; None is no
    file."""
    if target is None:
        return
    folder = target.absolute().parent
    if target.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise RequestError(f"{target} cannot be written: name a file in a folder that can be")


@contextmanager
def writing(target: Path, what: str) -> Iterator[None]:
    """Says in one line why `target` cannot be written, or what `what` needs to be."""
    try:
        yield
    except ModuleNotFoundError as missing:
        raise NotInstalled(
            f"{what} is written with {missing.name}, which is not installed here: "
            f"{advise_extra('desk')}"
        ) from None
    except OSError as error:
        raise RegistryError(f"{target} cannot be written: {error.strerror}") from None


def save_certificate(target: Path | None, values: dict[str, Any], done: str, fallback: str) -> None:
    """Writes a certificate; where that fails, says that it is done, and where else it stands."""
    try:
        if target is not None:
            target.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        sys.stdout.flush()
        fault = f"{done}, but {target} cannot be written ({error.strerror})"
        sys.stderr.write(f"sosie: {fault}: {fallback}\n")
        raise typer.Exit(ExitCode.INTERNAL) from None


def name_actor() -> str:
    """The actor for the audit chain: the account that runs the command."""
    try:
        return f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:
        return f"cli:{os.getuid()}"


def require_code(code: str) -> None:
    """Refuses what cannot be the code of a carrier or an outlet."""
    require_words("a code", code, 64)


def require_words(what: str, text: str, max_length: int) -> None:
    """Refuses a text that is empty, too long or not one printable line."""
    is_shown = text.isprintable() and is_visible(text)
    if not is_shown or not 1 <= len(text.strip()) == len(text) <= max_length:
        raise RequestError(
            f"{what} has 1 to {max_length} printable characters, with no space around them"
        )


def read_json(source: str, advice: str) -> dict[str, Any]:
    """The JSON object in a file (`-`: standard input)."""
    try:
        if source == "-":
            text = sys.stdin.read(MAX_DOCUMENT_BYTES)
        else:
            with Path(source).open(encoding="utf-8") as file:
                text = file.read(MAX_DOCUMENT_BYTES)
        written = json.loads(text)
    except OSError as error:
        raise RequestError(f"{source} cannot be read: {error.strerror}") from None
    except ValueError:
        written = None
    if not isinstance(written, dict):
        raise RequestError(f"{source} is not a JSON object: {advice}")
    return written
