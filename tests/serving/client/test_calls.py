"""What is sent for each call."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from serving.client import Activation, calls


def test_every_activation_has_a_key_of_its_own_before_it_is_sent(
    make_activation: Callable[..., Activation],
) -> None:
    keys = {make_activation().idempotency_key for _ in range(100)}
    assert len(keys) == 100
    assert make_activation(idempotency_key="mine").idempotency_key == "mine"


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("+8613800138000", "/v1/lines/%2B8613800138000"),
        ("a/../b?c#d", "/v1/lines/a%2F..%2Fb%3Fc%23d"),
    ],
)
def test_an_id_is_one_step_of_the_path_whatever_it_holds(given: str, path: str) -> None:
    assert calls.close_line(given).path == path


@pytest.mark.parametrize("given", ["", ".", ".."])
def test_an_id_that_would_name_another_route_is_refused(given: str) -> None:
    for call in (calls.close_line, calls.erase, calls.read_enrollment):
        with pytest.raises(ValueError, match="give the id"):
            call(given)


def test_a_key_in_a_query_is_quoted() -> None:
    assert calls.find_enrollment("a&b=c d").path == "/v1/enrollments?idempotency_key=a%26b%3Dc+d"
