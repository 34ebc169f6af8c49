"""A client of the service that has a home open, for commands of its operator beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.client.client import Client
    from serving.compose import Deployment


@contextmanager
def as_operator(deployment: Deployment, actor: str, what: str, hours: float) -> Iterator[Client]:
    """A client with a key of its own, which ends with the block, or after so many hours; `what` is
    its label."""
    import httpx  # noqa: PLC0415 - extras

    from engine.registry.records import ApiKey, utc_now  # noqa: PLC0415 - extras
    from serving.access.authentication import make_key  # noqa: PLC0415
    from serving.client.client import Client  # noqa: PLC0415

    made, now = make_key(deployment.vault), utc_now()
    fields = (made.id, made.digest, what, "operator", None, None, None, now)
    key = ApiKey(*fields, expires_at=now + timedelta(hours=hours), person=actor)
    deployment.store.add_api_key(key, actor=actor)
    serve = deployment.settings.serve
    if serve.host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        serve = serve.model_copy(update={"host": "127.0.0.1"})
    try:
        # With a transport of its own the key goes to no proxy that the environment names.
        direct = httpx.HTTPTransport()
        with Client(serve.url, made.text, transport=direct) as client:
            yield client
    finally:
        deployment.store.revoke_api_key(made.id, actor=actor)
