"""Faces and documents that an enrollment must not pass unseen."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable

import numpy as np

from engine.registry.records import WatchEntry
from indexes.flat import FlatIndex
from indexes.gallery import Found, Gallery


class WatchList:
    """The watch-list in memory; its faces are searched like a gallery of their own."""

    def __init__(self, dim: int, entries: Iterable[WatchEntry] = ()) -> None:
        self._faces = Gallery(FlatIndex(dim))
        self._documents: dict[int, bytes] = {}
        # How many entries name a document: every attempt asks, so asking must not walk the list.
        self._named: Counter[bytes] = Counter()
        self._lock = threading.Lock()
        for entry in entries:
            self.add(entry)

    def __len__(self) -> int:
        return len(self._faces.ids) + len(self._documents)

    def add(self, entry: WatchEntry) -> None:
        """Takes in an entry that is committed."""
        with self._lock:
            if entry.template is not None:
                ids = np.array([entry.id], dtype=np.int64)
                self._faces.add(ids, entry.template[None], self._faces.sequence + 1)
            if entry.document_lookup is not None:
                self._documents[entry.id] = entry.document_lookup
                self._named[entry.document_lookup] += 1

    def remove(self, entry_id: int) -> None:
        """Forgets an entry; an unknown id is nothing to forget."""
        with self._lock:
            lookup = self._documents.pop(entry_id, None)
            if lookup is not None:
                self._named[lookup] -= 1
            if entry_id in self._faces:
                ids = np.array([entry_id], dtype=np.int64)
                self._faces.remove(ids, self._faces.sequence + 1)

    def search(self, probes: np.typing.NDArray[np.float32], threshold: float) -> Found:
        """Watched faces at or above the threshold, for each probe float32[d] of a batch."""
        return self._faces.range_search(probes, threshold)

    def has_document(self, lookup: bytes | None) -> bool:
        with self._lock:
            return lookup is not None and self._named.get(lookup, 0) > 0
