"""Links between documents, made from pairs of references."""

import numpy as np

from engine.sweeps.clustering import LinkTable, Owners, link_documents
from engine.sweeps.sweep_run import number_exceptions
from indexes.joining import RECORD, Records

NO_PAIRS = np.empty((0, 2), np.int64)


def pairs(*rows: tuple[int, int, float]) -> Records:
    return np.array(list(rows), RECORD)


def owners(**documents: list[int]) -> Owners:
    """References by document, as `d7=[1, 2]`."""
    listed = sorted((key, int(name[1:])) for name, keys in documents.items() for key in keys)
    return Owners(
        np.array([key for key, _ in listed], np.int64),
        np.array([number for _, number in listed], np.int64),
    )


def rows_of(links: LinkTable) -> list[tuple[int, int, float]]:
    return [(left, right, round(score, 4)) for left, right, score in links.tolist()]


def test_several_pairs_of_two_documents_are_one_link_with_the_highest_score() -> None:
    known = owners(d2=[10, 11], d1=[12])
    links = link_documents(pairs((10, 12, 0.7), (11, 12, 0.9)), known, NO_PAIRS)
    assert rows_of(links) == [(1, 2, 0.9)]


def test_exceptions_are_found_by_a_reference_and_those_of_erased_documents_left_out() -> None:
    known = owners(d1=[10], d2=[11, 14], d3=[12])
    judged = {("a", "b"), ("a", "erased"), ("b", "stale")}
    # Of "a" a reference is named that this part of the registry lacks.
    references = {"a": (7, 10), "b": (11, 14), "erased": (), "stale": (99,)}
    assert number_exceptions(judged, references, known).tolist() == [[1, 2]]
    assert number_exceptions(set(), {}, known).shape == (0, 2)
