"""The service under load and the API keys for it.

Without --allow-remote the service must be on this machine. Keys come from a file, from standard
input or from the environment, which only this module of the package reads: on a command line they
would show in `ps` and stay in the shell's history.
"""

from __future__ import annotations

import ipaddress
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loadtest.errors import LoadTestRefused

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Target:
    """Address of a service."""

    host: str
    port: int
    is_tls: bool = False

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_tls else 'http'}://{host}:{self.port}"


def read_target(url: str, *, allows_remote: bool) -> Target:
    """Reads a URL; `LoadTestRefused` for another machine unless `allows_remote`."""
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
    """Whether an address is of this machine; of names only localhost, since none is resolved."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


VARIABLES = {
    "enroll": "SOSIE_LOADTEST_KEY",
    "fraud": "SOSIE_LOADTEST_FRAUD_KEY",
    "erase": "SOSIE_LOADTEST_ERASE_KEY",
}
OWN, RAY = "SOSIE_", "RAY_ADDRESS"
KEPT = "SOSIE_MODELS__"
"""Settings that a local service takes over: the models."""
FORCED = {
    "SOSIE_SERVE__HOST": "127.0.0.1",
    "SOSIE_SERVE__RAY_ADDRESS": "",
    "SOSIE_SERVE__TRACE_ENDPOINT": "",
    "SOSIE_SERVE__LOG_FILE": "log/service.jsonl",
}
MOST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Keys:
    """API keys: `enroll` of role outlet or carrier, `fraud` of role fraud, `erase` (to clean up) of
    role carrier or operator."""

    enroll: str = field(repr=False)
    fraud: str = field(repr=False)
    erase: str | None = field(default=None, repr=False)


def read_keys(source: str | None) -> Keys:
    """Reads the keys from a JSON file (`-`: standard input), else from the environment."""
    given = _read_environment() if source is None else _read_file(source)
    missing = [name for name in ("enroll", "fraud") if not given.get(name)]
    if missing:
        raise LoadTestRefused(
            f"no {missing[0]} key: set {VARIABLES[missing[0]]}, or give --keys FILE with "
            '{"enroll": "…", "fraud": "…"}'
        )
    return Keys(given["enroll"], given["fraud"], given.get("erase"))


def service_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """The environment of a local service: this one's with changes, without our keys, and without
    whatever points to another deployment's home, registry, cluster, log or traces."""
    inherited = {name: text for name, text in os.environ.items() if not _is_foreign(name)}
    return inherited | FORCED | dict(changes)


def _is_foreign(name: str) -> bool:
    # Names of settings are not case-sensitive.
    known = name.upper()
    return known == RAY or (known.startswith(OWN) and not known.startswith(KEPT))


def _read_environment() -> dict[str, str]:
    return {name: os.environ[place] for name, place in VARIABLES.items() if place in os.environ}


def _read_file(source: str) -> dict[str, str]:
    try:
        if source == "-":
            text = sys.stdin.read(MOST_BYTES)
        else:
            with Path(source).open(encoding="utf-8") as file:
                text = file.read(MOST_BYTES)
        value: Any = json.loads(text)
    except OSError as error:
        raise LoadTestRefused(f"{source} cannot be read: {error.strerror}") from None
    except ValueError:
        value = None
    if not isinstance(value, dict) or not set(value) <= set(VARIABLES):
        names = ", ".join(VARIABLES)
        raise LoadTestRefused(f"{source} must be a JSON object with the names {names}")
    if not all(isinstance(one, str) for one in value.values()):
        raise LoadTestRefused(f"{source} must hold strings")
    return value
