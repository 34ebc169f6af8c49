from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite

from engine.registry.records import new_id, utc_now
from engine.registry.tables import Moment

DIALECT = sqlite.dialect()
MOMENTS = st.datetimes(
    min_value=datetime(1000, 1, 1),  # noqa: DTZ001
    timezones=st.integers(-23, 23).map(lambda hours: timezone(timedelta(hours=hours))),
)


def test_ids_are_version_7_uuids_that_differ_and_ascend_with_time() -> None:
    before = utc_now()
    ids = [uuid.UUID(new_id()) for _ in range(1000)]
    after = utc_now()
    assert len(set(ids)) == 1000
    assert {key.version for key in ids} == {7}
    assert {key.variant for key in ids} == {uuid.RFC_4122}
    times = [key.int >> 80 for key in ids]
    assert times == sorted(times)
    assert int(before.timestamp() * 1000) <= times[0] <= times[-1] <= after.timestamp() * 1000 + 1


@settings(deadline=None)
@given(MOMENTS, MOMENTS)
def test_moments_are_kept_to_the_microsecond_and_sort_by_time(one, other) -> None:
    moment = Moment()
    stored = [moment.process_bind_param(value, DIALECT) for value in (one, other)]
    assert [len(text) for text in stored] == [27, 27]
    assert [moment.process_result_value(text, DIALECT) for text in stored] == [one, other]
    assert (stored[0] < stored[1]) == (one < other)


def test_moment_without_a_timezone_is_our_own_bug() -> None:
    with pytest.raises(AssertionError):
        Moment().process_bind_param(datetime(2026, 1, 1), DIALECT)  # noqa: DTZ001
    assert Moment().process_bind_param(datetime(2026, 1, 1, tzinfo=UTC), DIALECT)
