"""Addresses at which the processes of a running service listen, and their access control."""

import os
import pickle
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import pytest
from ray.serve.generated import serve_pb2, serve_pb2_grpc

from serving.cluster.processes import Role, list_descendants

pytestmark = pytest.mark.slow


def test_the_proxy_has_no_port_of_its_own_but_the_services(served) -> None:
    (proxy,) = served.roles[Role.PROXY]
    port = int(served.url.rsplit(":", 1)[1])
    assert _list_ports(proxy) == {("127.0.0.1", port)}


as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="a process with a key ring shows its sockets to root alone"
)


@as_root
def test_nothing_listens_beyond_loopback(served) -> None:
    family = list_descendants(served.process.pid)
    listening = {process.pid: _list_ports(process.pid) for process in family}
    assert sum(map(len, listening.values())) > 5
    found = {address for ports in listening.values() for address, _ in ports}
    assert all(map(_is_loopback, found)), found


@as_root
def test_a_call_without_the_token_is_refused_before_it_is_unpickled(served, tmp_path) -> None:
    witness = tmp_path / "unpickled"
    harmful = pickle.dumps(_Touch(witness))
    call = serve_pb2.ASGIRequest(
        pickled_request_metadata=harmful, request_args=harmful, request_kwargs=harmful
    )
    for pid in (*served.roles[Role.INGRESS], *served.roles[Role.REGISTRAR]):
        codes = []
        for _, port in _list_ports(pid):
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = serve_pb2_grpc.ASGIServiceStub(channel)
                for method in (stub.HandleRequest, stub.HandleRequestWithRejection):
                    with pytest.raises(grpc.RpcError) as refused:
                        method(call, timeout=10)
                    codes.append(refused.value.code())
        # One port is for other replicas; at the others nobody knows such a call.
        assert codes.count(grpc.StatusCode.UNAUTHENTICATED) >= 2
    assert not witness.exists()
    pickle.loads(harmful)
    assert witness.exists()


class _Touch:
    """Leaves a file wherever it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


def _is_loopback(address: str) -> bool:
    found = ip_address(address)
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def _list_ports(pid: int) -> set[tuple[str, int]]:
    """The addresses on which a process listens."""
    sockets = {os.readlink(link.path) for link in os.scandir(f"/proc/{pid}/fd")}
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                address, port = fields[1].split(":")
                words = bytes.fromhex(address)
                packed = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
                found.add((socket.inet_ntop(family, packed), int(port, 16)))
    return found
