"""The items of a match or template call, read from a decoded body by hand.

What they accept is what the models of `serving.api.schemas.matching` accept, and a test holds the
two together; a model's way through a batch of 256 would cost more than comparing it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serving.errors import Malformed, TooManyItems
from serving.ingress.templates import read_base64, read_token

MAX_ITEMS = 256
MAX_ID_LENGTH = 128

_BODY = frozenset({"items"})
_MATCH = frozenset({"id", "probe", "reference", "search"})
_FACE = frozenset({"image", "template"})
_PHOTOGRAPH = frozenset({"id", "image"})


@dataclass(slots=True)
class MatchBatch:
    """The items of one match call, by column.

    `faces` are image files and tokens as they came, `images` the places of the files among them;
    `probes` and `references` point into `faces`, None where an item has no reference.
    """

    ids: list[str | None] = field(default_factory=list)
    probes: list[int] = field(default_factory=list)
    references: list[int | None] = field(default_factory=list)
    searches: list[bool] = field(default_factory=list)
    faces: list[bytes] = field(default_factory=list, repr=False)
    images: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(slots=True)
class PhotographBatch:
    """The items of one template call."""

    ids: list[str | None] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        return len(self.ids)


def read_match(body: object) -> MatchBatch:
    """The batch of a decoded body; `Malformed` naming the first fault, or `TooManyItems`."""
    batch = MatchBatch()
    for place, item in enumerate(_read_items(body)):
        if type(item) is not dict or not item.keys() <= _MATCH:
            raise _misshapen(item, _MATCH, f"items.{place}")
        search = item.get("search", False)
        if search is not True and search is not False:
            raise Malformed(f"items.{place}.search: not true or false")
        batch.ids.append(_read_id(item, place))
        probe = item.get("probe")
        if probe is None:
            raise Malformed(f"items.{place}.probe: missing")
        batch.probes.append(_add_face(batch, probe, place, "probe"))
        reference = item.get("reference")
        if reference is not None:
            batch.references.append(_add_face(batch, reference, place, "reference"))
        elif search:
            batch.references.append(None)
        else:
            raise Malformed(f"items.{place}: nothing to do, give a reference, search, or both")
        batch.searches.append(search)
    return batch


def read_photographs(body: object) -> PhotographBatch:
    """The same for a template call."""
    batch = PhotographBatch()
    for place, item in enumerate(_read_items(body)):
        if type(item) is not dict or not item.keys() <= _PHOTOGRAPH:
            raise _misshapen(item, _PHOTOGRAPH, f"items.{place}")
        batch.ids.append(_read_id(item, place))
        batch.images.append(_read_image(item.get("image"), f"items.{place}.image"))
    return batch


def _read_items(body: object) -> list[Any]:
    if type(body) is not dict or not body.keys() <= _BODY:
        raise _misshapen(body, _BODY, "")
    items = body.get("items")
    if type(items) is not list or not items:
        raise Malformed("items: not a list of 1 to 256 items")
    if len(items) > MAX_ITEMS:
        raise TooManyItems(f"{len(items)} items in one call: send at most {MAX_ITEMS}")
    return items


def _read_id(item: Mapping[str, Any], place: int) -> str | None:
    given = item.get("id")
    if given is None:
        return None
    if type(given) is not str or len(given) > MAX_ID_LENGTH:
        raise Malformed(f"items.{place}.id: not a text of at most {MAX_ID_LENGTH} characters")
    return given


def _add_face(batch: MatchBatch, face: object, place: int, part: str) -> int:
    if type(face) is not dict or not face.keys() <= _FACE:
        raise _misshapen(face, _FACE, f"items.{place}.{part}")
    slot = len(batch.faces)
    template, image = face.get("template"), face.get("image")
    if (template is None) is (image is None):
        raise Malformed(f"items.{place}.{part}: give an image or a template, one of both")
    if template is None:
        batch.images.append(slot)
        batch.faces.append(_read_image(image, f"items.{place}.{part}.image"))
    elif type(template) is bytes:
        batch.faces.append(template)
    elif type(template) is str:
        # A text that is no token becomes one that opens nowhere: an item's error, not the call's.
        batch.faces.append(read_token(template))
    else:
        raise Malformed(f"items.{place}.{part}.template: neither text nor binary")
    return slot


def _read_image(image: object, where: str) -> bytes:
    if type(image) is bytes:
        return image
    if type(image) is not str:
        raise Malformed(f"{where}: neither base64 nor binary")
    try:
        return read_base64(image)
    except ValueError:
        raise Malformed(f"{where}: not base64 (RFC 4648, section 4, padded)") from None


def _misshapen(value: object, known: frozenset[str], where: str) -> Malformed:
    at = f"{where}: " if where else ""
    if not isinstance(value, dict):
        return Malformed(f"{at}not an object")
    # The name itself is the caller's text, and may be a person's.
    return Malformed(f"{at}unknown field: the fields are {', '.join(sorted(known))}")
