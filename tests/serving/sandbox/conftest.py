"""One sandbox, served in this process, and requests to it."""

import base64
import queue
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.sandbox.outcomes import OUTCOMES, make_number
from serving.sandbox.sandbox_service import open_sandbox, prepare


@dataclass
class Served:
    """A sandbox on a port of this machine."""

    home: Path
    url: str
    keys: dict[str, str]
    client: httpx.Client

    def ask(self, method: str, path: str, key: str = "outlet", **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.keys[key]}", **more.pop("headers", {})}
        return self.client.request(method, path, headers=headers, **more)

    def picture(self, name: str) -> str:
        return base64.b64encode((self.home / "pictures" / f"{name}.png").read_bytes()).decode()

    def activation(self, serial: int = 0, kind: str = "cn-ric", **changes: Any) -> dict[str, Any]:
        document = {"type": kind, "number": make_number(kind, serial), "name": "Sandra Sand"}
        needs = OUTCOMES[serial].needs if serial in OUTCOMES else ""
        brought = {
            "guardian": self.guardian(),
            "exception": "injury",
            "replaces": {"type": "pk-cnic", "number": make_number("pk-cnic", 66)},
            "proof": "signed.by.anybody",
        }
        shown = {"live": self.picture("anybody-1"), "portrait": self.picture("anybody-2")}
        return (
            ({needs: brought[needs]} if needs else {})
            | ({} if needs == "proof" else shown)
            | {
                "document": document,
                "msisdn": f"+861380013{8000 + serial}",
                "consent_ref": "C-1",
                "captured_at": datetime.now(UTC).isoformat(),
            }
            | changes
        )

    def guardian(self, serial: int = 0) -> dict[str, Any]:
        """Who comes with a minor."""
        document = {"type": "my-nric", "number": make_number("my-nric", serial), "name": "Gus Sand"}
        pictures = {"live": self.picture("anybody-1"), "portrait": self.picture("anybody-2")}
        return {"document": document, **pictures}

    def enroll(self, body: dict[str, Any], key: str | None = None) -> httpx.Response:
        headers = {"idempotency-key": key or str(uuid.uuid4())}
        return self.ask("POST", "/v1/enrollments", json=body, headers=headers)


@contextmanager
def serve_sandbox(home: Path) -> Iterator[Served]:
    """The sandbox in this folder, made where there is none, by the settings of now."""
    keys = prepare(home)
    stop, urls = threading.Event(), queue.SimpleQueue[str]()
    with open_sandbox(home, "127.0.0.1") as opened:
        thread = threading.Thread(target=opened.run, args=(0, urls.put, stop))
        thread.start()
        try:
            url = urls.get(timeout=120)
            with httpx.Client(base_url=url, timeout=60) as client:
                yield Served(home, url, keys, client)
        finally:
            stop.set()
            thread.join()


@pytest.fixture(scope="package")
def sandbox(tmp_path_factory) -> Iterator[Served]:
    with serve_sandbox(tmp_path_factory.mktemp("sandboxes") / "home") as served:
        yield served
