"""A real OpenID Connect provider in a process of its own, and a browser's way through it."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from serving.settings.settings import SETTINGS_FILE
from tests.waiting import wait_until

CLIENT, SECRET = "sosie", "s3cret of the client & more"
GROUPS = {"Desk & fraud": "fraud", "watch": "operator", "shop": "outlet:blue/b1"}
PEOPLE: dict[str, dict[str, Any]] = {
    "u1": {"preferred_username": "anna", "groups": ["everyone", "Desk & fraud"]},
    "u2": {"preferred_username": "bo", "groups": ["Desk & fraud"]},
    "u3": {"preferred_username": "cleo", "groups": ["shop"]},
    "u4": {"preferred_username": "nobody-of-ours", "groups": ["a group of theirs"]},
}
"""Accounts of the provider, with their claims."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def providing() -> Iterator[str]:
    """The address of a provider that knows PEOPLE."""
    port = free_port()
    issuer = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: _answers(process, issuer))
            for subject, claims in PEOPLE.items():
                set_claims(issuer, subject, claims)
            yield issuer
        finally:
            process.terminate()


def _answers(process: subprocess.Popen[bytes], issuer: str) -> bool:
    assert process.poll() is None
    with suppress(httpx.TransportError):
        return httpx.get(f"{issuer}/.well-known/openid-configuration").is_success
    return False


def set_claims(issuer: str, subject: str, claims: dict[str, Any]) -> None:
    httpx.put(f"{issuer}/users/{subject}", json=claims).raise_for_status()


def write_sign_in(home: Path, issuer: str, url: str) -> None:
    """Sets [sign_in] of a home, and the address that people open."""
    file = home / SETTINGS_FILE
    (home / "client.secret").write_text(SECRET + "\n")
    groups = ", ".join(f'"{name}" = "{grant}"' for name, grant in GROUPS.items())
    section = f"""[sign_in]
issuer = "{issuer}"
name = "Example ID"
client_id = "{CLIENT}"
client_secret_file = "client.secret"
groups = {{ {groups} }}
"""
    text = file.read_text().replace("[sign_in]\n", section)
    file.write_text(text.replace('# public_url = ""', f'public_url = "{url}"'))


SAME_SITE = {"sec-fetch-site": "same-origin"}
"""As a browser marks the calls of our own pages."""


class Browser(httpx.Client):
    """Keeps cookies of one service."""

    def __init__(self, url: str) -> None:
        super().__init__(base_url=url, timeout=60)

    def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """As a page of the console calls."""
        return self.request(method, path, json=body, headers=SAME_SITE)

    def put_back(self, cookies: dict[str, str]) -> None:
        self.cookies.clear()
        self.cookies.update(cookies)

    def begin(self) -> str:
        """Where the service sends the browser."""
        answer = self.get("/console/sign-in")
        assert answer.status_code == 303
        return answer.headers["location"]

    def consent(self, address: str, subject: str) -> str:
        """Signs in at the provider; the way back to the service."""
        answer = httpx.post(address, data={"sub": subject})
        assert answer.status_code == 302, answer.text
        return answer.headers["location"]

    def sign_in(self, subject: str) -> httpx.Response:
        """The whole way; the answer of the service to whoever comes back."""
        return self.get(self.consent(self.begin(), subject))
