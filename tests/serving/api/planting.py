"""People who are in a gallery before a service starts, some under several documents."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stdnum.cn import ric

from engine.matching.bulk_enrollment import admit_references
from schema.documents import Document
from serving.deployment.deployment import Deployment
from serving.settings.settings import load_settings

DIM = 128


def resident_number(serial: int) -> str:
    """A well-formed number of its own for each serial below 2,800."""
    body = f"1101051970{serial // 280 % 10 + 1:02d}{serial // 10 % 28 + 1:02d}{serial % 10:03d}"
    return body + str(ric.calc_check_digit(body + "0"))


def plant(home: Path, identities: list[int], seed: int = 5) -> NDArray[np.float32]:
    """One person for each number, under so many documents; their faces float32[n, DIM].

    References of one person score about 0.9, those of strangers near 0.
    """
    random = np.random.default_rng(seed)
    people = _unit(random.standard_normal((len(identities), DIM)))
    owners = np.repeat(np.arange(len(identities)), identities)
    vectors = _unit(people[owners] + 0.03 * random.standard_normal((len(owners), DIM)))
    documents = [
        Document("cn-ric", resident_number(serial), f"Holder {serial}")
        for serial in range(len(owners))
    ]
    with Deployment(home, load_settings(home)) as deployment:
        admit_references(deployment.registrar, documents, vectors, "test")
    return people


def _unit(rows: NDArray[Any]) -> NDArray[np.float32]:
    units: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(
        np.float32
    )
    return units
