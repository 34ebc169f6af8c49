"""Compares two OpenAPI documents: what of the old one a client can rely on no more.

    python .ci/openapi_changes.py OLD.json          # against the document of this checkout
    python .ci/openapi_changes.py --write OLD.json  # keeps this checkout's as the next old one

What may only grow: operations, optional parameters and fields of requests, fields of answers, the
values that an answer may have, types of bodies. All else is told, a line each, and exits with 1.
"""

from __future__ import annotations

import json
import operator
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Json = Mapping[str, Any]

UNSAID = frozenset({"description", "summary", "examples", "tags", "title", "default"})
"""What no client's code depends on; `default` of a request is told by its field being optional."""
_NAMED = frozenset({"properties", "schemas", "headers", "paths"})
_ERRORS = frozenset(map(str, range(401, 600)))
_LIMITS = {
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems"), operator.gt),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems"), operator.lt),
    **dict.fromkeys(("pattern", "format", "contentEncoding", "const"), operator.ne),
}
"""By which a limit is tighter than another."""
_WIDER = {"number": {"integer", "number"}}
_ANYTHING = "anything"
_WORDS = {str: "string", int: "integer", bool: "boolean", float: "number", type(None): "null"}


class Comparison:
    """Two documents, and what of the old one the new one does not keep."""

    def __init__(self, old: Json, new: Json) -> None:
        self._old, self._new = old, new
        self._found: dict[tuple[str, str, bool], list[str]] = {}
        """Of two named schemas, compared once; of those that are being compared nothing yet."""

    def list_breaks(self) -> list[str]:
        """One line for each, in the order of the old document; empty where the new only grows."""
        return list(dict.fromkeys(self._compare_paths()))

    def _compare_paths(self) -> Iterator[str]:
        for path, methods in self._old["paths"].items():
            for method, old in methods.items():
                place = f"{method.upper()} {path}"
                new = self._new["paths"].get(path, {}).get(method)
                if new is None:
                    yield f"{place}: the operation is gone"
                    continue
                if new["operationId"] != old["operationId"]:
                    yield f"{place}: is named {new['operationId']}, was {old['operationId']}"
                yield from self._compare_security(place, old, new)
                yield from self._compare_parameters(place, old, new)
                yield from self._compare_body(place, old, new)
                yield from self._compare_answers(place, old, new)

    @staticmethod
    def _compare_security(place: str, old: Json, new: Json) -> Iterator[str]:
        before, after = old.get("security", []), new.get("security", [])
        if after and not before:
            yield f"{place}: needs a key now"
        elif after and any(way not in after for way in before):
            yield f"{place}: a way to send the key is gone"

    def _compare_parameters(self, place: str, old: Json, new: Json) -> Iterator[str]:
        before, after = (
            {(one["in"], one["name"]): one for one in of.get("parameters", ())} for of in (old, new)
        )
        for key, parameter in before.items():
            name = f"{place}, {key[0]} {key[1]}"
            if key not in after:
                yield f"{name}: the parameter is gone"
                continue
            if after[key].get("required") and not parameter.get("required"):
                yield f"{name}: is required now"
            yield from self._compare(name, parameter["schema"], after[key]["schema"])
        for key, parameter in after.items():
            if key not in before and parameter.get("required"):
                yield f"{place}, {key[0]} {key[1]}: a new parameter is required"

    def _compare_body(self, place: str, old: Json, new: Json) -> Iterator[str]:
        before, after = old.get("requestBody"), new.get("requestBody")
        if after is not None and after.get("required") and not (before or {}).get("required"):
            yield f"{place}: a body is required now"
        if before is None:
            return
        for kind, body in before["content"].items():
            name = f"{place}, request as {kind}"
            if kind not in (after or {}).get("content", {}):
                yield f"{name}: is taken no more"
                continue
            assert after is not None
            yield from self._compare(name, body["schema"], after["content"][kind]["schema"])

    def _compare_answers(self, place: str, old: Json, new: Json) -> Iterator[str]:
        for status in new["responses"]:
            if status.startswith("2") and status not in old["responses"]:
                yield f"{place}: may answer {status} now, which no old client awaits"
        for status, before in old["responses"].items():
            name, after = f"{place}, answer {status}", new["responses"].get(status)
            if after is None:
                if status.startswith("2"):
                    yield f"{name}: is gone"
                continue
            for header in before.get("headers", {}):
                if header not in after.get("headers", {}):
                    yield f"{name}, header {header}: is gone"
            for kind, body in before.get("content", {}).items():
                if kind not in after.get("content", {}):
                    yield f"{name} as {kind}: is gone"
                    continue
                then, now = body["schema"], after["content"][kind]["schema"]
                yield from self._compare(name, then, now, is_answer=True)

    def _compare(self, place: str, old: Json, new: Json, *, is_answer: bool = False) -> list[str]:
        """What a client that knows `old` sends or reads in vain.

        What is sent has to be taken as before, what is read has to be within what was told.
        """
        if "$ref" not in old or "$ref" not in new:
            return list(self._compare_types(place, old, new, is_answer=is_answer))
        key = (old["$ref"], new["$ref"], is_answer)
        if key not in self._found:
            self._found[key] = []
            name = key[0].rpartition("/")[2] + (" in answers" if is_answer else " in requests")
            self._found[key] = list(self._compare_types(name, old, new, is_answer=is_answer))
        return self._found[key]

    def _compare_types(self, place: str, old: Json, new: Json, *, is_answer: bool) -> Iterator[str]:
        given, taken = _alternatives(old, self._old), _alternatives(new, self._new)
        if is_answer:
            given, taken = taken, given
        for one in given:
            found = [
                list(self._fit(place, one, other, is_answer=is_answer))
                for other in taken
                if _ANYTHING in _types(other) or _types(one) <= _types(other)
            ]
            if found:
                yield from min(found, key=len)
            else:
                types = "/".join(sorted(_types(one)))
                yield f"{place}: {'may be' if is_answer else 'can no longer be'} {types}"

    def _fit(self, place: str, given: Json, taken: Json, *, is_answer: bool) -> Iterator[str]:
        """What of the values of `given` does not fit into `taken`, told in terms of the API."""
        yield from _compare_values(place, given, taken, is_answer=is_answer)
        yield from _compare_limits(place, given, taken, is_answer=is_answer)
        for name in ("items", "additionalProperties"):
            inner, outer = given.get(name), taken.get(name)
            old, new = (outer, inner) if is_answer else (inner, outer)
            if isinstance(old, Mapping) and isinstance(new, Mapping):
                yield from self._compare(f"{place}.{name}", old, new, is_answer=is_answer)
            elif name == "additionalProperties" and new is False and old is not False:
                yield f"{place}: takes no further fields"
        yield from self._compare_fields(place, given, taken, is_answer=is_answer)

    def _compare_fields(
        self, place: str, given: Json, taken: Json, *, is_answer: bool
    ) -> Iterator[str]:
        old, new = (taken, given) if is_answer else (given, taken)
        fields = new.get("properties", {})
        for name, schema in old.get("properties", {}).items():
            if name not in fields:
                yield f"{place}.{name}: the field is gone"
            else:
                yield from self._compare(
                    f"{place}.{name}", schema, fields[name], is_answer=is_answer
                )
        for name in taken.get("required", ()):
            if name not in given.get("required", ()) and (name in fields or not is_answer):
                word = "may be missing now" if is_answer else "is required now"
                yield f"{place}.{name}: {word}"


def _alternatives(schema: Json, document: Json) -> list[Json]:
    if "$ref" in schema:
        found: Any = document
        for step in schema["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        return _alternatives(found, document)
    choices = schema.get("anyOf", schema.get("oneOf"))
    if choices is None:
        return [schema]
    return [one for choice in choices for one in _alternatives(choice, document)]


def _types(schema: Json) -> set[str]:
    kind = schema.get("type")
    if isinstance(kind, str):
        return _WIDER.get(kind, {kind})
    if isinstance(kind, list):
        return set().union(*(_WIDER.get(one, {one}) for one in kind))
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    return {_ANYTHING} if values is None else {_WORDS[type(one)] for one in values}


def _compare_values(place: str, given: Json, taken: Json, *, is_answer: bool) -> Iterator[str]:
    # An answer's values may grow, as its fields may: clients are told so.
    before, after = (taken, given) if is_answer else (given, taken)
    if "enum" in before and "enum" in after:
        gone = [one for one in before["enum"] if one not in after["enum"]]
        if gone:
            yield f"{place}: no more {', '.join(map(str, gone))}"
    elif "enum" in after and not is_answer:
        yield f"{place}: takes only some values now"


def _compare_limits(place: str, given: Json, taken: Json, *, is_answer: bool) -> Iterator[str]:
    for name, is_tighter in _LIMITS.items():
        if name in taken and (name not in given or is_tighter(taken[name], given[name])):
            old, new = (taken, given) if is_answer else (given, taken)
            yield f"{place}: {name} is {new.get(name, 'none')}, was {old.get(name, 'none')}"


def shorten(value: Any, *, is_named: bool = False) -> Any:
    """The document without what no client's code depends on. All errors have one shape: of their
    answers one stays."""
    if isinstance(value, Mapping):
        return {
            key: shorten(one, is_named=key in _NAMED)
            for key, one in value.items()
            if is_named or key not in UNSAID
            if not (key in _ERRORS and isinstance(one, Mapping) and "description" in one)
        }
    return [shorten(one) for one in value] if isinstance(value, list) else value


def write(document: Json) -> str:
    """As JSON with a line for each operation and schema: two changes seldom meet in one."""
    lines = []
    for part in ("paths", "components"):
        inner = document[part] if part == "paths" else document[part]["schemas"]
        rows = (f"{json.dumps(key)}: {json.dumps(inner[key], sort_keys=True)}" for key in inner)
        lines.append(",\n".join(rows))
    paths, schemas = lines
    return f'{{"paths": {{\n{paths}\n}}, "components": {{"schemas": {{\n{schemas}\n}}}}}}\n'


def main(arguments: list[str]) -> int:
    from serving.api.openapi import build_document  # noqa: PLC0415

    new = shorten(build_document("1"))
    path = Path(arguments[-1])
    if "--write" in arguments:
        path.write_text(write(new), "utf-8")
        return 0
    breaks = Comparison(json.loads(path.read_text("utf-8")), new).list_breaks()
    print("\n".join(breaks) or "the document only grows")  # noqa: T201
    return bool(breaks)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
