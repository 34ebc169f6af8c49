"""No event is sent into the operator's own network."""

import asyncio
import ipaddress
import socket
import ssl
import threading
from typing import Any

import pytest

from engine.errors import RequestError
from serving.webhooks.receiver import (
    AddressRefused,
    Receiver,
    check_sink,
    find_addresses,
    may_reach,
)
from tests.serving.webhooks.conftest import LOOPBACK, receiving

pytestmark = pytest.mark.anyio

INNER = (
    *("10.0.0.1", "127.0.0.1", "169.254.169.254", "172.16.3.4", "192.168.1.1", "100.64.0.1"),
    *("0.0.0.0", "224.0.0.1", "255.255.255.255", "192.0.2.1", "240.0.0.1"),
    *("::", "::1", "fe80::1", "fe80::1%2", "fc00::1", "ff02::1", "::ffff:10.0.0.1"),
    *("2002:0a00:0001::", "64:ff9b::7f00:1", "64:ff9b:1::1", "2001:db8::1"),
    *("2001:0:4136:e378:8000:63bf:f5ff:fffe", "fec0::1", "feff::1", "3fff::1", "192.88.99.1"),
    *("161.26.0.10", "166.9.0.1", "::ffff:161.26.0.10", "64:ff9b::a11a:a"),
)
OF_CLOUDS = (
    *("169.254.169.254", "169.254.170.2", "168.63.129.16", "192.0.0.192", "100.100.100.200"),
    *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:42::42"),
    *("fd00:100::100:200", "fd00:a9fe:a9fe::1", "fe80::a9fe:a9fe", "::ffff:100.100.100.200"),
    *("64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "::ffff:168.63.129.16"),
    *("64:ff9b:1::a9fe:a9fe", "::ffff:0:169.254.169.254", "::169.254.169.254"),
    # With prefixes of 48, 56, 64 and 96 bits.
    *("64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:a9:fe:a9fe::", "64:ff9b:1:ffff:ff:a9fe:a9fe:0"),
    *("64:ff9b:1:a9:fe:a9fe:0:1", "64:ff9b:1:0:a9:fea9:fe00:0", "64:ff9b:1:1:0:0:a83f:8110"),
    *("64:ff9b:1:6464:64:c800::", "64:ff9b:1:2:64:6464:c800:0"),
)


@pytest.mark.parametrize("text", INNER)
def test_an_inner_address_is_refused_however_it_is_written(text: str) -> None:
    assert not may_reach(ipaddress.ip_address(text), ())


@pytest.mark.parametrize("text", OF_CLOUDS)
def test_what_a_cloud_tells_a_machine_is_refused_whatever_is_allowed(text: str) -> None:
    networks = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]
    for allowed in ((), networks):
        assert not may_reach(ipaddress.ip_address(text), allowed)


def test_public_ones_and_those_that_are_allowed_are_reached() -> None:
    for text in ("1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"):
        assert may_reach(ipaddress.ip_address(text), ())
    assert may_reach(ipaddress.ip_address("::1"), [ipaddress.ip_network("::1/128")])
    translated = [ipaddress.ip_network("64:ff9b:1::/48")]
    for text in ("64:ff9b:1::a01:203", "64:ff9b:1:a01:2:300::", "64:ff9b:1:0:a:102:300:0"):
        assert may_reach(ipaddress.ip_address(text), translated)
    networks = [ipaddress.ip_network("10.1.0.0/16")]
    for text, is_allowed in (("10.1.2.3", True), ("10.2.0.1", False), ("::ffff:10.1.0.1", True)):
        assert may_reach(ipaddress.ip_address(text), networks) is is_allowed


@pytest.mark.parametrize(
    "sink",
    [
        *("http://example.com/", "ftp://example.com/", "https://", "/events", "https://a@b.com/"),
        *("https://127.0.0.1/", "https://[::1]/", "https://localhost/", "http://localhost/"),
        *("https://b.com/#x", "https://b.com/\r\nX: y", "https://b.com/ü", "https://b.com:99999/"),
        *("https://10.0.0.1/", "https://[::ffff:10.0.0.1]/", "https://b.com/" + "x" * 1000),
    ],
)
def test_an_address_that_is_none_is_refused_when_it_is_given(sink: str) -> None:
    with pytest.raises(RequestError, match="sink: give"):
        check_sink(sink, ())


def test_a_public_one_is_taken_and_loopback_where_it_is_allowed() -> None:
    assert check_sink("https://b.com:8443/events?a=b", ())
    assert check_sink("http://localhost:8080/", LOOPBACK.allowed_networks)
    with pytest.raises(RequestError):
        check_sink("http://example.com/", LOOPBACK.allowed_networks)


def test_a_name_of_which_one_address_is_inner_is_refused_when_it_is_used(monkeypatch) -> None:
    def resolve(*_: Any, **__: Any) -> Any:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, ("1.1.1.1", 443)), (*kind, ("169.254.169.254", 443))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(AddressRefused):
        asyncio.run(find_addresses("b.com", 443, ()))


async def test_the_address_that_was_checked_is_the_one_that_is_reached(monkeypatch) -> None:
    asked = []
    real = socket.getaddrinfo

    def resolve(host: Any, *given: Any, **named: Any) -> Any:
        asked.append(host)
        # What the name says the next time would lead elsewhere.
        return real("127.0.0.1" if asked.count("b.test") == 1 else "10.0.0.1", *given, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    async with receiving(200) as other:
        sink = f"http://b.test:{other.port}/"
        trust = ssl.create_default_context()
        receiver = Receiver(sink, LOOPBACK.allowed_networks, trust)
        assert await receiver.post((), b'{"subject": "a"}') == 200
        await receiver.close()
        assert other.got[0][0]["host"] == f"b.test:{other.port}"
    assert asked.count("b.test") == 1


async def test_a_name_server_that_says_nothing_keeps_back_its_own_receiver_alone(
    monkeypatch,
) -> None:
    asked, answers = [], threading.Event()

    def resolve(host: Any, *_: Any, **__: Any) -> Any:
        asked.append(host)
        if host == "silent.example":
            answers.wait(60)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("1.1.1.1", 443))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    silent = Receiver("https://silent.example/", (), ssl.create_default_context()).network
    waiting = [asyncio.create_task(silent.find("silent.example", 443)) for _ in range(64)]
    await asyncio.sleep(0)
    found = await find_addresses("other.example", 443, ())
    # A request that is given up takes the others' answer from nobody.
    waiting.pop().cancel()
    answers.set()
    await asyncio.gather(*waiting)
    assert found == ["1.1.1.1"]
    assert sorted(asked) == ["other.example", "silent.example"]
