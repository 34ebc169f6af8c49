"""What is sent for each call."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from serving.client import Activation, Client, MatchItem, calls


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
    for endpoint in (calls.close_line, calls.erase, calls.read_enrollment):
        with pytest.raises(ValueError, match="give the id"):
            endpoint(given)


def test_a_key_in_a_query_is_quoted() -> None:
    call = calls.find_enrollment(query={"idempotency_key": "a&b=c d", "limit": None})
    assert call.path == "/v1/enrollments?idempotency_key=a%26b%3Dc+d"


def test_a_request_that_asks_for_nothing_is_refused_before_it_is_sent() -> None:
    with Client("http://127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="exactly one of reference, line, document"):
            client.verify(b"face")
        with pytest.raises(ValueError, match="give a reference, search, or both"):
            client.match([MatchItem(b"face")])
