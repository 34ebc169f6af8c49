"""Where store and gallery stand, read while both move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from engine.errors import StorageFailed
from serving.compose import Deployment
from serving.registrar.operations import OpenRegistry


@pytest.fixture
def opened(open_home: Callable[..., Deployment]) -> Iterator[OpenRegistry]:
    registry = OpenRegistry(open_home(), 64)
    yield registry
    registry.close()


def test_a_change_between_the_two_readings_is_no_lag(
    opened: OpenRegistry, crowd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = opened.store.sequence

    def read_and_move() -> int:
        stored = read()
        opened.registrar.enroll([crowd.request()])
        return stored

    monkeypatch.setattr(opened.store, "sequence", read_and_move)
    mark = opened.read_watermark()
    assert (mark.sequence, mark.store_sequence, mark.is_behind) == (0, 0, False)
    assert opened.gallery.sequence == 1


def test_a_gallery_that_lacks_a_change_of_the_store_is_behind(
    opened: OpenRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened.store, "sequence", lambda: 7)
    mark = opened.read_watermark()
    assert (mark.sequence, mark.store_sequence, mark.is_behind) == (0, 7, True)


def test_a_store_that_cannot_be_read_is_not_taken_for_a_lag(
    opened: OpenRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> int:
        raise StorageFailed("the database is gone")

    monkeypatch.setattr(opened.store, "sequence", fail)
    mark = opened.read_watermark()
    assert (mark.store_sequence, mark.is_behind) == (None, False)
