"""The audit head is told outside: to a file, to syslog, to an HTTP sink, and a failure is seen."""

import json
import socketserver
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from engine.errors import RequestError
from engine.registry.accounts import Carrier
from engine.registry.audit import AuditEntry
from engine.registry.damage import read_anchors, write_anchor
from engine.registry.store import Store
from engine.registry.transactions import recorded
from serving.jobs.audit_export import Anchoring, open_sink
from serving.telemetry.metrics import Meter
from tests.engine.conftest import MODEL, key_ring, sqlite_url, vault
from tests.serving.api.conftest import extractor, keyed_home, start_service
from tests.serving.authority_service import send, serve_authority
from tests.waiting import wait_until

__all__ = ["extractor", "key_ring", "keyed_home", "sqlite_url", "start_service", "vault"]


class _Lines(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.server.lines.append(self.rfile.readline().decode())


@pytest.fixture
def syslog() -> Iterator[Any]:
    """A server of this machine, with `lines` that it has got."""
    with socketserver.TCPServer(("127.0.0.1", 0), _Lines) as server:
        server.lines = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


LINE = write_anchor("d", 7, b"\xab" * 32)


def test_a_line_comes_to_a_file_a_syslog_server_and_an_http_sink(tmp_path, syslog) -> None:
    for _ in range(2):
        open_sink("anchors", tmp_path)(LINE)
    assert (tmp_path / "anchors").read_text() == f"{LINE}\n" * 2
    assert (tmp_path / "anchors").stat().st_mode & 0o777 == 0o600
    open_sink(f"syslog://127.0.0.1:{syslog.server_address[1]}", tmp_path)(LINE)
    wait_until(lambda: bool(syslog.lines))
    assert syslog.lines[0].endswith(f"sosie: {LINE}\n")
    with serve_authority() as posts:
        posts.behave = send(b"")
        open_sink(posts.sink, tmp_path)(LINE)
        assert posts.bodies == [LINE.encode()]
        posts.behave = send(b"", 500)
        with pytest.raises(OSError, match="500"):
            open_sink(posts.sink, tmp_path)(LINE)
    for nowhere in ("no/such/folder/file", "http://127.0.0.1:1/", "syslog://127.0.0.1:1"):
        with pytest.raises(OSError, match=r"No such file|refused"):
            open_sink(nowhere, tmp_path)(LINE)
    file = tmp_path / "kept"
    file.write_text(f"{LINE}\n{syslog.lines[0]}\nsomething else\n")
    assert [one.number for one in read_anchors(file, "d")] == [7, 7]
    with pytest.raises(RequestError, match="no anchor of this deployment"):
        list(read_anchors(file, "another"))


def test_each_head_is_sent_once_and_a_failure_is_told_and_passes(sqlite_url, vault) -> None:
    sent: list[int] = []
    works = threading.Event()

    def send(line: str) -> None:
        if not works.is_set():
            raise OSError("a secret of the sink")
        sent.append(json.loads(line)["audit_number"])

    meter = Meter()
    with Store.create(sqlite_url, vault, model_digest=MODEL) as store:
        parts = (store, send, 0.005, meter, structlog.get_logger())
        with Anchoring(*parts) as anchoring:
            wait_until(lambda: anchoring.fault is not None)
            assert "secret" not in str(anchoring.fault)
            assert b"sosie_audit_anchor_failing 1.0" in meter.render()[0]
            works.set()
            wait_until(lambda: anchoring.fault is None)
            store.add_carrier(Carrier("red", "Red"), actor="test")
            wait_until(lambda: len(sent) == 2)
            with recorded(store.engine, vault, [AuditEntry("test", "test.done", "x")]):
                pass
            wait_until(lambda: len(sent) == 3)
        assert sent == [1, 2, 3]
        assert b"sosie_audit_anchored 3.0" in meter.render()[0]


def test_readiness_names_a_sink_that_fails_and_stays_ready(monkeypatch, start_service) -> None:
    monkeypatch.setenv("SOSIE_AUDIT__ANCHOR", "no/such/folder/anchors")
    service = start_service()

    def read() -> Any:
        answer = service.ask("GET", "/health/ready", key=None)
        assert answer.status_code == 200
        return answer.json()["checks"].get("anchor")

    found = wait_until(read)
    assert (found["is_ok"], "[audit] anchor" in found["detail"]) == (False, True)
