"""The audit chain leaves by syslog over TLS: all of it, in order, also after a break."""

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from cryptography.hazmat.primitives import serialization

from engine.registry.audit import AuditEntry
from engine.registry.store import Store
from serving.jobs.audit_export import AuditExport, write_ocsf
from serving.settings.sections import AuditSettings
from serving.telemetry.metrics import Meter
from tests.serving.webhooks.conftest import certificate, store
from tests.waiting import wait_until

__all__ = ["certificate", "store"]


class Server:
    """A syslog server over TLS: keeps the messages, and breaks off when it is told to."""

    def __init__(self, own: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(own)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.messages: list[str] = []
        self.connections = 0
        self.breaks_after: int | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            plain, _ = self._listener.accept()
            try:
                with self._context.wrap_socket(plain, server_side=True) as connection:
                    self.connections += 1
                    self._read(connection)
            except OSError:
                plain.close()
            if self.port == 0:
                return

    def _read(self, connection: ssl.SSLSocket) -> None:
        reader = connection.makefile("rb")
        while size := b"".join(iter(lambda: reader.read(1), b" ")) if self._more(reader) else b"":
            self.messages.append(reader.read(int(size)).decode())
            if self.breaks_after is not None and len(self.messages) >= self.breaks_after:
                self.breaks_after = None
                return

    @staticmethod
    def _more(reader: Any) -> bool:
        return bool(reader.peek(1))

    def close(self) -> None:
        port, self.port = self.port, 0
        socket.create_connection(("127.0.0.1", port)).close()
        self._thread.join()
        self._listener.close()


@pytest.fixture
def server(certificate) -> Iterator[Server]:
    made = Server(certificate)
    yield made
    made.close()


def numbers(messages: list[str]) -> list[int]:
    return [json.loads(one[one.index("{") :])["metadata"]["sequence"] for one in messages]


def export(source: Store, server: Server, authority: str, meter: Meter) -> AuditExport:
    address = f"syslog+tls://127.0.0.1:{server.port}"
    settings = AuditSettings(export=address, export_ca=authority)
    return AuditExport(source, settings, Path("/"), meter, structlog.get_logger())


def test_every_entry_comes_in_order_once_and_goes_on_after_a_break(
    store, server, certificate
) -> None:
    meter = Meter()
    head = store.audit_head()[0]
    with export(store, server, str(certificate), meter):
        wait_until(lambda: len(server.messages) == head)
    # Where it was is kept: nothing comes twice.
    store.note(AuditEntry("ops", "case.noted", "c1", {"count": 1}))
    with export(store, server, str(certificate), meter):
        wait_until(lambda: len(server.messages) == head + 1)
        assert numbers(server.messages) == list(range(1, head + 2))
        server.breaks_after = head + 2
        for place in range(3):
            store.note(AuditEntry("ops", "case.noted", f"b{place}"))
            time.sleep(0.05)
        wait_until(lambda: set(numbers(server.messages)) == set(range(1, head + 5)))
    came = numbers(server.messages)
    assert [one for place, one in enumerate(came) if one not in came[:place]] == sorted(set(came))
    assert server.connections == 3
    assert f"sosie_audit_exported {head + 4}.0" in meter.render()[0].decode()


def test_a_message_is_rfc_5424_and_says_what_the_chain_says(store, server, certificate) -> None:
    store.note(AuditEntry("Ann (key:1)", "outlet.suspended", "b1", {"case": "é"}))
    (*_, record) = store.audit_entries()
    with export(store, server, str(certificate), Meter()):
        wait_until(lambda: len(server.messages) == record.number)
    form = (
        r"<110>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) \S+ sosie - outlet\.suspended - (\{.*\})"
    )
    found = re.fullmatch(form, server.messages[-1])
    assert found is not None
    event = json.loads(found[2])
    assert (event["class_uid"], event["activity_id"], event["type_uid"]) == (6003, 3, 600303)
    assert event["actor"]["user"]["name"] == "Ann (key:1)"
    assert (event["api"]["operation"], event["resources"]) == ("outlet.suspended", [{"uid": "b1"}])
    assert event["time"] == int(record.at.timestamp() * 1000)
    assert event["unmapped"] == {"detail": {"case": "é"}, "hash": record.hash.hex()}


def test_an_activity_goes_by_the_whole_action_before_its_last_word(store) -> None:
    create, read, update, other = 1, 2, 3, 99
    expected = {
        "death.reported": create,
        "case.reported": read,
        "death.confirmed": update,
        "exception.granted": update,
        "document.exempted": update,
        "line.sim_swap": update,
        "line.overdue": update,
        "line.read": read,
        "line.closed": update,
        "sweep.started": create,
        "unheard.of": other,
    }
    for action in expected:
        store.note(AuditEntry("Ann (key:1)", action, "7"))
    written = [write_ocsf(one, "d") for one in store.audit_entries()]
    told = {one["api"]["operation"]: one["activity_id"] for one in written}
    assert expected.items() <= told.items()


def test_a_server_that_is_not_the_one_that_is_meant_is_told_nothing(store, server) -> None:
    meter = Meter()
    with export(store, server, "", meter):
        wait_until(lambda: b"sosie_audit_export_failing 1.0" in meter.render()[0])
    assert server.messages == []


def test_nobody_is_asked_at_the_terminal_for_the_passphrase_of_a_key(certificate, tmp_path) -> None:
    key = serialization.load_pem_private_key(certificate.read_bytes(), None)
    sealed = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"word"),
    )
    (tmp_path / "key.pem").write_bytes(sealed)
    terminal, other_side = os.openpty()
    # Whoever asks there is given it, and then fails by the connection alone.
    os.write(terminal, b"word\n")
    code = f"""
import os
from pathlib import Path
from serving.jobs.audit_export import SyslogConnection
from serving.settings.sections import AuditSettings
os.open({os.ttyname(other_side)!r}, os.O_RDWR)
files = dict(export_certificate={str(certificate)!r}, export_key={str(tmp_path / "key.pem")!r})
try:
    SyslogConnection(AuditSettings(export="syslog+tls://127.0.0.1:1", **files), Path("/"))
except OSError as error:
    print(type(error).__name__)
"""
    # The first terminal that the leader of a session opens is its own.
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        start_new_session=True,
        text=True,
        timeout=60,
    )
    os.close(terminal)
    os.close(other_side)
    assert run.stdout == "SSLError\n"
