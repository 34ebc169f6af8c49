"""A registry with the carriers red and blue and an outlet each, and keys of it."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine.registry.accounts import ApiKey, Carrier
from engine.registry.keyring import KeyRing
from engine.registry.store import Store
from engine.registry.vault import Vault
from serving.access.authentication import Authenticator, make_key

CACHE_S = 5.0
START = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
BOUNDS = {"outlet": ("red", "r1"), "carrier": ("red", None)}


class WatchedStore(Store):
    """The registry, which counts how often keys are looked up, and can be made to wait."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.looked_up: list[str] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def api_key(self, key_id: str) -> ApiKey:
        self.looked_up.append(key_id)
        assert self.may_answer.wait(120)
        return super().api_key(key_id)


@pytest.fixture
def vault() -> Vault:
    return Vault(KeyRing.generate(), 8)


@pytest.fixture
def store(tmp_path, vault) -> Iterator[WatchedStore]:
    with WatchedStore.create(f"sqlite:///{tmp_path}/r.db", vault, model_digest="m") as made:
        for code, carrier in (("r1", "red"), ("b1", "blue")):
            made.add_carrier(Carrier(carrier, carrier.title()), actor="test")
            made.add_outlet(code, carrier, actor="test")
        yield made


@pytest.fixture
def add_key(store, vault) -> Callable[..., str]:
    """`add_key(role, **changes)`: the text of a key that the registry has, of the carrier red."""

    def add(role: str = "carrier", **changes: Any) -> str:
        made = make_key(vault)
        carrier, outlet = BOUNDS.get(role, (None, None))
        fields = {
            "id": made.id,
            "digest": made.digest,
            "role": role,
            "carrier": carrier,
            "outlet": outlet,
            "created_at": datetime.now(UTC),
            "person": "ops" if role in ("fraud", "operator") else None,
        }
        store.add_api_key(ApiKey(**fields | changes), actor="test")
        return made.text

    return add


class Time:
    """One time for both clocks of an authenticator."""

    def __init__(self) -> None:
        self.passed_s = 1000.0

    def monotonic(self) -> float:
        return self.passed_s

    def now(self) -> datetime:
        return START + timedelta(seconds=self.passed_s - 1000.0)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def make_auth(store, time) -> Callable[..., Authenticator]:
    def make(**changes: Any) -> Authenticator:
        return Authenticator(
            store, **{"cache_s": CACHE_S, "clock": time.monotonic, "now": time.now} | changes
        )

    return make


@pytest.fixture
def auth(make_auth) -> Authenticator:
    return make_auth()
