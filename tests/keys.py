"""API keys in a registry."""

from typing import Any

from engine.registry.accounts import ApiKey
from engine.registry.database import utc_now
from engine.registry.store import Store
from engine.registry.vault import Vault
from serving.access.authentication import make_key


def add_key(
    store: Store, vault: Vault, *whose: str | None, actor: str = "test", **more: Any
) -> str:
    """The text of a new key of a role and, where it has them, of a carrier and an outlet."""
    made = make_key(vault)
    role, carrier, outlet = (*whose, None, None)[:3]
    row = ApiKey(made.id, made.digest, str(role), carrier, outlet, utc_now(), **more)
    store.add_api_key(row, actor=actor)
    return made.text
