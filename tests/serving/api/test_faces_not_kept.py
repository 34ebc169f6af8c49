"""Of a carrier that keeps no face nothing of one is written: every byte is looked at."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.faces.extractor import Extraction
from engine.matching.checks.order import replay
from engine.matching.comparison import fuse_vectors
from engine.registry.vault import Vault
from schema.options import CarrierPeople, CropPolicy, PeopleRules
from schema.phases import CropScope
from serving.api.body import JSON, MSGPACK
from tests.serving.api.test_people_apart import card
from tests.tables import tables

SHOWN, WORD, RANDOM = ("live", "portrait"), 8, np.random.default_rng(31)
NONE = PeopleRules(carriers={"blue": CarrierPeople(keep_faces="none")})


class Traces:
    """Short pieces of all that could give a face away, by what they are of: of its middle, for
    heads are alike, and a database cuts what is long."""

    def __init__(self, given: dict[str, list[bytes]]) -> None:
        self._kinds: dict[bytes, str] = {}
        for kind, data in ((kind, one) for kind, every in given.items() for one in every):
            for one in (data, *(base64.b64encode(data[start:])[3:] for start in range(3))):
                for place in (len(one) // 3, len(one) // 2):
                    self._kinds[one[place : place + WORD]] = kind
        self._words = np.sort(np.frombuffer(b"".join(self._kinds), np.uint64))

    def find(self, data: bytes) -> set[str]:
        found: set[str] = set()
        for start in range(min(WORD, len(data) - WORD + 1)):
            words = np.frombuffer(data, np.uint64, (len(data) - start) // WORD, start)
            places = np.searchsorted(self._words, words).clip(max=len(self._words) - 1)
            hits = np.unique(words[self._words[places] == words])
            found |= {self._kinds[one.tobytes()] for one in hits}
        return found


def take(dim: int) -> dict[bytes, Extraction]:
    """Two photographs of a synthetic person, and what an extractor makes of each."""
    face, taken = RANDOM.standard_normal(dim), {}
    for _ in SHOWN:
        file = io.BytesIO()
        Image.fromarray(RANDOM.integers(0, 256, (96, 64, 3), np.uint8)).save(file, "JPEG")
        vector = face + 0.3 * RANDOM.standard_normal(dim)
        vector = (vector / np.linalg.norm(vector)).astype(np.float32)
        crop = RANDOM.integers(0, 256, (112, 112, 3), np.uint8)
        taken[file.getvalue()] = Extraction((64, 96), (), vector=vector, crop=crop)
    return taken


def list_traces(vault: Vault, people: list[dict[bytes, Extraction]]) -> Traces:
    given: dict[str, list[bytes]] = {"photograph": [], "crop": [], "vector": [], "rotated": []}
    for taken in people:
        plain = np.stack([one.vector for one in taken.values() if one.vector is not None])
        given["photograph"] += taken
        given["crop"] += [one.crop.tobytes() for one in taken.values() if one.crop is not None]
        for kind, shown in (("vector", plain), ("rotated", vault.rotate(plain))):
            for width in (np.float16, np.float32, np.float64):
                rows = [row.astype(width) for row in (*shown, fuse_vectors(*shown))]
                given[kind] += [row.tobytes() for row in rows]
    return Traces(given)


def read_home(service: Any) -> Iterator[bytes]:
    """Every file of the home, its log too, and every value of every table, the outbox too."""
    home = service.log_file.parent
    yield from (one.read_bytes() for one in sorted(home.rglob("*")) if one.is_file())
    for table in vars(tables).values():
        for row in service.parts.store.rows(table.select()):
            yield from (str(one).encode() if not isinstance(one, bytes) else one for one in row)


@pytest.mark.parametrize(("count", "is_kept"), [(200, False), (20, True)])
def test_nothing_of_a_face_is_written_anywhere_unless_faces_are_kept(
    start_service, extractor, activation, monkeypatch, count: int, is_kept: bool
) -> None:
    rules = PeopleRules() if is_kept else NONE
    service = start_service(people=rules, crops=CropPolicy(CropScope.ALL))
    people = [take(service.parts.vault.dim) for _ in range(count)]
    known = {picture: made for taken in people for picture, made in taken.items()}
    monkeypatch.setattr(extractor, "extract", lambda shown, *_: [known[bytes(it)] for it in shown])
    traces = list_traces(service.parts.vault, people)
    assert traces.find(b"".join(known)) == {"photograph"}
    sealed: dict[str, list[bytes]] = {"vector": [], "picture": []}
    seal = Vault._seal

    def note(self: Vault, context: bytes, data: bytes) -> bytes:
        made = seal(self, context, data)
        # A crop is encoded once more: whatever picture is sealed.
        if (is_picture := data.startswith(b"\xff\xd8")) or traces.find(data):
            sealed["picture" if is_picture else "vector"].append(made)
        return made

    monkeypatch.setattr(Vault, "_seal", note)
    answers = []
    for place, pictures in enumerate(people):
        more = {"document": card(place), "msisdn": f"+86138001{place:05d}"}
        body = activation(**dict(zip(SHOWN, pictures, strict=True)), **more)
        kind = (JSON, MSGPACK, "form")[place % 3]
        answers.append(service.enroll(body, f"key-{place}", kind=kind))
        if place % 20 == 0:
            # A repeated call, another's face, and an answer that people are asked about.
            mixed = body | {"portrait": [*people[place - 1]][1]}
            renamed = body | {"document": card(place) | {"name": "Another Name"}}
            asked = {"key": body, "mixed": mixed, "renamed": renamed}
            answers += [service.enroll(one, f"{key}-{place}") for key, one in asked.items()]
    told = [service.read(one) for one in answers]
    approved = [one["reasons"] for one in told if one["decision"] == "approved"]
    assert len(approved) == count + count // 20
    reasons = [] if is_kept else ["NOT_SEARCHED"]
    assert all([finding["reason"] for finding in one] == reasons for one in approved)
    assert all((one["folio"] is None) is is_kept for one in told)
    read = service.parts.store.enrollment
    assert all(replay(read(one["enrollment_id"])).agrees for one in told)
    assert all(bool(one) is is_kept for one in sealed.values())
    every = [*read_home(service), *(one.content for one in answers)]
    assert not any(map(traces.find, every))
    if is_kept:
        assert set[str]().union(*map(Traces(sealed).find, every)) == set(sealed)
    assert service.run(service.registrar.status()).gallery_size == 1 + count * is_kept


def test_a_holder_comes_again_with_the_documents_portrait_and_is_asked_for_no_stored_face(
    start_service, activation, faces
) -> None:
    service = start_service(people=NONE)
    body = activation(document=card(1))
    opened = service.read(service.enroll(body, "first"))
    assert (opened["decision"], opened["folio"]["number"]) == ("approved", opened["enrollment_id"])
    record = service.read(service.ask("GET", f"/v1/enrollments/{opened['enrollment_id']}"))
    assert (record["is_face_kept"], record["quality"], record["frames"]) == (False, {}, [])
    shown = {name: card(1)[name] for name in ("type", "number")}
    probe, portrait = {"image": faces["stranger"]}, {"image": faces["stranger_again"]}

    def verify(key: str = "blue", **asked: Any) -> Any:
        given = {"probe": probe, "line": body["msisdn"], "document": shown} | asked
        given = {name: one for name, one in given.items() if one is not None}
        return service.ask("POST", "/v1/verifications", body=given, key=key)

    told = service.read(verify(portrait=portrait))
    assert (told["is_match"], told["score"], told["line_id"]) == (True, None, opened["line_id"])
    assert service.read(verify(portrait=portrait, line=None))["is_match"]
    assert not service.read(verify(portrait={"image": faces["portrait"]}))["is_match"]
    other = verify(portrait=portrait, document=shown | {"number": card(2)["number"]})
    service.assert_refused(other, 404, "REQUEST.NOT_FOUND")
    service.assert_refused(verify(portrait=portrait, key="red"), 400, "REQUEST.INVALID")
    assert service.parts.store.rows(tables.cases.select()) == []
    # What needs a face on file, or keeps one, has a code of its own.
    calls = (
        ("verifications", {"probe": probe, "line": body["msisdn"]}),
        ("lines/query", {"probe": probe, "document": shown}),
        ("match", {"items": [{"probe": probe, "search": True}]}),
        ("templates", {"items": [probe]}),
    )
    refused = [service.ask("POST", f"/v1/{path}", body=asked) for path, asked in calls]
    refused.append(service.enroll(activation(document=card(2), replaces=shown), "moved"))
    for one in refused:
        service.assert_refused(one, 403, "FACES.NOT_KEPT")
