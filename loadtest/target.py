"""Whom the load goes to: this machine, unless the operator says that he means another."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from loadtest.errors import LoadTestRefused

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Target:
    """A service's address."""

    host: str
    port: int
    is_tls: bool = False

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_tls else 'http'}://{host}:{self.port}"


def read_target(url: str, *, allows_remote: bool) -> Target:
    """The target that a URL names; one beyond loopback only where that is allowed."""
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:
        raise LoadTestRefused("the address cannot be read: write it as http://HOST:PORT") from None
    is_plain = not parts.query and parts.path in ("", "/") and parts.username is None
    if parts.scheme not in PORTS or not parts.hostname or not is_plain:
        raise LoadTestRefused("the address must be http://HOST:PORT, without a path or a password")
    if not is_loopback(parts.hostname) and not allows_remote:
        raise LoadTestRefused(
            f"{parts.hostname} is not this machine: a load test may take a service down, so give "
            "--allow-remote if you run that one"
        )
    return Target(parts.hostname, port, parts.scheme == "https")


def is_loopback(host: str) -> bool:
    """True for addresses of this machine alone; a name is looked up by nobody, but localhost."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
