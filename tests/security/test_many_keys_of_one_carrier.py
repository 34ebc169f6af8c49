"""Attack: several keys of one carrier with bodies that come slowly, or are large, take every place
of enrollments. What it takes to be answered within 3 s is measured by
`python -m tests.security.honest_beside_attack "50 keys, slow and large"`."""

import asyncio
import shutil
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from serving.api.body import LEAST_BYTES
from serving.cluster.environment import make_proxy_config
from serving.deployment.deployment import Deployment
from serving.settings.sections import ServeSettings
from serving.settings.settings import load_settings
from tests.keys import add_key
from tests.security.listening import listening
from tests.security.slow_bodies import send_all
from tests.security.unfinished_requests import WAIT_S
from tests.serving.api.conftest import serving
from tests.serving.api.driver import to_json
from tests.waiting import wait_until

MOST_KEYS = 50
HONEST = 12
ATTACKER = "carrier:red"
SETTINGS = ServeSettings(connections_per_address=2000)
"""The defaults, but that all the outlets of the attacker share this machine's address."""
CARRIER_AT_ONCE = SETTINGS.enrollments_admitted * 3 // 4


@pytest.fixture(scope="module")
def served(keyed_home, extractor, tmp_path_factory) -> Iterator[tuple[Any, int, list[str]]]:
    """A service behind the proxy, its port, and keys of one carrier's outlet."""
    home = tmp_path_factory.mktemp("many") / "served"
    shutil.copytree(keyed_home[0], home)
    with Deployment(home, load_settings(home)) as deployment:
        store, vault = deployment.store, deployment.vault
        texts = [add_key(store, vault, "outlet", "red", "r1") for _ in range(MOST_KEYS)]
    with serving(home, keyed_home[1], extractor) as start:
        service = start()
        config = make_proxy_config(SETTINGS)
        with listening(service, tmp_path_factory.mktemp("p"), config) as (port, _):
            yield service, port, texts


@contextmanager
def attacking(port: int, keys: list[str], each: int) -> Iterator[Counter[int]]:
    """So many connections of each key that send slow and large bodies; what they are answered."""
    over, statuses = threading.Event(), Counter[int]()
    with ThreadPoolExecutor(1) as pool:
        attack = pool.submit(asyncio.run, send_all(port, keys, each, over.is_set))
        try:
            yield statuses
        finally:
            over.set()
        statuses.update(attack.result(WAIT_S))


@pytest.mark.parametrize(("count", "each"), [(2, 24), (10, 24), (50, 12)])
def test_enrollments_of_another_carrier_are_decided_beside_slow_and_large_bodies_of_many_keys(
    served, activation, count: int, each: int
) -> None:
    service, port, keys = served
    held, budget = service.app._places._held, service.app._budget._held
    url = f"http://127.0.0.1:{port}/v1/enrollments"
    with (
        attacking(port, keys[:count], each) as statuses,
        httpx.Client(
            headers={"authorization": f"Bearer {service.keys['b1']}"}, timeout=WAIT_S
        ) as honest,
    ):
        # All that the proxy lets through of a carrier: the bodies come, and hold memory.
        wait_until(lambda: budget[ATTACKER] >= CARRIER_AT_ONCE * LEAST_BYTES)
        for number in range(HONEST):
            body = activation(msisdn=f"+861380{count:02d}39{number:03d}")
            headers = {"content-type": "application/json", "idempotency-key": str(uuid.uuid4())}
            answer = honest.post(url, content=to_json(body), headers=headers)
            assert answer.status_code == 201, answer.text
            assert budget[ATTACKER]
            # For a moment each question whose a key is has one, and no body that comes.
            wait_until(lambda: not held[ATTACKER])
    assert statuses.keys() <= {0, 400, 408, 413, 429}
