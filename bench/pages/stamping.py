"""Which reports a picture was drawn from, written into the picture itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

_NAME = "reports"


def digest_reports(reports: Iterable[Path]) -> str:
    """SHA-256 of their bytes, in this order."""
    digest = hashlib.sha256()
    for path in reports:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def stamp(picture: Path, reports: Iterable[Path]) -> None:
    """Adds their digest to a PNG, whose pixels stay as they are."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(_NAME, digest_reports(reports))
    with Image.open(picture) as image:
        image.load()
        image.save(picture, pnginfo=info)


def read_stamp(picture: Path) -> str | None:
    """The digest; None where a picture has none."""
    from PIL import Image

    with Image.open(picture) as image:
        return image.info.get(_NAME)
