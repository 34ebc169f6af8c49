"""Figures of a made-up machine."""

import pytest

from engine.capacity.figures import USUAL, MeasuredMachine, PlanFigures
from engine.capacity.model import Affine, Costs, Node

MACHINE = MeasuredMachine("Test", 2, 24 << 30)


@pytest.fixture
def figures() -> PlanFigures:
    """All of them assumed."""
    return PlanFigures(MACHINE, USUAL, {})


@pytest.fixture
def node() -> Node:
    return Node(cores=16, memory_bytes=128 << 30, bandwidth_bytes_s=100e9)


@pytest.fixture
def costs() -> Costs:
    """Round numbers: 3 + 22 ms of photographs, 2 ms of HTTP, 4 + 0.5 ms of the writer."""
    return Costs(
        photographs=Affine(0.003, 0.022),
        http_s=0.002,
        decision=Affine(0.004, 0.0005),
        stream_s=8e-9,
        probe_s=0.6e-9,
        code_bytes=128,
        fan_out_s=0.003,
        hop_s=0.002,
        decision_spread=0.25,
        scan_spread=0.17,
    )
