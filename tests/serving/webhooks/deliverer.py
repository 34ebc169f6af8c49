"""A process that delivers until it is killed: `deliverer.py URL KEY_RING DIMENSION [DAYS]`, by a
clock that is so many days ahead."""

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

import structlog

from engine.registry import database, keyring
from engine.registry.store import Store
from engine.registry.vault import Vault
from engine.registry.webhooks import Webhooks
from serving.settings.terms import WebhookSettings
from serving.webhooks import delivery

LOOPBACK = ["127.0.0.0/8"]
SETTINGS = WebhookSettings.model_validate(
    {"allowed_networks": LOOPBACK, "carrier_networks": {"blue": LOOPBACK}, "timeout_s": 0.5}
)
MODEL_DIGEST = "d" * 64


def hurry() -> None:
    """What waits for minutes waits for moments."""
    delivery.BACKOFF_S = (0.05,) * 50
    delivery.SKEW_S = delivery.SAVE_EVERY_S = 0.1
    delivery.PARK_AFTER_S = delivery.POLL_S = delivery.LOOK_EVERY_S = 0.05
    delivery.PROBE_EVERY_S = 0.05


def main() -> None:
    url, ring, dimension, *days = sys.argv[1:]
    hurry()
    ahead = timedelta(days=sum(map(int, days)))
    delivery.utc_now = lambda: database.utc_now() + ahead
    vault = Vault(keyring.KeyRing.load(Path(ring)), int(dimension))
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    with Store.open(url, vault, model_digest=MODEL_DIGEST) as store:
        webhooks = Webhooks(store.engine, vault)
        deliverer = delivery.Deliverer(webhooks, SETTINGS, structlog.get_logger())
        asyncio.run(deliverer.run(asyncio.Event()))


if __name__ == "__main__":
    main()
