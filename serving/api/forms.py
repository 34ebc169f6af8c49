"""Forms (multipart/form-data): files beside one part `request`, the JSON of the rest.

Everything stays in memory: a face never lies in the clear on a disk.
"""

from __future__ import annotations

from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serving.api.codec import decode_json
from serving.refusals import Malformed

REQUEST_PART = "request"
MAX_PARTS = 600
MAX_PART_HEADERS = 8
MAX_HEADER_BYTES = 1024
MAX_DEPTH = 4


def decode_form(content_type: str, body: bytes) -> Any:
    """The object of the part `request`, with the bytes of each other part at its name.

    A name may be a path into the object: `probe.image`, `items.3.probe.image`. `Malformed` where
    a form cannot be read or names one value twice.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:
        raise Malformed("the form names no boundary of 1 to 70 characters in its Content-Type")
    parts = _PartReader()
    parser = MultipartParser(
        boundary,
        callbacks={
            "on_part_begin": parts.begin,
            "on_part_data": parts.add,
            "on_part_end": parts.end,
            "on_header_field": parts.add_field,
            "on_header_value": parts.add_value,
            "on_header_end": parts.end_header,
            "on_end": parts.finish,
        },
        max_header_count=MAX_PART_HEADERS,
        max_header_size=MAX_HEADER_BYTES,
    )
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError:
        parts.is_whole = False
    if not parts.is_whole:
        raise Malformed("the form is not whole: check its boundary and its parts")
    return _compose(parts.found)


def _compose(parts: list[tuple[str, bytes]]) -> Any:
    written = [data for name, data in parts if name == REQUEST_PART]
    if len(written) > 1:
        raise Malformed("the form has several parts named request: send one")
    value = decode_json(written[0]) if written else {}
    if not isinstance(value, dict):
        raise Malformed("the part request is not a JSON object")
    for name, data in parts:
        if name != REQUEST_PART:
            _place(value, name, data)
    return value


def _place(root: dict[str, Any], name: str, data: bytes) -> None:
    *steps, last = name.split(".", MAX_DEPTH)
    holder: Any = root
    for step in steps:
        if isinstance(holder, dict):
            holder = holder.setdefault(step, {})
        elif isinstance(holder, list) and step.isdecimal() and int(step[:6]) < len(holder):
            holder = holder[int(step[:6])]
        else:
            holder = None
    if not isinstance(holder, dict) or last in holder:
        raise Malformed("a part of the form has a name that is taken, or no place in the request")
    holder[last] = data


class _PartReader:
    """Collects the parts of one form; the parser's callbacks."""

    def __init__(self) -> None:
        self.found: list[tuple[str, bytes]] = []
        self.is_whole = False
        self._begin_part()

    def _begin_part(self) -> None:
        self._name: str | None = None
        self._chunks: list[bytes] = []
        self._field = self._value = b""

    def begin(self) -> None:
        if len(self.found) >= MAX_PARTS:
            raise Malformed(f"the form has more than {MAX_PARTS} parts")
        self._begin_part()

    def add(self, data: bytes, start: int, end: int) -> None:
        self._chunks.append(data[start:end])

    def end(self) -> None:
        if self._name is None:
            raise Malformed("a part of the form has no name in its Content-Disposition")
        self.found.append((self._name, b"".join(self._chunks)))

    def finish(self) -> None:
        self.is_whole = True

    def add_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def end_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            name = parse_options_header(self._value)[1].get(b"name", b"")
            try:
                self._name = name.decode()
            except UnicodeDecodeError:
                raise Malformed("a part of the form has a name that is no text") from None
        elif self._field.lower() == b"content-transfer-encoding" and self._value.lower() not in {
            b"binary",
            b"8bit",
        }:
            raise Malformed("a part of the form has a Content-Transfer-Encoding: send it as it is")
        self._field = self._value = b""
