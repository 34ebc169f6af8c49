"""The items of a match call by column, as they are extracted and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from serving.wire.matching import Face, MatchItem


@dataclass(slots=True)
class MatchBatch:
    """The items of one match call, by column.

    `faces` are image files and templates as they came, `images` the places of the files among
    them; `probes` and `references` point into `faces`, None where an item has no reference.
    """

    ids: list[str | None] = field(default_factory=list)
    probes: list[int] = field(default_factory=list)
    references: list[int | None] = field(default_factory=list)
    searches: list[bool] = field(default_factory=list)
    faces: list[bytes] = field(default_factory=list, repr=False)
    images: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, items: Sequence[MatchItem]) -> MatchBatch:
        batch = cls()
        for item in items:
            batch.ids.append(item.id)
            batch.searches.append(item.search)
            batch.probes.append(batch._add(item.probe))
            batch.references.append(None if item.reference is None else batch._add(item.reference))
        return batch

    def __len__(self) -> int:
        return len(self.ids)

    def _add(self, face: Face) -> int:
        slot = len(self.faces)
        if face.image is not None:
            self.images.append(slot)
            self.faces.append(face.image)
        elif face.template is not None:
            self.faces.append(face.template)
        return slot
