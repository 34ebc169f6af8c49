"""Both clients are one: method by method, but for what asyncio needs."""

from __future__ import annotations

import ast
import inspect
from typing import Any

import pytest

from serving.client import AsyncClient, Client
from serving.client.team_asynchronous import AsyncTeam
from serving.client.team_blocking import Team

TRANSLATED = {
    "async def": "def",
    "await ": "",
    "AsyncBaseTransport": "BaseTransport",
    "AsyncClient": "Client",
    "AsyncTeam": "Team",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "aclose": "close",
    "asyncio.sleep": "time.sleep",
}


def methods(source: str) -> dict[str, str]:
    """Each method of a class's source: signature, docstring and body, however it is wrapped."""
    (made,) = ast.parse(source).body
    assert isinstance(made, ast.ClassDef)
    return {one.name: ast.unparse(one) for one in made.body if isinstance(one, ast.FunctionDef)}


@pytest.mark.parametrize(
    ("one", "other", "some"),
    [
        (AsyncClient, Client, {"enroll", "match", "verify", "erase", "_carry"}),
        (AsyncTeam, Team, {"search_people", "close_case", "start_sweep", "verify_audit"}),
    ],
)
def test_what_one_client_does_the_other_does_in_the_same_words(
    one: Any, other: Any, some: set[str]
) -> None:
    source = inspect.getsource(one)
    for asynchronous, blocking in TRANSLATED.items():
        source = source.replace(asynchronous, blocking)
    expected = methods(source)
    assert some <= expected.keys()
    assert methods(inspect.getsource(other)) == expected
