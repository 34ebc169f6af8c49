"""A carrier's system that takes events by a webhook while parts of the service are killed."""

import json
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from tests.serving.cluster.conftest import READY_WITHIN_S, RETRIED, Served

HEARD_WITHIN_S = 120
"""A worker that was killed holds a webhook for up to 40 seconds."""


class Hearing(threading.Thread):
    """Takes the events of carrier `blue`, and reports changes of SIM of one line until stopped: a
    document with many events beside those of decisions."""

    def __init__(self, served: Served, line_id: str) -> None:
        super().__init__(daemon=True)
        self._served, self._line_id = served, line_id
        self.stopping = threading.Event()
        self.acknowledged: set[str] = set()
        """Subjects whose events must come."""
        self.reported = 0
        self.got: list[tuple[str, bytes]] = []
        """Ids and bodies, in the order in which they were taken."""
        self._place = self._read_feed("0")[1]
        hearing = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                hearing.got.append((self.headers["webhook-id"], body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._serving = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._serving.start()
        sink = {"sink": f"http://127.0.0.1:{self._server.server_port}/events", "types": []}
        made = served.ask("POST", "/v1/webhooks", json=sink)
        assert made.is_success, made.text
        self._webhook_id = made.json()["webhook"]["webhook_id"]

    def run(self) -> None:
        while not self.stopping.wait(0.05):
            body = {"kind": "sim_swap", "at": datetime.now(UTC).isoformat()}
            try:
                answer = self._served.ask("POST", f"/v1/lines/{self._line_id}/events", json=body)
            except httpx.TransportError:
                continue
            if answer.is_success:
                self.reported += 1
            else:
                assert answer.status_code in RETRIED, answer.text

    def finish(self) -> None:
        """Reports no more, once something was."""
        deadline = time.monotonic() + READY_WITHIN_S
        while not self.reported and self.is_alive():
            assert time.monotonic() < deadline, "no report is taken"
            time.sleep(0.1)
        self.stopping.set()
        self.join()
        assert self.reported

    def check(self) -> dict[str, int]:
        """Every event of the feed came, those of a document in their order, and what was repeated
        under its own id; counts of them."""
        wanted, _ = self._read_feed(self._place)
        deadline = time.monotonic() + HEARD_WITHIN_S
        while not {one["id"] for one in wanted} <= {key for key, _ in self.got}:
            assert time.monotonic() < deadline, "events are missing"
            time.sleep(0.1)
        documents = self._read_documents()
        bodies: dict[str, bytes] = {}
        for key, body in self.got:
            assert json.loads(body)["id"] == key
            assert bodies.setdefault(key, body) == body
        in_feed = _sort(wanted, documents)
        # What was heard first counts, and what happened since the feed was read does not.
        heard = _sort((json.loads(bodies[key]) for key in bodies), documents)
        for document, ids in in_feed.items():
            assert heard[document][: len(ids)] == ids
        subjects = {one["subject"] for one in wanted}
        assert self.acknowledged <= subjects
        assert len(in_feed[documents[self._line_id]]) >= self.reported
        return {
            "acknowledged decisions": len(self.acknowledged),
            "reports": self.reported,
            "events": len(wanted),
            "repeated": len(self.got) - len(bodies),
        }

    def close(self) -> None:
        self.stopping.set()
        self.join()
        # The service may have been stopped.
        with suppress(httpx.TransportError):
            self._served.ask("DELETE", f"/v1/webhooks/{self._webhook_id}")
        self._server.shutdown()
        self._server.server_close()
        self._serving.join()

    def _read_feed(self, place: str) -> tuple[list[dict[str, Any]], str]:
        found: list[dict[str, Any]] = []
        while True:
            answer = self._served.ask("GET", "/v1/events", params={"after": place, "limit": 100})
            assert answer.is_success, answer.text
            page, place = answer.json()["events"], answer.json()["next"]
            found += page
            if not page:
                return found, place

    def _read_documents(self) -> dict[str, str]:
        """The document of each subject, or the subject itself where it is of none."""
        path = self._served.home / "registry.sqlite"
        query = "SELECT id, document_id FROM {}"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            tables = ("enrollments", "lines")
            rows = [row for one in tables for row in database.execute(query.format(one))]
        return {subject: document or subject for subject, document in rows}


def _sort(events: Iterable[dict[str, Any]], documents: dict[str, str]) -> dict[str, list[str]]:
    """The ids of each document's events, in the order in which they are given."""
    found: dict[str, list[str]] = defaultdict(list)
    for one in events:
        found[documents[one["subject"]]].append(one["id"])
    return found


@contextmanager
def hear(served: Served, line_id: str) -> Iterator[Hearing]:
    """Hears events of the service for the block."""
    hearing = Hearing(served, line_id)
    hearing.start()
    try:
        yield hearing
    finally:
        hearing.close()
