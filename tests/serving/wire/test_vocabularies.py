"""No vocabulary of the wire, the client or the console differs from the engine's."""

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import EnumType
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest

import schema
import serving.wire
from schema.documents import DOCUMENT_TYPES

ROOT = Path(__file__).parents[3]
CONSOLE = ROOT / "serving/console"
MODULES = [
    importlib.import_module(f"serving.wire.{one.name}")
    for one in pkgutil.iter_modules(serving.wire.__path__)
]
# Parts of a vocabulary, and the words that are left out: of a word that the engine adds somebody
# says on which side it stands.
PARTS: Mapping[str, str] = MappingProxyType(
    {
        "newest oldest": "risk due score",
        "active paused": "gone",
        "observe required": "off",
        "suspended_outgoing suspended closed": "pending active disputed",
        "device_change esim_download opening_approved port_in port_out sim_swap transfer": "closed "
        "disputed overdue pending restored reverified reverify_asked reverify_failed suspended "
        "suspended_outgoing unsuspended",
        "open assigned proposed closed": "merged",
        "pending suspended_outgoing suspended": "active closed disputed",
        "queued running paused": "done cancelled failed",
        "outlet carrier fraud operator": "metrics",
    }
)
# Vocabularies that no enumeration of the engine has.
OTHERS = (
    "asked granted refused",
    # Causes of an exception, and ways beside a face.
    "condition injury disability age not_shown portrait_unreadable mobile_id register_extract "
    "certificate wallet not_kept renewed_consent first_face",
    "observe enforce",
    "propose close",
    "live spoof uncertain none",
    "listed http none",
    "none pending done shared",
    "probe reference",
    "in_force expired revoked outlet_closed",
    "reported confirmed lifted",
    "en zh ko",
)
# Words that answers and questions have beside the engine's.
MORE = {"WITHHELD", "alive", "fraud_in_use"}

Found = Iterable[tuple[str, frozenset[str]]]


def parse(pattern: str) -> Iterator[tuple[Path, ast.AST]]:
    for path in ROOT.glob(pattern):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            yield path, node


def find_strings(node: ast.AST) -> frozenset[str]:
    found = (one.value for one in ast.walk(node) if isinstance(one, ast.Constant))
    return frozenset(one for one in found if isinstance(one, str))


@cache
def find_enumerations() -> set[frozenset[str]]:
    """By their values; one with more in a row has the value first."""
    found: set[frozenset[str]] = {frozenset(DOCUMENT_TYPES)}
    for one in pkgutil.iter_modules(schema.__path__):
        members = vars(importlib.import_module(f"schema.{one.name}")).values()
        found |= {frozenset(kind) for kind in members if isinstance(kind, EnumType) and list(kind)}
    for package in ("engine", "serving"):
        for _, node in parse(f"{package}/**/*.py"):
            if isinstance(node, ast.ClassDef) and "Enum" in "".join(map(ast.unparse, node.bases)):
                rows = [one.value for one in node.body if isinstance(one, ast.Assign)]
                first = [one.elts[0] if isinstance(one, ast.Tuple) else one for one in rows]
                found.add(frozenset().union(*map(find_strings, first)))
    return found


def find_in_type(kind: Any) -> Iterator[frozenset[str]]:
    if isinstance(kind, EnumType):
        yield frozenset(kind)
    elif get_origin(kind) is Literal:
        yield frozenset(one for one in get_args(kind) if isinstance(one, str))
    else:
        for one in get_args(kind):
            yield from find_in_type(one)
    for meta in getattr(kind, "__metadata__", ()):
        yield frozenset((getattr(meta, "extra_json_schema", None) or {}).get("enum", ()))


def find_in_wire() -> Found:
    for module in MODULES:
        for name, one in vars(module).items():
            if inspect.isclass(one) and issubclass(one, msgspec.Struct):
                for field, kind in get_type_hints(one, include_extras=True).items():
                    for found in find_in_type(kind):
                        yield f"{module.__name__}.{name}.{field}", found


def find_in_client() -> Found:
    for path, node in parse("serving/client/*.py"):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
            yield f"{path.name}:{node.lineno}", find_strings(node.slice)


def find_in_console() -> Found:
    """Lists and keys of which most are words of one vocabulary of the wire, and words of none that
    a field is compared with."""
    wire = {words for _, words in find_in_wire()}
    fields = "kind|state|status|decision|outcome|role|reason|scope|ground|comparison|photograph"
    for path in CONSOLE.rglob("*.js"):
        text = path.read_text("utf-8")
        lists = re.findall(r'\[((?:"[\w.]+",?\s*){2,})\]', text)
        found = [re.findall(r'"([^"]+)"', one) for one in lists]
        keys = re.findall(r"= \{\n((?:  \w+: .*\n)+)\}", text)
        found += [re.findall(r"^  (\w+):", one, re.MULTILINE) for one in keys]
        for words in map(frozenset, found):
            if any(len(words & one) > max(1, len(words) // 2) for one in wire):
                yield path.name, words
        for word in re.findall(rf'\.(?:{fields}) [!=]== "(\w+)"', text):
            if not any(word in one for one in find_enumerations()):
                yield path.name, frozenset({word, "in no enumeration"})


PLACES: Mapping[str, Callable[[], Found]] = MappingProxyType(
    {"wire": find_in_wire, "client": find_in_client, "console": find_in_console}
)


@pytest.mark.parametrize("place", PLACES)
def test_every_vocabulary_is_one_of_the_engines(place: str) -> None:
    founds, enumerations = list(PLACES[place]()), find_enumerations()
    allowed = {*enumerations, *map(frozenset, map(str.split, (*PARTS, *OTHERS)))}
    strangers = {
        (where, words - MORE)
        for where, found in founds
        if len((words := frozenset(one.replace(" ", "_") for one in found)) - MORE) > 1
        and words - MORE not in allowed
    }
    assert strangers == set()
    # The client has none of its own, the console few: they take the schema's.
    least = {"client": 0, "console": 1}.get(place, 4)
    assert sum(words in enumerations for _, words in founds) >= least


def test_a_part_and_what_it_leaves_out_are_the_whole() -> None:
    for part, rest in PARTS.items():
        assert {*part.split(), *rest.split()} in find_enumerations(), part
    found = {one for find in PLACES.values() for _, one in find()}
    spaced = {frozenset(one.replace(" ", "_") for one in words) for words in found}
    assert {one for one in (*PARTS, *OTHERS) if frozenset(one.split()) not in spaced} == set()
