"""How long each part of an orderly stop may take, so that the whole is what its parts add up to."""

from __future__ import annotations

SAVE_S = 30.0
"""For the registrar to end what it decides and to save its gallery: seconds for a million."""

END_S = 20.0
"""For Serve and Ray to end their processes."""

MARGIN_S = 10.0
"""Before the supervisor takes a node for stuck."""


def registrar_timeout_s(drain_s: float) -> float:
    """What Serve gives the registrar, and with it the application, to end."""
    return drain_s + SAVE_S


def node_timeout_s(drain_s: float) -> float:
    """A whole stop: the proxies drain, the application ends, then Serve and Ray do."""
    return drain_s + registrar_timeout_s(drain_s) + END_S


def supervisor_timeout_s(drain_s: float) -> float:
    """After so long the supervisor kills what is left. TimeoutStopSec of systemd is above it."""
    return node_timeout_s(drain_s) + MARGIN_S
