"""Deployments to serve: so many references, a carrier with an outlet, keys to call with."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bench.datasets import open_pairs
from bench.suites.workload import CARRIER, add_outlet, admit_holders, make_document
from engine.accuracy.population import Population
from engine.registry.accounts import ApiKey
from engine.registry.database import utc_now
from schema.actors import Role
from schema.documents import Document
from serving.access.authentication import make_key
from serving.access.authorization import Principal, tenant_of
from serving.deployment.deployment import Deployment, create_home
from serving.ingress.parts import SealedTemplates
from serving.settings.settings import Settings, load_settings

LINE_LIMIT = 1_000_000
"""People come back for more lines as long as a load goes on."""
CALLER = Principal(key_id="bench", role=Role.CARRIER, carrier=CARRIER)
"""Whose key a home has; templates are bound to such a caller's tenant."""
SEARCHER = Principal(key_id="bench", role=Role.FRAUD, person="bench")
"""Who searches: a carrier would find its own holders alone."""
Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Home:
    """A deployment that no process has open; `key` is of the role carrier, `search_key` of the role
    fraud."""

    path: Path
    references: int
    seed: int
    key: str = field(repr=False)
    search_key: str = field(repr=False)

    def copy(self, name: str) -> Self:
        """The same deployment once more, beside this one."""
        path = self.path.with_name(name)
        shutil.copytree(self.path, path)
        return replace(self, path=path)

    @contextmanager
    def open(self) -> Iterator[Deployment]:
        """In this process, without a service."""
        with Deployment(self.path, load_settings(self.path)) as deployment:
            yield deployment

    def issue(self, faces: Vectors, caller: Principal = CALLER) -> list[bytes]:
        """Templates of unit rows float32[n, d], not rotated, as the service issues them."""
        with self.open() as deployment:
            settings = deployment.settings.serve
            templates = SealedTemplates(
                deployment.vault, deployment.store.model_digest, settings.template_ttl_h
            )
            return templates.issue(deployment.vault.rotate(faces), tenant_of(caller))


UNBOUNDED = {
    "serve": {"rate_limit": 0, "key_share": 1},
    "limits": {
        "holder_failures": 0,
        "holder_shown": 0,
        "outlet_key_failures": 0,
        "key_failures": 0,
        "searched_faces": 0,
    },
}
"""One key asks for all: bounds by key would measure themselves."""


def make_home(path: Path, references: int, seed: int) -> Home:
    """A new deployment with `references` synthetic people, entered by admission."""
    create_home(path, Settings(), UNBOUNDED)
    with Deployment(path, load_settings(path)) as deployment:
        add_outlet(deployment.store, LINE_LIMIT)
        keys = [_add_key(deployment, one) for one in (CALLER, SEARCHER)]
        if references:
            admit_holders(deployment, Population.load("sface").references(references, seed))
    return Home(path, references, seed, *keys)


def _add_key(deployment: Deployment, caller: Principal) -> str:
    made = make_key(deployment.vault)
    fields = (made.id, made.digest, caller.role.value, caller.carrier, None, utc_now())
    row = ApiKey(*fields, label="bench", person=caller.person)
    deployment.store.add_api_key(row, actor="bench")
    return made.text


FIRST_SERIAL = 5_000_000
"""Of the documents of photographed people: synthetic ones come before."""


@dataclass(frozen=True, slots=True)
class Person:
    """Someone with a document and two photographs, which are files as a camera writes them."""

    document: Document = field(repr=False)
    live: bytes = field(repr=False)
    portrait: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Visitors:
    """People who enroll."""

    people: tuple[Person, ...]
    source: str

    def __len__(self) -> int:
        return len(self.people)


def draw_people(faces: Path | None, count: int, seed: int) -> Visitors:
    """Up to `count` different people of a folder in LFW's layout, two photographs each.

    Without photographs: portraits of one face, which costs the same work.
    """
    with open_pairs(faces, count, seed) as drawn:
        people = tuple(
            Person(make_document(FIRST_SERIAL + place), one.read_bytes(), other.read_bytes())
            for place, (one, other) in enumerate(dict.fromkeys(drawn.pairs))
        )
    return Visitors(people, drawn.source)
