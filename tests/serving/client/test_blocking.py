"""Both clients are one: method by method, but for what asyncio needs."""

from __future__ import annotations

import ast
import inspect

from serving.client import AsyncClient, Client

TRANSLATED = {
    "async def": "def",
    "await ": "",
    "AsyncBaseTransport": "BaseTransport",
    "AsyncClient": "Client",
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


def test_what_one_client_does_the_other_does_in_the_same_words() -> None:
    source = inspect.getsource(AsyncClient)
    for asynchronous, blocking in TRANSLATED.items():
        source = source.replace(asynchronous, blocking)
    expected = methods(source)
    assert {"enroll", "match", "verify", "erase", "_carry"} <= expected.keys()
    assert methods(inspect.getsource(Client)) == expected
