"""The synthetic gallery: people who never were, under documents that nobody holds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta

from stdnum.cn import ric

from engine.accuracy.population import Population
from engine.matching.admission import admit_references
from engine.matching.documents import Document
from engine.matching.registrar import Registrar
from engine.registry.vault import Vault

SEED = 1
_AREA = "110101"
_FIRST_BIRTHDAY = date(1801, 1, 1)
"""Resident numbers began in 1984: one with this birthday is well-formed and nobody's."""
_NUMBERS_A_DAY = 1_000


def make_document(serial: int, name: str) -> Document:
    """A well-formed Chinese resident identity number (GB 11643) for each serial from 0."""
    days, order = divmod(serial, _NUMBERS_A_DAY)
    body = f"{_AREA}{_FIRST_BIRTHDAY + timedelta(days):%Y%m%d}{order:03d}"
    return Document("cn-ric", body + ric.calc_check_digit(f"{body}0"), name)


def forge_document(serial: int, name: str) -> Document:
    """The same number with a wrong last digit: no authority would have given it out."""
    sound = make_document(serial, name)
    wrong = "1" if sound.number[-1] != "1" else "2"
    return Document(sound.type, sound.number[:-1] + wrong, name)


def admit_crowd(
    registrar: Registrar,
    vault: Vault,
    population: Population,
    size: int,
    report: Callable[[int, int], None],
) -> None:
    """Admits `size` references drawn from the model's own statistics, rotated like real ones."""
    vectors = vault.rotate(population.references(size, SEED))
    documents = [make_document(serial, f"Synthetic {serial:05d}") for serial in range(size)]
    registrar.run(
        lambda writer, now: admit_references(
            writer,
            registrar.gallery,
            documents,
            vectors,
            actor="demo",
            on=now.date(),
            report=report,
        )
    )
