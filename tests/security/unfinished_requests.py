"""Requests whose bodies never come whole, over plain sockets."""

import secrets
import socket
import string

MADE_UP = string.digits + string.ascii_lowercase
WAIT_S = 60.0


def make_up_key() -> str:
    """A key of the right form that nobody has issued."""
    key_id, secret = (
        "".join(secrets.choice(MADE_UP) for _ in range(length)) for length in (12, 43)
    )
    return f"sosie_{key_id}_{secret}"


def begin(
    key: str | None,
    path: str = "/v1/enrollments",
    *,
    method: str = "POST",
    size_bytes: int = 400_000,
    headers: tuple[str, ...] = (),
) -> bytes:
    """The head of a request and the first byte of its body."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: sosie",
        "Idempotency-Key: unfinished",
        "Content-Type: application/json",
        f"Content-Length: {size_bytes}",
        *([] if key is None else [f"Authorization: Bearer {key}"]),
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n{"


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer, after which the connection has to be closed."""
    connection.settimeout(WAIT_S)
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    top, _, body = received.partition(b"\r\n\r\n")
    first, *lines = top.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]) if first else 0, headers, body


def exchange(port: int, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """What comes back until the other side closes; the body is left as it is."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection:
        connection.sendall(sent)
        return read_answer(connection)
